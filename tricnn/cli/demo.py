"""``make demo``: LeNet compiled for a GPU that need not be there, verified, trained. Everything lands in one folder."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import file_path, whole
from .command_line import Parser, guarded

if TYPE_CHECKING:
    from tricnn.ir import Graph

    from .screen import Screen

BATCH, DTYPE = 256, "bf16"
VERIFIED_BATCH = 4

NEXT = """\
Three commands to try next:

  {tricnn} explain lenet --mode train --batch 256 --dtype bf16
      which layers share a kernel, and why others do not
  {tricnn} compile resnet18 --mode train --batch 64 --dtype bf16
      a network with batch norm and residuals, for {target}; it takes a few minutes the first time
  {tricnn} train lenet --data fashion-mnist --epochs 10
      clothes are harder than digits: about 91 %
"""


class VerificationFailed(Exception):
    """A kernel does not compute what it must."""

    exit_status = 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m tricnn.cli.demo", description=__doc__)
    parser.add_argument(
        "--out", type=file_path, default="out/demo", metavar="DIR", help="where everything goes (out/demo)"
    )
    parser.add_argument(
        "--epochs", type=whole(1), default=None, metavar="N", help="train for so many (those of tricnn train)"
    )
    return guarded(lambda: run(parser.parse_args(argv)))


def run(options: argparse.Namespace) -> int:
    from tricnn.graphs import lenet

    from .arguments import chosen_target, output_folder
    from .screen import Screen
    from .verify_command import runs_on_gpu

    began, screen, graph = time.perf_counter(), Screen(False), lenet()
    on_gpu = runs_on_gpu()
    target = chosen_target(None)
    with output_folder(options.out) as folder:
        assert folder is not None
        source = compile_step(graph, target, folder, screen)
        verify_step(graph, target, source, screen)
        accuracy = train_step(graph, folder, options.epochs, on_gpu, screen)
        files_step(folder, screen)
    command = Path(sys.executable).with_name("tricnn")
    shown = command.name
    if command.exists():
        inside = command.is_relative_to(Path.cwd())
        shown = str(command.relative_to(Path.cwd()) if inside else command)
    screen.show("", NEXT.format(tricnn=shown, target=target), f"Done in {time.perf_counter() - began:.0f} s.")
    if accuracy < 0.98:
        screen.show(f"The accuracy is below the 98 % that this demonstration promises: {accuracy:.2%}")
        return 1
    return 0


def title(screen: Screen, text: str) -> None:
    screen.out.rule(text, align="left", characters="-" if screen.out.encoding.lower() == "ascii" else "─")


def compile_step(graph: Graph, target: str, folder: Path, screen: Screen) -> str:
    """The emitted source of LeNet's training step, compiled, its kernels shown and written."""
    from tricnn.lower.from_graph import lowered

    from ..report import tables
    from ..report.replaced import replaced
    from .compile_command import compile_shown, sentences, summary

    what = "an H100" if target == "sm_90" else "the GPU at hand"
    title(screen, f"1/3  LeNet, one training step, compiled for {what} ({target})")
    unfused, fused = (lowered(graph, "train", BATCH, DTYPE, target, fuse=fuse) for fuse in (False, True))
    built = compile_shown(fused, target, screen)
    built.write(folder)
    result = summary(graph, built, unfused)
    screen.show(
        "",
        tables.kernels(result, replaced(built.program, unfused), screen.out.width),
        *sentences(result),
        f"One readable file: {folder / 'kernels.py'}",
        "",
    )
    return built.source


def verify_step(graph: Graph, target: str, source: str, screen: Screen) -> None:
    """Run those kernels on random images; raise VerificationFailed if a value is outside its tolerance."""
    from tricnn.emit.emit import emit
    from tricnn.lower.from_graph import lowered

    from ..report import tables
    from .verify_command import device_name, verified

    # Building may have chosen smaller tiles than the first choice, which is what runs here.
    same = emit(lowered(graph, "train", BATCH, DTYPE, target, fuse=True)) == source
    which = "The same kernels" if same else "Its kernels, in tiles of another size"
    title(screen, f"2/3  {which}, forward and backward, on {device_name()} against float64 NumPy")
    result = verified(
        graph, screen, mode="train", batch=VERIFIED_BATCH, compiled_batch=BATCH, dtype=DTYPE, target=target,
        fuse="auto", seed=0,
    )  # fmt: skip
    screen.show("", tables.checks(result))
    failed = [c["kernel"] for c in result["checks"] if not c["ok"]]
    if failed:
        raise VerificationFailed(f"kernels outside their tolerance: {', '.join(failed)}")
    if result["races"]:
        raise VerificationFailed(f"programs that race: {', '.join(r['launch'] for r in result['races'])}")
    looked = "" if result["races"] is None else "; every address looked at, no data races"
    screen.show(
        f"All {len(result['checks'])} values within tolerances derived from {DTYPE}'s and fp32's rounding{looked} "
        f"({result['seconds']:.0f} s).",
        "",
    )


def train_step(graph: Graph, folder: Path, epochs: int | None, on_gpu: bool, screen: Screen) -> float:
    """Train on digits; the test accuracy is returned."""
    from tricnn.training import load_dataset

    from ..report.figures import plural
    from .train_command import DEFAULTS, picture, train
    from .train_data import fitted
    from .train_loss import LOSS

    where = "on the GPU, by its kernels in fp32" if on_gpu else "on the CPU, by the NumPy executor"
    title(screen, f"3/3  LeNet learns handwritten digits, {where}")
    dataset = fitted(load_dataset("digits"), graph)
    settings: dict[str, Any] = {
        **DEFAULTS, "epochs": epochs or DEFAULTS["epochs"], "dtype": "fp32", "executor": "auto",
        "fuse": "auto", "nesterov": False, "milestones": (), "out": str(folder), "resume": False, "weights": None,
        "weights_key": None,
        "shift": None, "optimiser": "sgd", **LOSS, "clip": None, "accumulate": 1, "ema": None,
        "mixup": 0.0, "cutmix": 0.0, "freeze": (), "groups": (), "sizes": (), "sync_batch_norm": False,
    }  # fmt: skip
    _, result = train(graph, dataset, argparse.Namespace(**settings), screen)
    screen.show(
        f"{len(dataset):,} images, {plural(result.epochs, 'epoch')}, {result.images_per_second:,.0f} images/s: "
        f"test accuracy {result.test_accuracy:.2%} on {len(dataset.test_images)} images never seen",
        *picture(result, graph, dataset),
        "",
    )
    return result.test_accuracy


def files_step(folder: Path, screen: Screen) -> None:
    """Say what is in the folder now."""
    from ..report.figures import plural, size

    title(screen, f"All of it is in {folder}/")
    about = {
        "kernels.py": "the emitted kernels and the step that launches them",
        "manifest.json": "every kernel, its launches, grids, arguments and machine code",
        "checkpoint.safetensors": "the trained network, under PyTorch's names",
        "curve.png": "loss and accuracy over the epochs",
    }
    binaries = [f for f in folder.iterdir() if f.suffix in (".cubin", ".hsaco")]
    for name, what in about.items():
        if (folder / name).exists():
            screen.show(f"  {name:<24} {size((folder / name).stat().st_size):>8}  {what}")
    total = sum(f.stat().st_size for f in binaries)
    kinds = ", ".join(sorted({f"*{f.suffix}" for f in binaries}))
    screen.show(
        f"  {kinds:<24} {size(total):>8}  {plural(len(binaries), 'kernel')} as machine code, with assembly beside"
    )


if __name__ == "__main__":
    sys.exit(main())
