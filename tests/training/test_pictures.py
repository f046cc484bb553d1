"""What a user would lose: a folder of pictures that trains, to the same bits however many processes read it and however
often the run is taken up again, and that says which pictures cannot be read."""

import io
import math
import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.training.fake import CLASSES, OPTIONS, SoftmaxRegression
from tricnn.system.errors import DataError
from tricnn.training.augment import (
    OPERATIONS,
    Augmentation,
    centred,
    erased,
    operated,
    padded_crop,
    random_part,
)
from tricnn.training.batch_sources import Batches, Synthetic
from tricnn.training.chance import generator
from tricnn.training.loop import train
from tricnn.training.pictures import PictureFolder
from tricnn.training.processes import Processes

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")  # so little is learned from so few
ALL = Augmentation(trivial=True, erasing=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """14 training and 6 test pictures of 4 classes, each with a bright corner, of several sizes and two formats."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 14), ("val", 6)):
        for i in range(count):
            label = i % CLASSES
            pixels = rng.integers(0, 90, (12 + i % 3, 14, 3)).astype(np.uint8)
            pixels[7 * (label // 2) :, 7 * (label % 2) :][:7, :7] += 100
            where = root / part / "abcd"[label]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(where / f"{i}.{'png' if i % 2 else 'ppm'}")
    return root


def source(folder, **given):
    return PictureFolder(folder, **{"image_size": (6, 6), "channels": 1, "workers": 0, **given})


def epoch_of(made, epoch=0, start=0, options=OPTIONS):
    return list(made.training(options, epoch, start))


def equal(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


def test_any_number_of_workers_and_any_start_give_the_same_bits(folder):
    options = replace(OPTIONS, batch=5)
    alone = epoch_of(source(folder, augmentation=ALL), options=options)
    assert [len(x) for x, _ in alone] == [5, 5, 4] and alone[0][0].shape == (5, 1, 6, 6)
    assert equal(epoch_of(source(folder, augmentation=ALL, workers=2), options=options), alone)
    assert equal(epoch_of(source(folder, augmentation=ALL), start=2, options=options), alone[2:])
    assert not equal(epoch_of(source(folder, augmentation=ALL), 1, options=options), alone)
    assert not equal(epoch_of(source(folder, augmentation=ALL), options=replace(options, seed=6)), alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_share_each_batch_as_one_has_it(folder, workers):
    """To the bit, varied and all: 14 pictures in batches of 5, 5 and 4, of which three processes have their parts; and
    each test picture is one process's."""
    options = replace(OPTIONS, batch=5)
    ranks = [Processes(rank, 3) for rank in range(3)]
    varied = {"augmentation": ALL, "workers": workers}
    shares = [epoch_of(source(folder, **varied), options=replace(options, processes=rank)) for rank in ranks]
    assert [[len(labels) for _, labels in share] for share in shares] == [[2, 2, 2], [2, 2, 1], [1, 1, 1]]
    together = [tuple(map(np.concatenate, zip(*parts))) for parts in zip(*shares)]
    assert equal(together, epoch_of(source(folder, augmentation=ALL), options=options))
    tested = [list(source(folder, workers=workers).evaluation(4, rank)) for rank in ranks]
    found = sorted(image.tobytes() for share in tested for x, _ in share for image in x)
    assert found == sorted(image.tobytes() for x, _ in source(folder).evaluation(4) for image in x) and len(found) == 6


def test_every_picture_comes_once_an_epoch_under_its_class(folder):
    made = source(folder, augmentation=Augmentation(crop="none", flip=0))
    x, labels = (np.concatenate(parts) for parts in zip(*epoch_of(made)))
    assert sorted(labels) == sorted(i % CLASSES for i in range(14)) and made.classes == ("a", "b", "c", "d")
    corners = x.reshape(-1, 2, 3, 2, 3).mean(axis=(2, 4)).reshape(-1, 4)
    assert np.array_equal(corners.argmax(axis=1), labels)


def test_pixels_are_normalised_by_channel(tmp_path):
    colour = (10, 100, 250)
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 7), colour).save(tmp_path / part / name / "1.png")
    made = PictureFolder(tmp_path, (4, 4), 3, mean=(0.1, 0.2, 0.3), std=(1, 2, 4), workers=0)
    expected = [(c / 255 - m) / s for c, m, s in zip(colour, (0.1, 0.2, 0.3), (1, 2, 4))]
    for x, _ in (*made.evaluation(8), *made.training(OPTIONS, 0)):
        for c in range(3):
            np.testing.assert_allclose(x[:, c], expected[c], rtol=1e-6)


