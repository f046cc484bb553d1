"""Data sets that hand over bytes to networks that normalise them: the same training, a quarter of the bytes to move."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tricnn
from tricnn.cli.command_line import run
from tricnn.ir import GraphBuilder, of_bytes
from tricnn.system.errors import DataError, TricnnError
from tricnn.training import Augmentation, Dataset, PictureFolder, Synthetic, Trainer, TrainOptions
from tricnn.training.batch_sources import suited

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")  # so little is learned from so few
OPTIONS = TrainOptions(epochs=1, batch=4, lr=0.05, shift=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for i in range(count):
            where = root / part / "ab"[i % 2]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(where / f"{i}.png")
    return root


def arrays(**given):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(12) % 2
    spread = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    return Dataset("arrays", images[:8], labels[:8], images[8:], labels[8:], **{"num_classes": 2, **spread, **given})


def network():
    b = GraphBuilder("net")
    x = b.relu(b.conv2d(b.input("x", (3, 8, 8)), 4, 3, padding=1, name="c"))
    return b.build(b.linear(b.global_avg_pool(x), 2, name="fc"))


def sources(folder):
    varied = Augmentation(trivial=True, erasing=0.5)
    return {
        "arrays": arrays(),
        "scaled by 127": arrays(scale=127.0, mean=0.5, std=2.0),
        "a folder": PictureFolder(folder, (8, 8), 3, varied, workers=0),
    }


@pytest.mark.parametrize("name", ["arrays", "scaled by 127", "a folder"])
def test_a_network_on_bytes_trains_as_one_on_images_that_were_normalised(name, folder):
    """Its batches are the bytes, and normalised by ``normalisation`` they are what floats would have been."""
    data, options = sources(folder)[name], replace(OPTIONS, shift=1, cutmix=0.0)
    bytes_ = replace(data, as_bytes=True)
    mean, std = (np.reshape(v, (-1, 1, 1)) for v in data.normalisation)
    pairs = [
        *zip(bytes_.training(options, 0), data.training(options, 0), strict=True),
        *zip(bytes_.evaluation(4), data.evaluation(4), strict=True),
    ]
    for (x, labels), (y, same) in pairs:
        assert x.dtype == np.uint8 and x.strides[1] == 1 and y.dtype == np.float32
        np.testing.assert_allclose((x / 255 - mean) / std, y, atol=2e-6)
        np.testing.assert_array_equal(labels, same)
    found = [
        Trainer(tricnn.compile(g, "train", 4, executor="numpy"), data, options).fit()
        for g in (network(), of_bytes(network(), *data.normalisation))
    ]
    assert found[0].train_loss == pytest.approx(found[1].train_loss, rel=1e-5)
    assert found[0].test_accuracy == found[1].test_accuracy


def test_cutmix_keeps_bytes_and_what_gives_other_numbers_is_refused_before_it_begins(folder):
    graph = of_bytes(network(), *arrays().normalisation)
    model = tricnn.compile(graph, "train", 4, executor="numpy", loss=tricnn.Loss(mixed=True))
    assert np.isfinite(Trainer(model, arrays(), replace(OPTIONS, cutmix=1.0)).fit().train_loss)
    with pytest.raises(TricnnError, match="net takes images of bytes, and mixup gives others: cutmix keeps them bytes"):
        Trainer(model, arrays(), replace(OPTIONS, mixup=0.2)).fit()
    floats = Dataset("floats", *(x / np.float32(255) if x.ndim == 4 else x for x in (
        arrays().train_images, arrays().train_labels, arrays().test_images, arrays().test_labels)), 2)  # fmt: skip
    for source in (floats, arrays(image_size=(6, 6)), PictureFolder(folder, (8, 8), 3, transform=np.asarray)):
        assert source.normalisation is None
        with pytest.raises(DataError, match="net takes images of bytes, and these are none"):
            suited(source, graph, 0.0)
        with pytest.raises(DataError, match="as_bytes is for"):
            replace(source, as_bytes=True)
    assert suited(floats, network(), 0.0) is floats
    x, _ = next(suited(Synthetic((3, 8, 8)), graph, 0.0).training(OPTIONS, 0))
    assert x.dtype == np.uint8 and x.max() > 250


def test_the_command_line_trains_on_bytes_and_says_where_it_cannot(folder, capsys):
    train = ["train", "lenet", "--input", "3,28,28", "--data", str(folder), "--epochs", "1", "--batch", "4",
             "--workers", "0", "--executor", "numpy", "--json"]  # fmt: skip
    assert run([*train, "--images", "bytes"]) == 0
    assert run([*train, "--images", "bytes", "--mixup", "0.2"]) == 2
    assert "--images bytes: --mixup gives images that are no bytes; --cutmix keeps them" in capsys.readouterr().err
    assert run(["show", "lenet", "--images", "bytes", "--text"]) == 0
    assert 'x = input(shape=[N, 1, 28, 28], dtype="uint8")' in capsys.readouterr().out


def test_pictures_are_pinned_where_a_gpu_takes_them_as_they_come(folder):
    """Not where there is none, and not where they are normalised on the way, into other memory."""
    source = PictureFolder(folder, (8, 8), 3, workers=0)
    on_bytes = of_bytes(network(), *source.normalisation)
    own = replace(source, transform=lambda image: np.zeros((8, 8, 3), np.uint8))

    def pinned(source, graph, device):
        chosen = suited(source, graph, 0.0, device)
        loader = chosen.loader([None], range(1)) if hasattr(chosen, "loader") else None
        assert loader is None or loader.pin_memory == chosen.pinned
        return getattr(chosen, "pinned", False)

    assert pinned(source, on_bytes, "cuda") and pinned(own, network(), "cuda")
    assert not pinned(source, network(), "cuda")
    assert not any(pinned(s, g, "cpu") for s, g in ((source, on_bytes), (own, network()), (source, network())))
    assert not pinned(arrays(), on_bytes, "cuda") and not source.pinned
    assert suited(source, on_bytes, 0.0, "cuda").settings() == source.settings()
    assert tricnn.compile(network(), "train", 4, executor="numpy").device == "cpu"
