"""The options of ``tricnn train`` that say what it trains on, and the data set that they name."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .arguments import UsageError, file_path, real, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from tricnn.ir import Graph
    from tricnn.training.batch_sources import Source

#: options that only pictures in a folder have, and what they are where none is given
PICTURES: dict[str, Any] = {
    "crop": "resized",
    "flip": 0.5,
    "trivial_augment": False,
    "erasing": 0.0,
    "mean": None,
    "std": None,
    "workers": None,
    "corrupt": "fail",
}
SYNTHETIC_STEPS = 25  # of an epoch


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        type=file_path,
        metavar="DATA",
        help="digits, fashion-mnist, mnist, or a folder: train/CLASS/*.jpg and val/CLASS/*.jpg, or four IDX files",
    )
    group.add_argument(
        "--images", choices=("auto", "bytes", "floats"), default="auto",
        help="bytes: sent as uint8, normalised by the network; auto: on a GPU, unless mixup or the data need floats",
    )  # fmt: skip
    group.add_argument(
        "--data-dir", type=file_path, metavar="DIR", help="the folder with the files of mnist or fashion-mnist"
    )
    group.add_argument(
        "--synthetic",
        action="store_true",
        help="noise instead of --data: how fast training is where reading costs nothing",
    )
    group.add_argument(
        "--workers",
        type=whole(0, 1024),
        metavar="N",
        help="processes that decode (one a core, at most 8)",
    )
    group.add_argument(
        "--corrupt",
        choices=("fail", "skip"),
        help="a picture that cannot be read: ends the run (fail), or is named, counted and replaced by another (skip)",
    )
    group.add_argument(
        "--mean", type=colour, metavar="R,G,B", help="the mean of a folder's pixels, 0 to 1 (ImageNet's)"
    )
    group.add_argument("--std", type=colour, metavar="R,G,B", help="their standard deviation (ImageNet's)")
    varied = parser.add_argument_group("how training pictures are varied")
    varied.add_argument(
        "--crop",
        choices=("resized", "padded", "none"),
        help="of a folder's pictures: a random part, resized (the default); a random cut, padded by 4; the middle",
    )
    varied.add_argument("--flip", type=real(0, 1), metavar="P", help="mirror a picture with probability P (0.5)")
    varied.add_argument(
        "--trivial-augment",
        action="store_true",
        default=None,
        help="one random change of colour or shape, of random strength, to each picture",
    )
    varied.add_argument(
        "--erasing", type=real(0, 1), metavar="P", help="erase a random rectangle with probability P (0)"
    )
    varied.add_argument(
        "--shift", type=whole(0, 64), metavar="N", help="move each image of digits and the MNISTs by up to N pixels (1)"
    )


def colour(text: str) -> tuple[float, ...]:
    """One number, or three with commas between them."""
    values = tuple(real()(part.strip()) for part in text.split(","))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not one number or three, such as 0.485,0.456,0.406")
    return values


def holds_pictures(options: argparse.Namespace) -> bool:
    """Is --data a folder of pictures rather than a data set's name or IDX files? Raises UsageError if it is neither."""
    from pathlib import Path

    from tricnn.training.data import LOADERS
    from tricnn.training.idx_sources import parts_of_folder

    if options.data in LOADERS:
        return False
    if os.path.isdir(options.data):
        return not os.access(options.data, os.R_OK) or parts_of_folder(Path(options.data)) is None
    raise UsageError(f"--data {options.data[:60]!r} is neither a folder nor a data set; known are {', '.join(LOADERS)}")


def data_of(options: argparse.Namespace, classes: int | None, note: Callable[[str], None] | None) -> Source:
    """The data set that the options name, its images not yet of a network's size.
    ``classes`` are the network's, for ``--synthetic``. Raises UsageError for options that do not go together."""
    from tricnn.training import load_dataset
    from tricnn.training.batch_sources import Synthetic

    given = [name for name in PICTURES if getattr(options, name) is not None]
    if options.synthetic:
        if options.data:
            raise UsageError("--synthetic is noise in place of --data; give one of them")
        return Synthetic((3, 1, 1), classes or 1000, SYNTHETIC_STEPS * options.batch)
    if not options.data:
        raise UsageError("train needs --data NAME or FOLDER, or --synthetic")
    if holds_pictures(options):
        if options.shift:
            raise UsageError("--shift is for digits and the MNISTs; a folder's pictures are moved by --crop padded")
        return picture_folder(options)
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a folder of pictures; {options.data} has none")
    return load_dataset(options.data, options.data_dir, note=note)


def picture_folder(options: argparse.Namespace) -> Source:
    from pathlib import Path

    from tricnn.training.augment import Augmentation
    from tricnn.training.pictures import PictureFolder

    chosen = {n: default if getattr(options, n) is None else getattr(options, n) for n, default in PICTURES.items()}
    augmentation = Augmentation(
        crop=chosen["crop"], flip=chosen["flip"], trivial=chosen["trivial_augment"], erasing=chosen["erasing"]
    )
    return PictureFolder(
        Path(options.data),
        augmentation=augmentation,
        mean=chosen["mean"],
        std=chosen["std"],
        workers=chosen["workers"],
        corrupt=chosen["corrupt"],
    )


def on_images(graph: Graph, source: Any, options: argparse.Namespace, gpu: bool) -> Graph:
    """The network on bytes where ``--images`` asks for them and the data are bytes to the end; else as it is.
    Raises UsageError where bytes are asked for and cannot be had."""
    from tricnn.ir import of_bytes
    from tricnn.training.image_sizes import at_side

    if options.images == "floats" or (options.images == "auto" and not gpu):
        return graph
    sized = [source, *(at_side(source, side) for _, side in options.sizes)]
    if options.mixup:
        why = "--mixup gives images that are no bytes; --cutmix keeps them"
    elif any(s.normalisation is None for s in sized):
        why = f"{source.name}'s images are resized as real numbers to the network's size"
    else:
        return of_bytes(graph, *source.normalisation)
    if options.images == "bytes":
        raise UsageError(f"--images bytes: {why}")
    return graph


def fitted(source: Any, graph: Graph) -> Any:
    """The data set with images of the network's size. Raises UsageError if network and data do not go together."""
    if not graph.inputs or len(graph.types[graph.inputs[0].name].per_image) != 3:
        raise UsageError(f"{graph.name} takes no images [N, C, H, W]; it cannot be trained on {source.name}")
    from tricnn.training.batch_sources import Synthetic

    from ..report.figures import plural

    channels, height, width = graph.types[graph.inputs[0].name].per_image
    if graph.classes is not None and graph.classes < source.num_classes:
        raise UsageError(f"{graph.name} has {plural(graph.classes, 'class')}, {source.name} has {source.num_classes}")
    if isinstance(source, Synthetic):
        return replace(source, image_shape=(channels, height, width))
    return replace(source, image_size=(height, width), channels=channels)
