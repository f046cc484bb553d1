"""What a user would lose: images that are what their files say, every one seen once an epoch, the same order again."""

import gzip
import struct
import time
import tracemalloc
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tricnn.system.errors import DataError
from tricnn.training import idx_sources
from tricnn.training.batch_sources import batches_per_epoch
from tricnn.training.chance import order
from tricnn.training.data import (
    LOADERS,
    Dataset,
    batches,
    evaluation_batches,
    load_dataset,
    resize,
    shifted,
)
from tricnn.training.idx import read_idx
from tricnn.training.idx_sources import DEBIAN, PARTS

RNG = np.random.default_rng(0)


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tiny_set(train=10, test=4):
    arrays = {}
    for part, n in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = RNG.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    return arrays


def write_set(folder, arrays, compressed):
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in arrays.items():
        content = idx_bytes(array)
        name = part + ".gz" if compressed else part
        (folder / name).write_bytes(gzip.compress(content) if compressed else content)
    return folder


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine with no data set, no variable and no network."""
    monkeypatch.setattr(idx_sources, "DEBIAN", tmp_path / "no-datasets")
    monkeypatch.delenv("TRICNN_DATA", raising=False)
    monkeypatch.delenv("TRICNN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


# --- IDX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_is_read_plain_or_gzipped_whatever_its_name(tmp_path, compressed):
    array = RNG.integers(0, 256, (3, 5, 7)).astype(np.uint8)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(idx_bytes(array)) if compressed else idx_bytes(array))
    assert np.array_equal(read_idx(path, 3), array)


WHOLE = idx_bytes(np.zeros((4, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "found an empty file"),
        (b"\x89PNG\r\n\x1a\n", "begins 00 00 08 03.*found 89 50 4e 47"),
        (idx_bytes(np.zeros(4, np.uint8)), "found 00 00 08 01"),  # labels where images should be
        (b"\0\0\x0d\x03" + WHOLE[4:], "found 00 00 0d 03"),  # floats
        (WHOLE[:9], "expected 3 sizes.*found 1"),
        (WHOLE[:-3], "expected 16 bytes of data.*found only 13"),
        (WHOLE + b"\0", "expected 16 bytes of data.*found more"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0" * 9, "expected between 1 and"),  # would be 8e28 bytes
        (b"\0\0\x08\x03" + b"\0" * 12, "expected between 1 and"),
        (gzip.compress(WHOLE)[:-9], "truncated"),
        (gzip.compress(WHOLE)[:12], "truncated"),
        (gzip.compress(WHOLE)[:-8] + b"\1" * 8, "damaged"),
    ],
    ids=range(12),
)
def test_damaged_idx_is_refused_by_name(tmp_path, content, says):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read_idx(path, 3)
    assert str(path) in one_line(error)


def test_unreadable_idx_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "none", 3)


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("by_variable", [True, False])
def test_idx_sets_are_found_where_the_user_says(nowhere, monkeypatch, tmp_path, nested, compressed, by_variable):
    arrays = tiny_set()
    write_set(tmp_path / "d" / "mnist" if nested else tmp_path / "d", arrays, compressed)
    if by_variable:
        monkeypatch.setenv("TRICNN_DATA", str(tmp_path / "d"))
    dataset = load_dataset("mnist", None if by_variable else tmp_path / "d")
    assert np.array_equal(dataset.train_images[:, 0], arrays[PARTS[0]])
    assert np.array_equal(dataset.test_labels, arrays[PARTS[3]])
    assert dataset.test_labels.dtype == np.int64


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_what_cannot_be_had_is_said_once_with_three_ways(nowhere, tmp_path, name):
    with pytest.raises(DataError) as error:
        load_dataset(name)
    text = one_line(error)
    for way in ("(1)", "(2)", "(3)", "--data-dir", "$TRICNN_DATA", "http", "Name or service not known"):
        assert way in text
    assert ("apt-get install dataset-fashion-mnist" in text) == (name == "fashion-mnist")


def test_half_a_set_is_not_taken_for_one(nowhere, tmp_path):
    folder = write_set(tmp_path / "d", tiny_set(), compressed=True)
    (folder / (PARTS[3] + ".gz")).unlink()
    with pytest.raises(DataError, match=f"missing {PARTS[3]}"):
        load_dataset("mnist", folder)


def test_labels_that_are_not_one_per_image_are_refused(nowhere, tmp_path):
    arrays = tiny_set()
    arrays[PARTS[1]] = arrays[PARTS[1]][:-1]
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: expected 10 labels, one per image, found 9"):
        load_dataset("mnist", write_set(tmp_path / "d", arrays, compressed=False))


def test_a_folder_that_does_not_exist_is_named(nowhere, tmp_path):
    with pytest.raises(DataError, match="none does not exist"):
        load_dataset("mnist", tmp_path / "none")


def serve(monkeypatch, contents):
    import io

    asked = []

    def open_url(url, timeout):
        assert 0 < timeout <= 60
        asked.append(url)
        content = contents.get(url.rsplit("/", 1)[1])
        if content is None:
            raise urllib.error.URLError("not found")
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    return asked


def test_a_download_is_checked_kept_and_not_repeated(nowhere, monkeypatch, tmp_path):
    import dataclasses
    import hashlib

    arrays = tiny_set()
    contents = {part + ".gz": gzip.compress(idx_bytes(array)) for part, array in arrays.items()}
    md5 = {part: hashlib.md5(contents[part + ".gz"]).hexdigest() for part in PARTS}
    monkeypatch.setitem(idx_sources.SOURCES, "mnist", dataclasses.replace(idx_sources.SOURCES["mnist"], md5=md5))
    asked = serve(monkeypatch, contents)
    notes = []
    first = load_dataset("mnist", note=notes.append)
    assert len(asked) == 4 and len(notes) == 1 and "downloading mnist" in notes[0]
    assert load_dataset("mnist").fingerprint == first.fingerprint
    assert len(asked) == 4

    serve(monkeypatch, contents | {PARTS[2] + ".gz": contents[PARTS[2] + ".gz"][:-1]})
    monkeypatch.setenv("TRICNN_DATA", str(tmp_path / "other"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: expected MD5"):
        load_dataset("mnist")
    assert not (tmp_path / "other" / "mnist").exists()


def a_set_on_its_site(monkeypatch, arrays):
    import dataclasses
    import hashlib

    contents = {part + ".gz": gzip.compress(idx_bytes(array)) for part, array in arrays.items()}
    md5 = {part: hashlib.md5(contents[part + ".gz"]).hexdigest() for part in PARTS}
    monkeypatch.setitem(idx_sources.SOURCES, "mnist", dataclasses.replace(idx_sources.SOURCES["mnist"], md5=md5))
    return serve(monkeypatch, contents)


def test_three_that_fetch_a_set_at_once_all_have_it_and_one_downloads(nowhere, monkeypatch, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    asked = a_set_on_its_site(monkeypatch, tiny_set())
    at_once = idx_sources._fetch

    def slowly(*given):
        time.sleep(0.1)
        return at_once(*given)

    monkeypatch.setattr(idx_sources, "_fetch", slowly)
    notes = []
    with ThreadPoolExecutor(3) as pool:  # a lock is one opening's, so threads contend for it as processes do
        found = list(pool.map(lambda _: load_dataset("mnist", note=notes.append).fingerprint, range(3)))
    assert len(set(found)) == 1 and len(asked) == 4
    assert sum("waiting" in note for note in notes) == 2
    assert sorted(p.name for p in (tmp_path / "cache/tricnn/data").iterdir()) == ["mnist"]


def test_a_folder_that_holds_something_else_already_takes_the_download(nowhere, monkeypatch, tmp_path):
    a_set_on_its_site(monkeypatch, tiny_set())
    folder = tmp_path / "cache/tricnn/data/mnist"
    folder.mkdir(parents=True)
    (folder / "README").write_text("mine")
    load_dataset("mnist")
    assert (folder / "README").read_text() == "mine" and len(list(folder.iterdir())) == 5


def test_a_place_that_cannot_be_written_is_said_before_the_download(nowhere, monkeypatch, tmp_path):
    asked = a_set_on_its_site(monkeypatch, tiny_set())
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"data/mnist: cannot be written \(Not a directory\)") as error:
        load_dataset("mnist")
    assert one_line(error) and not asked


def test_without_a_home_or_an_account_data_are_read_and_not_downloaded(nowhere, monkeypatch, tmp_path):
    import pwd

    def absent(_):
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", absent)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert len(load_dataset("mnist", write_set(tmp_path / "given", tiny_set(), False))) == 10
    with pytest.raises(DataError, match="no home folder to keep it in") as error:
        load_dataset("mnist")
    assert "three ways" in one_line(error)


@pytest.mark.parametrize("shape", [(1 << 28,), ((1 << 31) - 1,), (1 << 28, 1, 1), (1 << 16, 1 << 10, 1 << 5)])
def test_a_header_that_asks_for_gigabytes_is_refused_before_they_are_read(tmp_path, shape):
    """A few bytes on disk: the rest of the file is a hole."""
    path = tmp_path / "bomb"
    with open(path, "wb") as file:
        file.write(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape))
        file.truncate(4 + 4 * len(shape) + int(np.prod(shape, dtype=np.int64)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"at most 16777216 images or labels, found a header of shape"):
        read_idx(path, len(shape))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_unknown_names_list_the_known():
    with pytest.raises(DataError, match="'cifar' is unknown; known are digits, fashion-mnist, mnist"):
        load_dataset("cifar")


# --- the sets themselves --------------------------------------------------------------------------------------------


def test_digits_are_split_once_for_all_and_normalised():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    assert dataset.image_shape == (1, 28, 28) and dataset.num_classes == 10
    assert len(dataset) == 1500 and len(dataset.test_images) == 297
    assert len(np.unique(np.concatenate([dataset.train_images, dataset.test_images]), axis=0)) > 1700
    assert np.array_equal(
        np.bincount(np.concatenate([dataset.train_labels, dataset.test_labels])), np.bincount(load_digits().target)
    )
    assert dataset.fingerprint == load_dataset("digits").fingerprint
    x = dataset.prepare(dataset.train_images)
    assert abs(x.mean()) < 0.005 and abs(x.std() - 1) < 0.005
    assert x.dtype == np.float32


@pytest.mark.skipif(not (DEBIAN / "fashion-mnist").is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_is_what_its_paper_says(monkeypatch):
    monkeypatch.delenv("TRICNN_DATA", raising=False)
    dataset = load_dataset("fashion-mnist")
    assert dataset.train_images.shape == (60000, 1, 28, 28) and dataset.test_images.shape == (10000, 1, 28, 28)
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.train_labels[0] == 9  # the figure everyone knows: the first image is an ankle boot
    pixels = dataset.train_images / 255
    assert abs(pixels.mean() - dataset.mean) < 5e-4 and abs(pixels.std() - dataset.std) < 5e-4


def test_every_known_set_has_a_loader_and_every_idx_set_a_source():
    assert set(idx_sources.SOURCES) == set(LOADERS) - {"digits"}
    for source in idx_sources.SOURCES.values():
        assert set(source.md5) == set(PARTS)


# --- batches --------------------------------------------------------------------------------------------------------


def toy(n=23, **given):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    return Dataset("toy", images, np.arange(n) % 7, images[:5], np.arange(5), 7, **given)


def test_an_epoch_sees_every_image_once():
    dataset = toy()
    seen = [np.rint(x[:, 0, 0, 0] * 255).astype(int) for x, _ in batches(dataset, 5, seed=1, epoch=0)]
    assert [len(x) for x in seen] == [5, 5, 5, 5, 3] and batches_per_epoch(dataset, 5) == 5
    assert sorted(np.concatenate(seen)) == list(range(23))
    for x, labels in batches(dataset, 5, 1, 0):
        assert np.array_equal(np.rint(x[:, 0, 0, 0] * 255).astype(int) % 7, labels)


def test_the_order_is_the_seeds_and_the_epochs_alone():
    assert np.array_equal(order(100, 1, 0), order(100, 1, 0))
    assert len({tuple(order(100, seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25
    # Each position holds each image about equally often: chi-squared with 19·19 degrees of freedom.
    counts = np.zeros((20, 20))
    for epoch in range(2000):
        counts[np.arange(20), order(20, 3, epoch)] += 1
    chi = ((counts - 100) ** 2 / 100).sum()
    assert abs(chi - 361) < 5 * np.sqrt(2 * 361)


@pytest.mark.parametrize("shift", [0, 2])
def test_an_epoch_taken_up_in_its_middle_goes_on_with_the_same_batches(shift):
    dataset = toy()
    whole = list(batches(dataset, 4, 5, 2, shift=shift))
    for start in range(len(whole) + 1):
        rest = list(batches(dataset, 4, 5, 2, start=start, shift=shift))
        assert len(rest) == len(whole) - start
        assert all(np.array_equal(a, b) for r, w in zip(rest, whole[start:]) for a, b in zip(r, w))


def test_evaluation_takes_the_test_images_in_order():
    labels = np.concatenate([labels for _, labels in evaluation_batches(toy(), 2)])
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_shifts_move_whole_images_and_leave_black():
    images = RNG.integers(1, 256, (3, 2, 5, 6)).astype(np.uint8)
    moves = np.array([[0, 0], [2, -1], [-1, 2]])
    out = shifted(images, moves)
    for n, (dy, dx) in enumerate(moves):
        for y in range(5):
            for x in range(6):
                inside = 0 <= y - dy < 5 and 0 <= x - dx < 6
                assert np.array_equal(out[n, :, y, x], images[n, :, y - dy, x - dx] if inside else [0, 0])


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (17, 40), (5, 3)])
def test_resizing_agrees_with_pytorch_and_pillow(size):
    image = RNG.random((2, 20, 31, 3)).astype(np.float32)
    ours = resize(image, size)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(image).permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    # A pixel's centre, up to 31, rounded to float32 moves its weights by as much; twice, for the two axes.
    tolerance = 2 * 31 * np.finfo(np.float32).eps
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=tolerance)
    pillow = Image.fromarray(image[0, :, :, 0], mode="F").resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours[0, :, :, 0], np.asarray(pillow), atol=tolerance)


def test_gray_images_serve_networks_of_other_shapes():
    plain, other = toy(), toy(image_size=(9, 6), channels=3)
    assert plain.image_shape == (1, 4, 4) and other.image_shape == (3, 9, 6)
    x = other.prepare(other.train_images[:2])
    assert x.shape == (2, 3, 9, 6) and x.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_allclose(x[1], 1 / 255, rtol=1e-6)


def test_bytes_and_floats_prepare_alike():
    images = RNG.integers(0, 256, (3, 1, 4, 4)).astype(np.uint8)
    dataset = toy(mean=0.3, std=0.2)
    floats = replace(dataset, train_images=dataset.train_images / 255, test_images=dataset.test_images / 255)
    np.testing.assert_allclose(dataset.prepare(images), floats.prepare(images / 255), rtol=1e-6)


ONE_NAN = np.where(np.arange(6)[:, None, None, None] == 4, np.nan, np.ones((6, 2, 3, 3)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_images": ONE_NAN}, "training set: image 4 contains NaN or infinity"),
        ({"test_images": np.full((2, 1, 3, 3), np.inf)}, "test set: image 0 contains NaN"),
        ({"train_labels": np.arange(6)}, "expected labels 0 to 4, found 5"),
        ({"train_labels": np.array([0, 1, 2, -1, 4, 4])}, "expected labels 0 to 4, found -1"),
        ({"train_labels": np.arange(5)}, "expected 6 labels"),
        ({"train_images": np.ones((6, 3, 3))}, r"expected images \[N, C, H, W\]"),
        ({"channels": 1}, "its images have 2 channels, the network takes 1"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(change, says):
    given = {
        "name": "given",
        "train_images": np.ones((6, 2, 3, 3)),
        "train_labels": np.arange(6) % 5,
        "test_images": np.ones((2, 2, 3, 3)),
        "test_labels": np.arange(2),
        "num_classes": 5,
    }
    with pytest.raises(DataError, match=says) as error:
        Dataset(**given | change)
    assert one_line(error).startswith("given")


# --- what pixels are --------------------------------------------------------------------------------------------------

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def colours(dtype, **options):
    """Random images of three channels in 0..255 as bytes, in 0..1 as floats."""
    pixels = np.random.default_rng(3).integers(0, 256, (6, 3, 4, 5))
    images = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)
    return Dataset("colours", images, np.arange(6) % 2, images[:2], np.arange(2), 2, **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_each_channel_has_its_own_mean_and_deviation(dtype):
    """As PyTorch's Normalize has it, of bytes and of the floats of 0 to 1 that ToTensor makes."""
    dataset = colours(dtype, mean=MEAN, std=list(STD))
    x = dataset.prepare(dataset.train_images)
    pixels = torch.as_tensor(colours(np.uint8).train_images).double() / 255
    wanted = (pixels - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[:, None, None]
    assert x.dtype == np.float32 and x.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_allclose(x, wanted.numpy(), rtol=0, atol=1e-6)


def test_a_mean_for_all_channels_is_the_same_as_one_for_each():
    one, each = colours(np.uint8, mean=0.4, std=0.2), colours(np.uint8, mean=[0.4] * 3, std=np.array([0.2] * 3))
    np.testing.assert_array_equal(one.prepare(one.train_images), each.prepare(each.train_images))


def test_a_scale_says_what_white_is():
    """Sixteen bits, and floats of 0 to 255, where they are said to be that."""
    plain = colours(np.uint8)
    wanted = plain.prepare(plain.train_images)
    for images, scale in ((plain.train_images.astype(np.uint16) * 257, 65535), (plain.train_images * 1.0, 255)):
        other = Dataset("other", images, np.arange(6) % 2, images, np.arange(6) % 2, 2, scale=scale)
        np.testing.assert_allclose(other.prepare(images), wanted, rtol=0, atol=1e-7)


BYTES = colours(np.uint8).train_images


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"train_images": BYTES * 1.0, "test_images": BYTES * 1.0},
            "floats up to 25[0-9]; accepted: bytes .* scale=255",
        ),
        ({"train_images": BYTES.astype(np.int64)}, "pixels of type int64; accepted: bytes"),
        ({"test_images": BYTES / 255}, "its training images are uint8, its test images float64"),
        ({"mean": (0.1, 0.2)}, r"mean=\(0.1, 0.2\) is not a number or one for each of 3 channels, finite"),
        ({"mean": "0.5"}, "mean='0.5' is not a number"),
        ({"mean": np.nan}, "mean=nan is not a number"),
        ({"std": (0.1, 0.2, 0.0)}, ".* one for each of 3 channels, above 0"),
        ({"std": -1.0}, "std=-1.0 is not a number or one for each of 3 channels, above 0"),
        ({"scale": 0.0}, "scale=0.0 is not a number above 0"),
    ],
)
def test_pixels_that_do_not_say_what_they_are_are_refused(change, says):
    given = {"train_images": BYTES, "train_labels": np.arange(6) % 2, "test_images": BYTES,
             "test_labels": np.arange(6) % 2, "num_classes": 2}  # fmt: skip
    with pytest.raises(DataError, match=f"^given: {says}") as error:
        Dataset("given", **given | change)
    assert "\n" not in str(error.value)
