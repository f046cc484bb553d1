"""Options that several commands share, and how MODEL becomes a graph."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tricnn.ir import Graph

LARGEST_BATCH = 2**31 - 1


class UsageError(Exception):
    """Arguments that do not make a command."""

    exit_status = 2


# --- kinds of values ------------------------------------------------------------------------------------------------


def whole(least: int, most: int = LARGEST_BATCH) -> Callable[[str], int]:
    """A whole number between ``least`` and ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text) if len(text) < 20 else most + 1 if text.isdigit() else None
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            small = most == LARGEST_BATCH and (value is None or value < least)
            limit = f"of at least {least}" if small else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number {limit}")
        return value

    return parse


def real(least: float = 0.0, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A finite number of at least (or, ``above``, greater than) ``least``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most or (above and value == least):
            limit = f"{'above' if above else 'of at least'} {least:g}"
            limit += f" and at most {most:g}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number {limit}")
        return value

    return parse


def image_shape(text: str) -> tuple[int, int, int]:
    """The numbers of ``C,H,W``."""
    from tricnn.system.limits import WIDEST_IMAGE

    parts = text.replace("x", ",").split(",")
    try:
        c, h, w = (whole(1, WIDEST_IMAGE)(part.strip()) for part in parts)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not channels,height,width, such as 3,224,224"
        ) from None  # fmt: skip
    return c, h, w


def file_path(text: str) -> str:
    """A path, its ``~`` resolved."""
    from tricnn.ir import TricnnError
    from tricnn.system.paths import user_path

    try:
        path = user_path(text)
    except TricnnError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return str(path) if text.startswith("~") else text


# --- options --------------------------------------------------------------------------------------------------------


def add_model(parser: argparse.ArgumentParser, *, required: bool = True, images: bool = True) -> None:
    parser.add_argument(
        "model", type=file_path, metavar="MODEL", nargs=None if required else "?",
        help=MODEL,
    )  # fmt: skip
    group = parser.add_argument_group("the size of an architecture")
    group.add_argument(
        "--classes", type=whole(1, 1 << 24), metavar="N", help="how many classes the network tells apart"
    )
    group.add_argument("--input", type=image_shape, metavar="C,H,W", help="the images' channels, height and width")
    group.add_argument(
        "--width",
        type=real(0, 64, above=True),
        metavar="F",
        help="a factor on the channels of every layer: 0.5 halves them",
    )
    if images:
        group.add_argument(
            "--images", dest="input_images", choices=("floats", "bytes"), default="floats",
            help="bytes: uint8, which the network normalises by ImageNet's mean and deviation (floats)",
        )  # fmt: skip


def add_compilation(parser: argparse.ArgumentParser, mode: str = "infer", batch: int | None = 1) -> None:
    parser.add_argument("--mode", default=mode, metavar="M", help=f"infer or train ({mode})")
    what = f"({batch})" if batch else "(small without a GPU)"
    parser.add_argument("--batch", type=whole(1), default=batch, metavar="N", help=f"images in a batch {what}")
    parser.add_argument("--dtype", type=dtype, default="fp32", metavar="D", help="fp32, tf32, fp16 or bf16 (fp32)")