def test_sixteen_bits_are_the_nearest_eight_and_other_numbers_are_refused(tmp_path):
    """Of PNG, TIFF and PGM; Pillow's own conversion makes nearly everything white."""
    values = np.random.default_rng(0).integers(0, 65536, (4, 4)).astype(np.uint16)
    for part in ("train", "val"):
        for name, suffix in (("a", "png"), ("b", "tif"), ("c", "pgm")):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / part / name / f"1.{suffix}")
    made = PictureFolder(tmp_path, (4, 4), 1, mean=0, std=1, share=1, workers=0)
    ((x, _),) = made.evaluation(3)
    assert np.array_equal(np.rint(x * 255), np.broadcast_to(np.rint(values / 257), (3, 1, 4, 4)))
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "val" / "b" / "2.tif")
    with pytest.raises(DataError, match=r"val/b/2.tif: cannot be read as a picture \(its pixels are no bytes"):
        list(made.__class__(tmp_path, (4, 4), 1, workers=0).evaluation(4))


@pytest.mark.parametrize("after", [0, 3, 8])
def test_a_crash_and_resuming_with_workers_give_the_same_bits(folder, tmp_path, after):
    options = replace(OPTIONS, batch=4, shift=0)

    def run(made, resume=False, model=None):
        return train(model or SoftmaxRegression(), SoftmaxRegression(), made, options, tmp_path, resume)

    whole = train(SoftmaxRegression(), SoftmaxRegression(), source(folder, augmentation=ALL), options)
    dying = SoftmaxRegression(poison=after)  # its loss is NaN, which ends the run after the checkpoint before it
    with pytest.raises(Exception, match="the loss is nan"):
        run(source(folder, augmentation=ALL), model=dying)
    resumed = run(source(folder, augmentation=ALL, workers=2 if after == 3 else 0), resume=True)
    assert resumed.state_sha256 == whole.state_sha256
    record = resumed.history["epochs"][-1]
    assert 0 <= record["waiting_for_data"] <= 1


def test_a_picture_that_cannot_be_read_is_named_and_fatal_or_skipped(folder, tmp_path):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    victim = next((broken / "train" / "c").iterdir())
    victim.write_bytes(victim.read_bytes()[:40])
    (broken / "val" / "d" / "note.jpg").write_text("not a picture")
    with pytest.raises(DataError, match=rf"{victim.name}: cannot be read as a picture"):
        epoch_of(source(broken))
    for workers in (0, 2):
        made = source(broken, corrupt="skip", workers=workers)
        x, _ = zip(*epoch_of(made))
        assert sum(map(len, x)) == 14  # another one stands in
        (note,) = made.notes()
        assert made.skipped == 1 and note.path == f"train/c/{victim.name}" and note.reason and made.notes() == []
        assert sum(len(labels) for _, labels in made.evaluation(4)) == 6
        assert made.skipped == 2
    console = Console(file=io.StringIO(), width=200)
    made = source(broken, corrupt="skip")
    train(SoftmaxRegression(), SoftmaxRegression(), made, replace(OPTIONS, epochs=1), console=console)
    said = console.file.getvalue()
    assert victim.name in said and "note.jpg" in said and "waiting for data" in said


