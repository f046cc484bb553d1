"""Folders of pictures: ``FOLDER/train/CLASS/*.jpg`` and ``FOLDER/val/CLASS/*.jpg``.

That is the layout of ImageNet and of torchvision's ImageFolder.

Pillow decodes, in the workers of a ``torch.utils.data.DataLoader``. A worker makes whole batches, and a batch is a
function of (folder, seed, epoch, number): any number of workers, and a run that was interrupted, get the same bits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ..system.cores import usable_cores
from ..system.errors import DataError, shown
from .augment import Augmentation, centred, erased
from .batch_sources import Batch, How, Normalisation, Skipped
from .chance import generator, key, order
from .processes import ALONE, Processes, part_of
from .workers import begin_worker, read, started

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
CORRUPT = ("fail", "skip")
MOST_WORKERS = 8  # unless more are asked for
#: of ImageNet's training pictures, as everybody's published weights expect them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERASED, VARIED, FOREIGN = "erased", "varied", "foreign"  # purposes of random numbers


@dataclass(frozen=True)
class Part:
    """The files of one part of a folder, in order, and the number of each one's class."""

    paths: tuple[str, ...]  # below the folder
    labels: NDArray[np.int64]
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class PictureFolder:
    """Pictures in ``folder/train`` and ``folder/val``, a sub-folder for each class; classes are numbered by name.

    Training pictures are varied by ``augmentation``, those of a test resized so that the network's input is ``share``
    of the shorter side and cut from the middle. Both are then ``(x/255 - mean)/std``, by channel. ``transform``, if
    given, takes the place of the augmentation: any function of a Pillow image, such as one of
    ``torchvision.transforms.v2``, that gives an image, a byte tensor, or a float tensor [C, H, W] that is normalised
    already; Python's, NumPy's and torch's random numbers are seeded for each picture before it.

    With ``as_bytes`` pictures are handed over as bytes, for a network that normalises them (:func:`tricnn.of_bytes`);
    a foreign ``transform`` does not go with that. With ``pinned`` they come in page-locked memory, out of which a GPU
    copies without help of the CPU: :func:`~tricnn.training.batch_sources.suited` says when that is of use.

    A picture that cannot be read ends the run and is named (``corrupt="fail"``), or is named and counted, and the next
    one in the epoch's order stands in for it (``"skip"``; in a test it is left out).

    Raises DataError for folders that are not so laid out.
    """

    folder: Path
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    share: float = 0.875
    workers: int | None = None
    corrupt: str = "fail"
    transform: Callable[[Any], Any] | None = field(default=None, compare=False)
    as_bytes: bool = False
    pinned: bool = field(default=False, compare=False)
    _bad: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _unsaid: list[Skipped] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if find_spec("PIL") is None:
            raise DataError("pictures are read by Pillow; pip install 'tricnn[data]' (or pillow)")
        if self.corrupt not in CORRUPT:
            raise DataError(f"corrupt={shown(self.corrupt)} is unknown; known are {', '.join(CORRUPT)}")
        if self.workers is not None and not 0 <= self.workers <= 1024:
            raise DataError(f"workers {self.workers} are not accepted; they are 0 to 1024")
        if not 0 < self.share <= 1:
            raise DataError(f"share {self.share} is not accepted; it is above 0 and at most 1")
        _ = self.colour  # raises DataError for a mean or a deviation that makes no sense
        if self.as_bytes and self.normalisation is None:
            raise DataError(
                f"{self.name}: as_bytes is for pictures without a transform of one's own, which may give floats"
            )

    @property
    def name(self) -> str:
        return Path(self.folder).resolve().name

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes: the sub-folders of ``train``."""
        names = tuple(sorted(p.name for p in _entries(Path(self.folder) / "train") if p.is_dir()))
        if len(names) < 2:
            raise DataError(
                f"{self.folder}/train: expected a sub-folder for each class, at least 2, found {len(names)}"
            )
        return names

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def train(self) -> Part:
        return self._part("train")

    @cached_property
    def val(self) -> Part:
        return self._part("val")

    def _part(self, part: str) -> Part:
        top, number = Path(self.folder) / part, {name: i for i, name in enumerate(self.classes)}
        files: list[tuple[str, int, int]] = []
        for entry in sorted(_entries(top), key=lambda p: p.name):
            if not entry.is_dir():
                continue
            if entry.name not in number:
                raise DataError(f"{entry}: train/ has no class {shown(entry.name)}")
            found = sorted((os.path.relpath(path, self.folder), _size(path)) for path in _pictures(entry))
            if not found and part == "train":
                raise DataError(f"{entry}: there are no pictures ({', '.join(SUFFIXES)})")
            files += [(path, number[entry.name], size) for path, size in found]
        if not files:
            raise DataError(f"{top}: there are no pictures ({', '.join(SUFFIXES)})")
        paths, labels, sizes = zip(*files)
        return Part(paths, np.array(labels, np.int64), sizes)

    def __len__(self) -> int:
        return len(self.train.paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels or 3, *(self.image_size or (224, 224)))

    @cached_property
    def colour(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation for each channel: ImageNet's unless given, of a gray input their means."""
        count = self.channels or 3
        if count not in (1, 3):
            raise DataError(f"{self.folder}: pictures are gray or of 3 colours; the network takes {count} channels")
        found = []
        for name, own in (("mean", MEAN), ("std", STD)):
            given = getattr(self, name)
            values = np.asarray(given if given is not None else own if count == 3 else np.mean(own), dtype=np.float64)
            if (
                values.size not in (1, count)
                or not np.isfinite(values).all()
                or (name == "std" and (values <= 0).any())
            ):
                raise DataError(
                    f"{name}={shown(given)} is not a number, or one for each of {count} channels"
                    f"{', above 0' if name == 'std' else ''}"
                )
            found.append(np.broadcast_to(values.reshape(-1), (count,)).astype(np.float32))
        return found[0], found[1]

    @property
    def normalisation(self) -> Normalisation | None:
        """Mean and deviation of pixels of 0 to 1, where pictures can be handed over as bytes."""
        mean, std = (tuple(map(float, v)) for v in self.colour)
        return (mean, std) if self.transform is None else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (its first 16 digits) of every file's place and size: contents are not read through for it."""
        digest = hashlib.sha256()
        for part in (self.train, self.val):
            for path, size in zip(part.paths, part.bytes):
                digest.update(f"{path}\0{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        return {
            "data": self.name,
            "pictures of SHA-256": self.fingerprint,
            "image shape": list(self.image_shape),
            "mean": [float(v) for v in self.colour[0]],
            "std": [float(v) for v in self.colour[1]],
            "augmentation": str(self.augmentation if self.transform is None else self.transform),
            "share of the shorter side": self.share,
            "corrupt pictures": self.corrupt,
        }

    # --- batches ----------------------------------------------------------------------------------------------------

    def training(self, how: How, epoch: int, start: int = 0) -> Iterator[Batch]:
        count = -(-len(self) // how.batch)
        yield from self._loaded(
            _Maker(self, self.train, how.batch, (how.seed, epoch), how.processes), range(start, count)
        )

    def evaluation(self, batch: int, processes: Processes = ALONE) -> Iterator[Batch]:
        count = -(-len(self.val.paths) // batch)
        yield from self._loaded(_Maker(self, self.val, batch, None, processes), range(count))

    def loader(self, maker: Any, numbers: range) -> Any:
        """The DataLoader of the batches of these numbers, made by workers."""
        workers = min(MOST_WORKERS, usable_cores()) if self.workers is None else self.workers
        return DataLoader(
            maker,
            batch_size=None,
            sampler=numbers,
            num_workers=min(workers, len(numbers)),
            collate_fn=_as_it_is,
            pin_memory=self.pinned,
            worker_init_fn=partial(begin_worker, os.getpid()),
            generator=torch.Generator(),  # whose number nobody sees: without one, torch's own would move on
        )

    def _loaded(self, maker: _Maker, numbers: range) -> Iterator[Batch]:
        """The batches of these numbers."""
        try:
            for x, labels, bad in read(started(self.loader(maker, numbers)), str(self.folder)):
                for path, reason in bad:
                    self._found(path, reason)
                if not len(labels) and maker.drawn is not None:
                    raise DataError(f"{self.folder}: none of its training pictures can be read")
                if len(labels):
                    yield self.normalised(x.numpy()), labels.numpy()
        except DataError as error:  # of a worker it comes with the worker's traceback
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None

    def _found(self, path: str, reason: str) -> None:
        """Fail of a picture that cannot be read, or note it, once."""
        if self.corrupt == "fail":
            raise DataError(
                f"{Path(self.folder) / path}: cannot be read as a picture ({reason}); mend it, or "
                'have such pictures skipped (corrupt="skip", --corrupt skip)'
            )
        if path not in self._bad:
            self._bad[path] = reason
            self._unsaid.append(Skipped(path, reason, len(self._bad)))

    def notes(self) -> list[Skipped]:
        """What was skipped since this was last asked."""
        said, self._unsaid[:] = list(self._unsaid), []
        return said

    @property
    def skipped(self) -> int:
        """How many pictures could not be read so far."""
        return len(self._bad)

    def normalised(self, x: NDArray[Any]) -> NDArray[Any]:
        """Bytes [B, H, W, C] as ``(x/255 - mean)/std``, float32 [B, C, H, W], or as bytes; strides are channels-last.
        Floats [B, C, H, W] are left as they are."""
        if x.dtype != np.uint8:
            return x
        if self.as_bytes:
            return x.transpose(0, 3, 1, 2)
        mean, std = (v.astype(np.float64) for v in self.colour)
        y = x.astype(np.float32)
        y *= (1 / (255 * std)).astype(np.float32)
        y -= (mean / std).astype(np.float32)
        return y.transpose(0, 3, 1, 2)


class _Maker:
    """What makes batches, in whichever worker asks: ``maker[n]`` is batch n, or a process's share of it.
    A batch is (pictures, labels, those that could not be read)."""

    def __init__(
        self, source: PictureFolder, part: Part, batch: int, drawn: tuple[int, int] | None, processes: Processes = ALONE
    ):
        self.rank, self.world = processes.rank, processes.world
        self.source, self.part, self.batch, self.drawn = source, part, batch, drawn
        self.order = np.arange(len(part.paths)) if drawn is None else order(len(part.paths), *drawn)
        self.folder = str(source.folder)
        self.erased_to = np.rint(255 * source.colour[0]).astype(np.uint8)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch)

    def __getitem__(self, number: int) -> tuple[Any, Any, list[tuple[str, str]]]:
        pictures, labels, bad = [], [], []
        places = range(number * self.batch, min((number + 1) * self.batch, len(self.order)))
        for place in places[part_of(len(places), self.rank, self.world)]:
            for index in self._candidates(place):
                try:
                    pictures.append(self._picture(int(index)))
                except _Unreadable as error:
                    bad.append((self.part.paths[index], str(error)))
                    continue
                labels.append(self.part.labels[index])
                break
        if not pictures:
            return torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), bad
        return torch.stack(pictures), torch.as_tensor(np.array(labels)), bad

    def _candidates(self, place: int) -> Iterator[int]:
        """The picture at a place of the order, and for training those that may stand in for it."""
        last = len(self.order) if self.drawn is not None and self.source.corrupt == "skip" else 1
        for further in range(last):
            yield int(self.order[(place + further) % len(self.order)])

    def _picture(self, index: int) -> Any:
        """Picture ``index`` as the network's size: bytes [H, W, C], or floats [C, H, W] of a transform's."""
        source, size = self.source, self.source.image_shape[1:]
        image = _decoded(f"{self.folder}/{self.part.paths[index]}", "L" if source.channels == 1 else "RGB")
        if self.drawn is None:
            return torch.from_numpy(_bytes(centred(image, size, source.share)))
        if source.transform is not None:
            return _transformed(source.transform, image, key(*self.drawn, FOREIGN, index), source.image_shape)
        pixels = _bytes(source.augmentation(image, size, generator(*self.drawn, VARIED, index)))
        rng = generator(*self.drawn, ERASED, index)
        if rng.random() < source.augmentation.erasing:
            erased(pixels, self.erased_to, rng)
        return torch.from_numpy(pixels)