def add_fusion(parser: Any) -> None:
    """Add the option --fuse, and --no-fuse for its last policy."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--fuse", type=policy, default="auto", metavar="P",
        help="auto, all, epilogue, none, or rules (docs/training-fusion.md) with commas between (auto)",
    )  # fmt: skip
    either.add_argument(
        "--no-fuse", dest="fuse", action="store_const", const="none", help="one kernel for each layer: --fuse none"
    )


def policy(text: str) -> str:
    from tricnn.compiler.policies import policy_named
    from tricnn.ir import TargetError

    try:
        return policy_named(text)
    except TargetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def dtype(text: str) -> str:
    """A dtype by its own name or PyTorch's; whether the command can take it is the command's to say."""
    from tricnn.machine.dtypes import dtype_named

    return dtype_named(text)


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", metavar="T", help="sm_80, sm_90 or H100, sm_100, gfx942, ... (the GPU at hand, else sm_90)"
    )
    parser.add_argument(
        "--tuned",
        type=file_path,
        metavar="FILE",
        help="a file of `tricnn tune --out FILE`: its tiles come before the rule's",
    )


# --- MODEL ----------------------------------------------------------------------------------------------------------


#: what may stand for MODEL
MODEL = "an architecture (tricnn list), a file (a graph as text, .onnx), or package.module:factory (an nn.Module)"


def load_graph(options: argparse.Namespace, **defaults: Any) -> Graph:
    """The graph that MODEL names, on images of bytes where ``--images`` says so.
    ``defaults`` are an architecture's arguments where the user gave none.

    Raises UsageError for a name that is unknown (with those near to it), TricnnError for a file that does not hold a
    graph, or not one of images.
    """
    from statistics import fmean

    from tricnn.graphs.published import MEAN, STD
    from tricnn.ir import of_bytes

    graph = declared_graph(options, **defaults)
    if getattr(options, "input_images", "floats") == "floats":
        return graph
    colours = bool(graph.inputs) and graph.types[graph.inputs[0].name].per_image[:1] == (3,)
    return of_bytes(graph, *((MEAN, STD) if colours else (fmean(MEAN), fmean(STD))))


def declared_graph(options: argparse.Namespace, **defaults: Any) -> Graph:
    """The graph that MODEL names, as it is declared."""
    from tricnn.graphs import ARCHITECTURES

    name = options.model
    given = {
        "num_classes": options.classes,
        "input_shape": options.input,
        "width": options.width,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if name in ARCHITECTURES:
        return ARCHITECTURES[name](**{**defaults, **given})
    if os.path.lexists(name):
        if given:
            flags = {"num_classes": "--classes", "input_shape": "--input", "width": "--width"}
            raise UsageError(
                f"{flags[next(iter(given))]} is for architectures; {name} is a file, which says its sizes itself"
            )
        return onnx_graph(name) if name.endswith(".onnx") else read_graph(Path(name))
    if ":" in name:
        return imported_graph(name, given, defaults)
    near = difflib.get_close_matches(name, ARCHITECTURES, 3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if "/" in name or name.endswith((".txt", ".onnx")):
        raise UsageError(f"there is no file {name}; MODEL is {MODEL}")
    raise UsageError(f"unknown model {name!r}: {hint}MODEL is {MODEL}")


def imported_graph(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Graph:
    """The graph of ``package.module:factory``, with what the user said of its size."""
    from tricnn.frontends.factory import graph_of, is_factory

    if not is_factory(name):
        raise UsageError(f"{name!r} is not package.module:factory, such as torchvision.models:resnet50")
    if "width" in given:
        raise UsageError(f"--width is for architectures; {name} is a PyTorch module, which has its width")
    return graph_of(name, given, defaults)


def onnx_graph(name: str) -> Graph:
    """The graph of an ``.onnx`` file."""
    from tricnn.frontends.onnx_import import from_onnx

    return from_onnx(name)[0]


def read_graph(path: Path) -> Graph:
    """A graph from its text form, errors with the file's name, the line and the column."""
    from tricnn.ir import TricnnError, from_text
    from tricnn.system.files import read_at_most
    from tricnn.system.limits import LARGEST_GRAPH_FILE

    try:
        raw = read_at_most(path, LARGEST_GRAPH_FILE)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; MODEL is {MODEL}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(raw) > LARGEST_GRAPH_FILE:
        raise UsageError(f"{path}: more than {LARGEST_GRAPH_FILE >> 20} MB; a graph as text is shorter")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line}: not text in UTF-8; a graph as text was expected") from None
    try:
        return from_text(text)
    except TricnnError as error:
        raise TricnnError(f"{path}: {error}") from None


def small_arguments(name: str) -> Mapping[str, Any]:
    """An architecture's arguments for checks without a GPU: its topology, small."""
    from tricnn.graphs import SMALL

    return SMALL.get(name, {})


def sizes(graph: Graph, whole: Graph | None = None) -> dict[str, Any]:
    """How large a network is, for ``--json``; and the whole one, if it is a small member that stands for it."""
    inputs = [list(graph.types[node.name].per_image) for node in graph.inputs]
    return {"parameters": graph.num_parameters, "inputs": inputs, "small_member_of": whole and sizes(whole)}


# --- what is compiled -----------------------------------------------------------------------------------------------


def chosen_target(name: str | None) -> str:
    """The target's canonical name; the GPU at hand, else sm_90, if none is given."""
    from tricnn.machine.targets import parse_target
    from tricnn.run.model import device_target

    return parse_target(name if name is not None else device_target()).name


def check_memory(graph: Graph, batch: int, mode: str) -> None:
    """Raise UsageError if a batch cannot fit this machine's memory.
    It cannot if its parameters, twice for their gradients in training, and the largest value of the network alone are
    more than is free."""
    from tricnn.system.cores import usable_memory

    from ..report.figures import size

    free = usable_memory()
    parameters = 4 * graph.num_parameters * (2 if mode == "train" else 1)
    largest = max(graph.nodes, key=lambda node: graph.types[node.name].elements(batch))
    needed = parameters + 4 * graph.types[largest.name].elements(batch)
    if free is not None and needed > free:
        raise UsageError(
            f"{graph.name} with a batch of {batch} needs more than {size(needed)} of memory (layer {largest.name} "
            f"alone {size(needed - parameters)}), {size(free)} are free; a smaller --batch, --width or --input may fit"
        )


# --- --out ----------------------------------------------------------------------------------------------------------


@contextmanager
def output_folder(path: str | None) -> Iterator[Path | None]:
    """The folder to write to, made if need be and tried before any work is done; taken away again if it stays empty.

    Raises UsageError if nothing can be written there.
    """
    if path is None:
        yield None
        return
    if not path:
        raise UsageError("--out needs the name of a folder")
    folder = Path(path)
    made: list[Path] = []
    try:
        for parent in (folder, *folder.parents):
            if parent.exists():
                break
            made.append(parent)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"--out {path}: cannot be written ({reason})") from None
        yield folder
    finally:
        for parent in made:
            try:
                parent.rmdir()
            except OSError:
                break
