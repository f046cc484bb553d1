"""What a user would lose: sets of one's own in IDX files, of any number of classes, from a folder."""

import gzip
import json

import numpy as np
import pytest

from tests.training.test_data import idx_bytes
from tricnn.cli import main
from tricnn.system.errors import DataError
from tricnn.training import load_dataset

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")  # so little is learned from so few
CLASSES = 37
RNG = np.random.default_rng(0)


def letters(folder, size=(12, 9), test="test", prefix="emnist-letters-"):
    """A set as EMNIST's are called and lie: labels from 1 on, some files gzipped."""
    folder.mkdir()
    arrays = {}
    for part, count in (("train", 60), (test, 40)):
        arrays[f"{part}-images-idx3-ubyte"] = RNG.integers(0, 200, (count, *size)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = (1 + np.arange(count) % (CLASSES - 1)).astype(np.uint8)
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / f"{prefix}{name}").write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder, list(arrays.values())


@pytest.mark.parametrize(("test", "prefix"), [("test", "emnist-letters-"), ("t10k", "")])
def test_a_folder_is_read_with_its_own_classes_mean_and_deviation(tmp_path, test, prefix):
    folder, (images, labels, test_images, test_labels) = letters(tmp_path / "letters", test=test, prefix=prefix)
    data = load_dataset(str(folder))
    assert (data.name, data.num_classes, data.image_shape) == ("letters", CLASSES, (1, 12, 9))
    for found, expected in zip(
        (data.train_images[:, 0], data.train_labels, data.test_images[:, 0], data.test_labels),
        (images, labels, test_images, test_labels),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose([data.mean, data.std], [(images / 255).mean(), (images / 255).std()], rtol=1e-12)


def test_a_network_is_trained_on_it(tmp_path, capsys):
    folder, _ = letters(tmp_path / "letters")
    status = main(["train", "lenet", "--data", str(folder), "--epochs", "1", "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert json.loads(out)["data"] == "letters"


def test_what_is_missing_or_of_another_set_is_named(tmp_path, capsys):
    folder, _ = letters(tmp_path / "letters")
    other = folder / "emnist-digits-test-images-idx3-ubyte"
    other.write_bytes(b"")
    with pytest.raises(DataError, match=r"found emnist-digits-test-images.* and emnist-letters-test-images"):
        load_dataset(str(folder))
    other.unlink()
    (folder / "emnist-letters-train-labels-idx1-ubyte.gz").unlink()
    assert main(["train", "lenet", "--data", str(folder)]) == 2
    assert "found 3; missing train-labels-idx1-ubyte" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"is unknown; known are .*, and folders with four IDX files"):
        load_dataset(str(tmp_path / "none"))
    assert main(["train", "lenet", "--data", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_an_image_of_one_gray_divides_by_one(tmp_path):
    folder, (images, *_) = letters(tmp_path / "letters")
    (folder / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx_bytes(np.full_like(images, 51)))
    data = load_dataset(str(folder))
    assert (data.mean, data.std) == (0.2, 1.0)
