"""Data sets of images: load, normalise, shuffle, shift.

Everything that decides a batch's bits is a pure function: its images of (data set, seed, epoch, index), so a run that
was interrupted picks up the very batch it was at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..ir.ops.images import MOST_CHANNELS
from ..ir.wording import plural
from ..system.errors import DataError, shown
from .batch_sources import Batch, How, Normalisation
from .chance import generator, order
from .idx import read_idx
from .idx_sources import PARTS, find, parts_of_folder
from .processes import ALONE, Processes

Images = NDArray[Any]
Real = TypeVar("Real", np.float32, np.float64)
LARGEST_FLOAT = 16.0  # of pixels that may be of 0 to 1, or standardised; one of 0 to 255 has a larger one
SPLIT_SEED = 0  # of digits: which 297 of the 1797 images test


@dataclass(frozen=True)
class Dataset:
    """Images ``[N, C, H, W]``, labels ``[N]`` below ``num_classes``, and how to show them to a network.

    Images are divided by ``scale``, normalised by ``mean`` and ``std`` (one number, or one for each channel), resized
    to ``image_size`` and, gray images, repeated over ``channels``, where those are given.

    With ``as_bytes`` images are handed over as they are stored, for a network that normalises them
    (:func:`tricnn.of_bytes`), repeated over ``channels`` but neither normalised nor resized.

    ``scale`` is 255 for bytes and 1 for floats, which are of 0 to 1 as PyTorch's ``ToTensor`` makes them, unless it is
    given. Other integers, and floats beyond :data:`LARGEST_FLOAT`, need it: they do not say what white is.

    Raises DataError if images and labels do not fit each other, a pixel is NaN or infinite, or mean, std or scale are
    not of these images.
    """

    name: str
    train_images: Images
    train_labels: NDArray[np.int64]
    test_images: Images
    test_labels: NDArray[np.int64]
    num_classes: int
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    scale: float | None = None
    as_bytes: bool = False

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            where = f"{self.name}, {part} set"
            if images.ndim != 4 or not len(images):
                raise DataError(f"{where}: expected images [N, C, H, W], found shape {list(images.shape)}")
            if labels.shape != (len(images),):
                raise DataError(f"{where}: expected {len(images)} labels, found shape {list(labels.shape)}")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                bad = labels[(labels < 0) | (labels >= self.num_classes)][0]
                raise DataError(f"{where}: expected labels 0 to {self.num_classes - 1}, found {bad}")
            if images.dtype.kind == "f" and not np.isfinite(images).all():
                bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))[0]
                raise DataError(f"{where}: image {bad} contains NaN or infinity; all pixels must be finite")
        for name in ("mean", "std"):
            object.__setattr__(self, name, self._per_channel(name))
        _ = self.divisor  # raises DataError for pixels that do not say what white is
        if self.as_bytes and self.normalisation is None:
            raise DataError(f"{self.name}: as_bytes is for images of bytes (uint8) that need not be resized")
        if self.channels not in (None, self.train_images.shape[1]) and self.train_images.shape[1] != 1:
            raise DataError(
                f"{self.name}: its images have {plural(self.train_images.shape[1], 'channel')}, the network takes "
                f"{self.channels}"
            )

    def _per_channel(self, name: str) -> float | tuple[float, ...]:
        """``mean`` or ``std`` as a number, or a tuple with one for each channel."""
        stored, given = self.train_images.shape[1], np.asarray(getattr(self, name))
        least = "finite" if name == "mean" else "above 0"
        wanted = f"a number or one for each of {plural(stored, 'channel')}, {least}"
        fits = given.ndim == 0 or (given.ndim == 1 and len(given) == stored)
        if given.dtype.kind not in "fiu" or not fits or not np.isfinite(given).all():
            raise DataError(f"{self.name}: {name}={shown(getattr(self, name))} is not {wanted}")
        if name == "std" and (given <= 0).any():
            raise DataError(f"{self.name}: {name}={shown(getattr(self, name))} is not {wanted}")
        return float(given) if given.ndim == 0 else tuple(map(float, given))

    @cached_property
    def divisor(self) -> float:
        """What a stored pixel is divided by."""
        if self.scale is not None:
            if not 0 < self.scale < float("inf"):
                raise DataError(f"{self.name}: scale={shown(self.scale)} is not a number above 0")
            return float(self.scale)
        for images in (self.train_images, self.test_images):
            largest = float(np.abs(images).max()) if images.dtype.kind == "f" else 0.0
            if images.dtype != np.uint8 and (images.dtype.kind != "f" or largest > LARGEST_FLOAT):
                what = f"floats up to {largest:g}" if images.dtype.kind == "f" else f"pixels of type {images.dtype}"
                raise DataError(
                    f"{self.name}: {what}; accepted: bytes (uint8, 0 to 255), floats of 0 to 1, or others with what "
                    "they are to be divided by, such as scale=255"
                )
            if images.dtype != self.train_images.dtype:
                raise DataError(f"{self.name}: its training images are {self.train_images.dtype}, its test images "
                                f"{images.dtype}; both must be of one type")  # fmt: skip
        return 255.0 if self.train_images.dtype == np.uint8 else 1.0

    @property
    def normalisation(self) -> Normalisation | None:
        """Mean and deviation of what bytes are divided by 255 to, where images can be handed over as bytes."""
        stored = self.train_images.shape[2:]
        bytes_ = all(x.dtype == np.uint8 for x in (self.train_images, self.test_images))
        if not bytes_ or self.image_size not in (None, stored) or self.image_shape[0] > MOST_CHANNELS:
            return None
        mean, std = (np.atleast_1d(x) * (self.divisor / 255) for x in (self.mean, self.std))
        return tuple(mean.tolist()), tuple(std.tolist())

    def __len__(self) -> int:
        """The number of training images."""
        return len(self.train_images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what :meth:`prepare` gives."""
        c, h, w = self.train_images.shape[1:]
        return (self.channels or c, *(self.image_size or (h, w)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (its first 16 digits) of all images and labels: the same data, whatever folder it came from."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """What of the data set decides the bits of a run, as JSON has it."""
        return {
            "data": self.name,
            "images of SHA-256": self.fingerprint,
            "image shape": list(self.image_shape),
            "mean": self.mean,
            "std": self.std,
            "scale of pixels": self.divisor,
        }

    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The epoch's batches from number ``start`` on (:func:`batches`)."""
        return batches(self, how.batch, how.seed, epoch, start, how.shift, how.processes)

    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
        """The test images in their own order, or this process's part of them (:func:`evaluation_batches`)."""
        return evaluation_batches(self, batch, processes)

    def notes(self) -> list[str]:
        """Nothing that a person should be told: all of it was read when it was made."""
        return []

    def prepare(self, images: Images) -> NDArray[Any]:
        """Stored images as a network sees them: ``(x/scale - mean)/std``, float32 ``[N, C, H, W]``, or the bytes.
        Strides are channels-last."""
        pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if self.as_bytes:
            x = pixels
        elif pixels.dtype == np.uint8:
            x = self._table[pixels] if self._table.ndim == 1 else self._table[pixels, np.arange(pixels.shape[3])]
        else:
            x = self._normalised(pixels)
        if self.image_size and self.image_size != x.shape[1:3]:
            x = resize(x, self.image_size)
        if self.channels and self.channels != x.shape[3]:
            x = np.repeat(x, self.channels, axis=3)
        return x.transpose(0, 3, 1, 2)

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """What becomes of each byte as it is prepared: ``[256]``, or, if channels differ, ``[256, C]``."""
        each = np.arange(256)
        return self._normalised(each if isinstance(self.mean, float) and isinstance(self.std, float) else each[:, None])

    def _normalised(self, pixels: Images) -> NDArray[np.float32]:
        x: NDArray[np.float32] = ((pixels / self.divisor - self.mean) / self.std).astype(np.float32)
        return x


# --- shuffling ------------------------------------------------------------------------------------------------------


def batches(
    dataset: Dataset, batch: int, seed: int, epoch: int, start: int = 0, shift: int = 0, processes: Processes = ALONE
) -> Iterator[Batch]:
    """The epoch's training batches from number ``start`` on, or this process's share of each.

    A batch is ``(x [B, C, H, W] float32 or uint8, labels [B] int64)``.

    Each image comes once; the last batch may be smaller. With ``shift``, every image is moved by up to that many
    stored pixels along each axis, what comes in being black.
    """
    indices = order(len(dataset), seed, epoch)
    moves = generator(seed, epoch, 1).integers(-shift, shift + 1, (len(dataset), 2)) if shift else None
    for first in range(start * batch, len(dataset), batch):
        chosen = indices[first : first + batch]
        chosen = chosen[processes.shared(len(chosen))]
        images = dataset.train_images[chosen]
        if moves is not None:
            images = shifted(images, moves[chosen])
        yield dataset.prepare(images), dataset.train_labels[chosen]


def evaluation_batches(dataset: Dataset, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
    """The test images in their own order, or this process's part of them, ``batch`` at a time."""
    own = processes.shared(len(dataset.test_images))
    for first in range(own.start, own.stop, batch):
        part = slice(first, min(first + batch, own.stop))
        yield dataset.prepare(dataset.test_images[part]), dataset.test_labels[part]


# --- geometry -------------------------------------------------------------------------------------------------------


def shifted(images: Images, moves: NDArray[np.int64]) -> Images:
    """``out[n, :, y, x] = images[n, :, y - moves[n, 0], x - moves[n, 1]]``, zero where that is outside."""
    n, _, height, width = images.shape
    reach = int(np.abs(moves).max(initial=0))
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows = np.arange(height) + reach - moves[:, :1]
    columns = np.arange(width) + reach - moves[:, 1:]
    moved: Images = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.transpose(0, 3, 1, 2)


def resize(x: NDArray[Real], size: tuple[int, int]) -> NDArray[Real]:
    """Images ``x: [N, H, W, C]`` resized to ``[N, *size, C]``, bilinear.
    When an image shrinks, it is averaged over the area that a pixel covers (as Pillow's BILINEAR and PyTorch's
    ``interpolate(antialias=True)`` do)."""
    n, height, width, channels = x.shape
    rows, columns = _weights(height, size[0]).astype(x.dtype), _weights(width, size[1]).astype(x.dtype)
    resized: NDArray[Real] = columns @ (rows @ x.reshape(n, height, -1)).reshape(n, size[0], width, channels)
    return resized


def _weights(old: int, new: int) -> NDArray[np.float64]:
    """``[new, old]``: the share of each old pixel in each new one, a triangle around the new pixel's centre."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    triangle = np.maximum(0.0, 1.0 - np.abs(np.arange(old) + 0.5 - centres) / reach)
    weights: NDArray[np.float64] = triangle / triangle.sum(axis=1, keepdims=True)
    return weights


# --- the data sets --------------------------------------------------------------------------------------------------

Note = Callable[[str], None] | None
Loader = Callable[[str | Path | None, Note], Dataset]


def _digits(data_dir: str | Path | None, note: Note) -> Dataset:
    """The UCI optical digits that scikit-learn carries (1797 of 8x8, grays 0 to 16), resized to 28x28.
    1500 are for training and 297 for the test, drawn by a fixed seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits is scikit-learn's data set; pip install 'tricnn[data]' (or scikit-learn)") from None
    raw = load_digits()
    grays = resize(raw.images[..., None].astype(np.float64) * (255.0 / 16.0), (28, 28))
    # Rounded twice, so that a tie is one on every machine, whatever order its BLAS adds in.
    images = np.rint(grays.round(6)).astype(np.uint8).transpose(0, 3, 1, 2)
    labels = raw.target.astype(np.int64)
    train, test = np.split(order(len(images), SPLIT_SEED, 0), [1500])
    return Dataset(
        "digits", images[train], labels[train], images[test], labels[test], num_classes=10, mean=0.305, std=0.324
    )


def _idx_set(name: str, mean: float, std: float) -> Loader:
    def load(data_dir: str | Path | None, note: Note) -> Dataset:
        return Dataset(name, *_read_parts(find(name, data_dir, note)), num_classes=10, mean=mean, std=std)

    return load


def _read_parts(files: Mapping[str, Path]) -> tuple[Images, Images, Images, Images]:
    """Training images [N, 1, H, W] and labels [N], test images and labels, of the IDX files of a set, by part."""
    arrays = [read_idx(files[part], dimensions=3 if "images" in part else 1) for part in PARTS]
    for part, x, y in (("train", *arrays[:2]), ("t10k", *arrays[2:])):
        if len(x) != len(y):
            where = files[f"{part}-labels-idx1-ubyte"]
            raise DataError(f"{where}: expected {len(x)} labels, one per image, found {len(y)}")
    images, labels, test_images, test_labels = arrays
    return images[:, None], labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64)


def _folder_of_idx(folder: Path) -> Dataset | None:
    """The set whose four IDX files lie in a folder; None where there are none.
    It has as many classes as its labels say, and its pixels are normalised by the mean and deviation of its training
    images."""
    files = parts_of_folder(folder)
    if files is None:
        return None
    images, labels, test_images, test_labels = _read_parts(files)
    counts = np.zeros(256)
    for first in range(0, len(images), 1024):  # at once they would be eight times as many bytes
        counts += np.bincount(images[first : first + 1024].reshape(-1), minlength=256)
    shares, pixels = counts / counts.sum(), np.arange(256) / 255
    mean = float(shares @ pixels)
    std = float(np.sqrt(shares @ (pixels - mean) ** 2)) or 1.0
    classes = int(max(labels.max(), test_labels.max())) + 1
    return Dataset(
        folder.resolve().name, images, labels, test_images, test_labels, num_classes=classes, mean=mean, std=std
    )


# mean and standard deviation of the training images' pixels, scaled to 0..1
LOADERS: dict[str, Loader] = {
    "digits": _digits,
    "fashion-mnist": _idx_set("fashion-mnist", mean=0.2860, std=0.3530),
    "mnist": _idx_set("mnist", mean=0.1307, std=0.3081),
}


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    note: Note = None,
) -> Dataset:
    """The data set called ``name``, or whose four IDX files lie in the folder of that name, with any number of classes.
    ``data_dir`` may hold the files of a known one; ``image_size`` and ``channels`` are the network's.

    ``note`` is told, in one line, of anything that takes time (a download). Raises DataError for an unknown name,
    files that are missing or damaged, and images that the network cannot take.
    """
    if name not in LOADERS:
        own = _folder_of_idx(Path(name)) if Path(name).is_dir() else None
        if own is None:
            raise DataError(
                f"data set {name!r} is unknown; known are {', '.join(LOADERS)}, and folders with four IDX files"
            )
        dataset = own
    else:
        dataset = LOADERS[name](data_dir, note)
    return replace(dataset, image_size=image_size, channels=channels)