class _Unreadable(Exception):
    """A picture that Pillow cannot decode; the text says why."""


def _decoded(path: str, mode: str) -> Any:
    """The picture in a file, whole. Raises _Unreadable."""
    from PIL import Image

    try:
        if not os.path.isfile(path):
            raise _Unreadable("it is no file, or a link to none")
        with Image.open(path) as image:
            return _of_bytes(image).convert(mode)
    except Exception as error:  # damage shows as whatever a decoder stumbles over: OSError, SyntaxError, ...
        reason = " ".join(str(error).replace(f" {path!r}", "").split())[:100]
        raise _Unreadable(reason or type(error).__name__) from None


def _of_bytes(image: Any) -> Any:
    """The picture with 8 bits a channel; of one with 16, the nearest: ``round(v / 257)`` (PNG specification, 12.5).
    Pillow's own conversion makes white of all that is above 255. Raises _Unreadable for numbers without a range."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _Unreadable("its pixels are no bytes, of which nobody knows what is white; accepted: 8 or 16 bits")
    return image


def _bytes(image: Any) -> NDArray[np.uint8]:
    """A picture's bytes [H, W, C], in memory of their own."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _transformed(transform: Callable[[Any], Any], image: Any, seed: int, shape: tuple[int, int, int]) -> Any:
    """What a foreign transform makes of the picture, its random numbers drawn from ``seed``."""
    import random

    python, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed % 2**63)
        y = transform(image)
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
    if not isinstance(y, torch.Tensor):
        y = torch.from_numpy(_bytes(y).transpose(2, 0, 1).copy())
    y = y.as_subclass(torch.Tensor)
    if tuple(y.shape) != shape or not (y.dtype == torch.uint8 or y.is_floating_point()):
        raise DataError(
            f"the transform gave {y.dtype}{list(y.shape)}; accepted: an image, bytes or floats {list(shape)}"
        )
    return y.permute(1, 2, 0).contiguous() if y.dtype == torch.uint8 else y.float()


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: expected FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg ({error.strerror or error})"
        ) from None


def _pictures(folder: Path) -> Iterator[str]:
    """The files that are called as pictures are, in a folder and those in it, links followed.
    Raises DataError for a folder that cannot be listed, which would be left out otherwise, or that leads back."""

    def unlisted(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror or error})")

    for where, folders, names in os.walk(folder, onerror=unlisted, followlinks=True):
        for inside in folders:
            path = Path(where, inside)
            if path.is_symlink() and Path(where).resolve().is_relative_to(path.resolve()):
                raise DataError(f"{path}: a link to a folder that it lies in; remove it")
        yield from (f"{where}/{name}" for name in names if name.lower().endswith(SUFFIXES))


def _size(path: str) -> int:
    """The bytes of a file; 0 of one that is not there, a link to nowhere, which is told when it is read."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _as_it_is(batch: Any) -> Any:
    return batch