def test_links_and_folders_that_lead_nowhere_are_named(folder, tmp_path, monkeypatch):
    import shutil

    linked = shutil.copytree(folder, tmp_path / "linked")
    (linked / "train" / "b").rename(tmp_path / "b")
    (linked / "train" / "b").symlink_to(tmp_path / "b")
    assert len(source(linked)) == len(source(folder))  # links are followed
    (linked / "train" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"train/a/gone.png: cannot be read as a picture \(it is no file"):
        epoch_of(source(linked))
    made = source(linked, corrupt="skip")
    epoch_of(made)
    assert [note.path for note in made.notes()] == ["train/a/gone.png"]
    back = linked / "train" / "c" / "back"
    back.symlink_to(linked / "train")
    with pytest.raises(DataError, match="c/back: a link to a folder that it lies in"):
        len(source(linked))
    back.unlink()
    (linked / "train" / "c" / "locked").mkdir()
    listed = os.scandir

    def denied(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may list everything
    with pytest.raises(DataError, match=r"c/locked: cannot be listed \(Permission denied\)"):
        len(source(linked))


def test_folders_that_are_not_so_laid_out_are_refused_in_a_line(folder, tmp_path):
    with pytest.raises(DataError, match="expected FOLDER/train/CLASS"):
        len(source(tmp_path))
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="at least 2, found 1"):
        len(source(tmp_path))
    (tmp_path / "train" / "b").mkdir()
    with pytest.raises(DataError, match="there are no pictures"):
        len(source(tmp_path))
    for wrong in ({"corrupt": "hide"}, {"channels": 4}, {"std": 0.0}, {"mean": (1, 2)}, {"workers": -1}, {"share": 0}):
        with pytest.raises(DataError):
            source(folder, **wrong)
    for wrong in ({"crop": "round"}, {"flip": 2.0}, {"scale": (0.5, 0.1)}, {"padding": -1}):
        with pytest.raises(DataError):
            Augmentation(**wrong)


def foreign(image):
    """As torchvision's transforms do: random numbers from torch's, Python's and NumPy's global generators."""
    grays = torch.from_numpy(np.array(image.resize((6, 6))))[None]
    return grays.float() / 255 + torch.rand(1) + random.random() + np.random.rand()


def test_a_foreign_transform_is_seeded_for_each_picture(folder):
    before = torch.get_rng_state()
    alone = epoch_of(source(folder, transform=foreign))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert equal(epoch_of(source(folder, transform=foreign, workers=2)), alone)
    assert alone[0][0].dtype == np.float32 and alone[0][0].max() > 1
    x, _ = epoch_of(source(folder, transform=lambda image: image.resize((6, 6)), mean=0.0, std=1.0))[0]
    assert x.shape == (14, 1, 6, 6) and x.min() >= 0 and x.max() <= 1


@pytest.mark.compat
def test_transforms_of_torchvision_are_taken(folder):
    """Random ones, in any number of workers, to the same bits; another epoch draws others."""
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.RandomResizedCrop((6, 6)), v2.RandomHorizontalFlip()]
    normalised = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])])
    alone = epoch_of(source(folder, transform=normalised))
    assert equal(epoch_of(source(folder, transform=normalised, workers=2)), alone)
    assert alone[0][0].dtype == np.float32 and -2 <= alone[0][0].min() < 0 < alone[0][0].max() <= 2
    bytes_of_them = source(folder, transform=v2.Compose(steps), mean=0.5, std=0.25)
    np.testing.assert_allclose(epoch_of(bytes_of_them)[0][0], alone[0][0], atol=1e-5)
    assert not equal(epoch_of(source(folder, transform=normalised), 1), alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_of_the_wrong_size_is_refused_in_a_line(folder, workers):
    with pytest.raises(DataError) as error:
        epoch_of(source(folder, transform=lambda image: image, workers=workers))
    assert str(error.value).startswith("the transform gave torch.uint8[1, 1") and "\n" not in str(error.value)


# --- augmentation ---------------------------------------------------------------------------------------------------


def test_random_parts_have_areas_and_ratios_of_their_ranges():
    shares, shapes = [], []
    for i in range(400):
        left, top, w, h = random_part(500, 400, (0.08, 1.0), (3 / 4, 4 / 3), generator("test", i))
        assert left >= 0 and top >= 0 and left + w <= 500 and top + h <= 400
        shares.append(w * h / 200_000)
        shapes.append(math.log(w / h))
    assert min(shares) > 0.079 and max(shares) > 0.9 and min(shapes) > math.log(0.74) and max(shapes) < math.log(1.35)
    # Where nothing is refused both are uniform: their means are the middles of the ranges.
    small = [random_part(500, 400, (0.1, 0.3), (3 / 4, 4 / 3), generator("small", i)) for i in range(400)]
    spread = 0.2 / math.sqrt(12 * 400)
    assert np.mean([w * h / 200_000 for *_, w, h in small]) == pytest.approx(0.2, abs=5 * spread)
    assert np.mean([math.log(w / h) for *_, w, h in small]) == pytest.approx(0, abs=5 * spread * 2.9)
    assert random_part(100, 10, (0.9, 1.0), (3 / 4, 4 / 3), generator("wide")) == (43, 0, 13, 10)


def test_a_padded_crop_moves_the_picture_over_black():
    pixels = np.arange(1, 37, dtype=np.uint8).reshape(6, 6)
    seen = set()
    for i in range(300):
        out = np.array(padded_crop(Image.fromarray(pixels), 2, generator(i)))
        padded = np.pad(pixels, 2)
        found = [(y, x) for y in range(5) for x in range(5) if np.array_equal(padded[y : y + 6, x : x + 6], out)]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 25


def test_a_test_picture_is_the_middle_of_the_shorter_side():
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    assert np.array_equal(np.array(centred(Image.fromarray(wide), (8, 8))), np.full((8, 8, 3), 200))
    assert centred(Image.fromarray(wide), (7, 7), 0.875).size == (7, 7)


def test_erasing_paints_one_rectangle():
    pixels = np.zeros((20, 30, 3), np.uint8)
    erased(pixels, np.array([1, 2, 3], np.uint8), generator(0))
    rows, columns = np.nonzero(pixels[..., 0])
    assert 0.01 < len(rows) / 600 < 0.34
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert np.array_equal(pixels[rows[0], columns[0]], [1, 2, 3])


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_trivial_augment_do_nothing_at_strength_0_and_something_at_1(name):
    assert len(OPERATIONS) == 14  # Müller and Hutter 2021, table 2
    image = Image.fromarray(np.random.default_rng(0).integers(20, 230, (33, 37, 3)).astype(np.uint8))
    none, most = (np.array(operated(image, name, strength, negative=True)) for strength in (0.0, 1.0))
    if name not in ("AutoContrast", "Equalize"):
        assert np.array_equal(none, np.array(image))
    assert most.shape == (33, 37, 3) and np.array_equal(most, np.array(image)) == (name == "Identity")


# --- batches from elsewhere -----------------------------------------------------------------------------------------


def arrays(items):
    return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*items))


