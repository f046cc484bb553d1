"""A network and its weights as an ONNX file, for whatever runs those."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import UsageError, add_model, file_path, load_graph

if TYPE_CHECKING:
    from tricnn.ir import Graph

EXAMPLES = """\
examples:
  tricnn export resnet18 --weights resnet18.pth --out resnet18.onnx
  tricnn export lenet --input 3,32,32 --classes 3 --weights out/run/checkpoint.safetensors --out net.onnx --check

--weights takes a run's checkpoint and its averaged.safetensors, and what PyTorch, torchvision and timm write. The size
(--classes, --input, --width) is the one that was trained.
"""

IMAGES = 4  # that --check runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--weights", type=file_path, metavar="FILE", help="the initial ones if none are given")
    parser.add_argument("--weights-key", metavar="NAME", help="which of several in that file: model_ema")
    parser.add_argument("--out", type=file_path, required=True, metavar="FILE.onnx", help="the file to write")
    parser.add_argument("--fold", action="store_true", help="batch norm becomes part of the convolutions")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the file, by onnxruntime where it is installed, else by onnx, beside the NumPy executor",
    )


def run(options: argparse.Namespace) -> int:
    from tricnn.frontends import to_onnx
    from tricnn.run.model import compile

    from ..report.figures import size
    from .screen import Screen

    screen = Screen(options.json)
    if not options.out.endswith(".onnx"):
        raise UsageError(f"--out {options.out[:60]}: the name of an ONNX file ends in .onnx")
    graph = load_graph(options)
    model = compile(graph, executor="numpy", fuse="none")
    if options.weights:
        model.load_state_dict(options.weights, key=options.weights_key)
    file = to_onnx(graph, model.state_dict(), options.out, fold=options.fold)
    result: dict[str, Any] = {"graph": graph.name, "out": options.out, "bytes": file.ByteSize()}
    checked = checks(options.out, graph, model) if options.check else None
    if checked is not None:
        result["check"] = checked
    screen.json(result)
    screen.show(f"{graph.name} in {options.out}: {size(result['bytes'])}")
    if checked is None:
        return 0
    screen.show(
        f"{checked['by']}: outputs differ by {checked['largest_difference']:.2e}, at most {checked['tolerance']:.2e} "
        "are accepted"
    )
    return 0 if checked["ok"] else 1


def checks(path: str, graph: Graph, model: Any) -> dict[str, Any]:
    """The file's outputs beside the NumPy executor's on a few random images.
    Both are fp32 sums in orders of their own: accepted are 2^-24 of the largest output for each of 64 roundings in a
    row, as in a network of some 50 layers."""
    import numpy as np

    from tricnn.run.inputs import random_images

    x = random_images(graph, IMAGES, np.random.default_rng(0))
    mine = model(x)
    expected = list(mine.values()) if isinstance(mine, dict) else [mine]
    by, found = outputs(path, x)
    largest = max(float(np.abs(y).max()) for y in expected)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    tolerance = 64 * largest * 2.0**-24
    return {"by": by, "largest_difference": difference, "tolerance": tolerance, "ok": difference <= tolerance}


def outputs(path: str, x: Any) -> tuple[str, list[Any]]:
    """What ran the file, and what it gave."""
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        reference = ReferenceEvaluator(path)
        return f"onnx {onnx.__version__}'s reference", list(reference.run(None, {reference.input_names[0]: x}))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__}", session.run(None, {session.get_inputs()[0].name: x})