def test_any_iterable_of_batches_trains_and_resumes(tmp_path):
    rng = np.random.default_rng(0)
    given = [(rng.random((4, 1, 6, 6), np.float32), rng.integers(0, CLASSES, 4)) for _ in range(5)]
    options = replace(OPTIONS, shift=0)
    whole = train(SoftmaxRegression(), SoftmaxRegression(), Batches(given, given[:1], CLASSES), options)
    assert whole.steps == 3 * 5
    with pytest.raises(Exception, match="the loss is nan"):
        train(SoftmaxRegression(poison=7), SoftmaxRegression(), Batches(given, given[:1], CLASSES), options, tmp_path)
    resumed = train(
        SoftmaxRegression(), SoftmaxRegression(), Batches(given, given[:1], CLASSES), options, tmp_path, True
    )
    assert resumed.state_sha256 == whole.state_sha256
    data = torch.utils.data.TensorDataset(torch.rand(12, 1, 6, 6), torch.arange(12) % CLASSES)
    loaders = [torch.utils.data.DataLoader(data, 4, collate_fn=arrays) for _ in range(2)]
    assert train(SoftmaxRegression(), SoftmaxRegression(), Batches(*loaders), replace(options, epochs=1)).steps == 3


def test_iterables_that_cannot_be_gone_through_are_refused():
    given = [(np.zeros((2, 1, 6, 6), np.float32), np.zeros(2, np.int64))]
    with pytest.raises(DataError, match="needs batches=N"):
        Batches(iter(given), given)
    made = Batches(iter(given), given, CLASSES, batches=1)
    with pytest.raises(DataError, match="epoch 2 has 0 batches, not 1"):
        train(SoftmaxRegression(), SoftmaxRegression(), made, OPTIONS)


def test_noise_has_the_shape_that_is_asked_for():
    made = Synthetic((3, 5, 4), 7, 10)
    batches = epoch_of(made, options=replace(OPTIONS, batch=4))
    assert [x.shape for x, _ in batches] == [(4, 3, 5, 4), (4, 3, 5, 4), (2, 3, 5, 4)]
    assert all(labels.min() >= 0 and labels.max() < 7 for _, labels in batches)
