"""What callers hand to a model, checked and made plain: the same rule, and the same error, for every executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..system.errors import DataError, ShapeError

#: element types that NumPy and PyTorch both have and compute with; other real numbers are converted to float64
SHARED = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
INTEGERS = ("int", "uint")
REAL = (*INTEGERS, "float", "bfloat", "bool")
BYTES = "bytes (uint8, 0 to 255), which the network normalises itself"


def is_tensor(x: Any) -> bool:
    return hasattr(x, "detach")


def plain(x: Any, name: str, accepted: tuple[str, ...], what: str, *, tensors: bool) -> Any:
    """The numbers of ``x`` as a NumPy array, or, ``tensors``, as a torch tensor wherever it is.

    It has a :data:`SHARED` type, native byte order, no gradient, and strides that both libraries can have.

    ``accepted`` begins the names of the element types that will do, which are ``what`` in words. Raises DataError
    naming the input for others, and for tensors without numbers of their own (sparse, quantised, meta).
    """
    kind = str(x.dtype).removeprefix("torch.") if is_tensor(x) else np.asarray(x).dtype.name
    if not kind.startswith(accepted):
        raise DataError(f"{name}: expected {what}, got {kind}")
    if not is_tensor(x):
        array = np.asarray(x)
        array = array.astype(array.dtype.newbyteorder("=") if kind in SHARED else np.float64, copy=False)
        if not tensors:
            return array
        import torch

        if min(array.strides, default=0) < 0 or not array.flags.writeable:
            array = array.copy(order="K")
        return torch.from_numpy(array if array.flags.aligned else array.copy(order="K"))
    if str(x.layout) != "torch.strided" or x.is_quantized or x.device.type == "meta":
        has = "on the meta device, which holds no numbers" if x.device.type == "meta" else str(x.layout)
        raise DataError(f"{name}: expected a dense tensor, got one that is {has}")
    x = x.detach()
    if kind not in SHARED and not (tensors and kind == "bfloat16"):
        x = x.double()
    return x if tensors else x.cpu().numpy()


def check_images(graph: Graph, x: Any, *, tensors: bool) -> Any:
    """The images as :func:`plain` has them, times the input's scale and plus its shift, where it has those.
    Of a network of bytes they are bytes. Raises ShapeError or DataError if they do not fit the graph's first input, or
    are not finite."""
    if not graph.inputs:
        raise ShapeError(f"graph {graph.name}: it has no input")
    name = graph.inputs[0].name
    want = graph.types[name]
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) < 1 or shape[1:] != want.per_image or shape[0] < 1:
        raise ShapeError(f"input {name}: expected {want}, got {list(shape) or type(x).__name__}")
    if want.dtype == "uint8":
        return plain(x, f"input {name}", ("uint8",), BYTES, tensors=tensors)
    x = plain(x, f"input {name}", REAL, "real numbers", tensors=tensors)
    if not bool((x.isfinite() if tensors else np.isfinite(x)).all()):
        raise DataError(f"input {name}: it contains NaN or infinity; all pixels must be finite")
    return rescaled(x, graph.inputs[0].attrs["scale"], graph.inputs[0].attrs["shift"], tensors=tensors)


def random_images(graph: Graph, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that a network's first input can be: normally distributed float32, or bytes, all as likely."""
    type_ = graph.types[graph.inputs[0].name]
    if type_.dtype == "uint8":
        return rng.integers(0, 256, type_.at(batch), dtype=np.uint8)
    return rng.standard_normal(type_.at(batch), dtype=np.float32)


def rescaled(x: Any, scale: Sequence[float], shift: Sequence[float], *, tensors: bool) -> Any:
    """``x * scale + shift`` by channel, in fp32 at least; ``x`` itself where both are empty."""
    if not scale and not shift:
        return x
    given = np.array(scale or 1.0), np.array(shift or 0.0)
    by: list[Any]
    if tensors:
        import torch

        x = x if x.dtype == torch.float64 else x.float()
        by = [torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in given]
    else:
        x = x if x.dtype == np.float64 else x.astype(np.float32)
        by = [v.astype(x.dtype) for v in given]
    factor, term = (v.reshape(-1, *(1,) * (len(x.shape) - 2)) for v in by)
    return x * factor + term


def check_labels(graph: Graph, labels: Any, count: int, *, tensors: bool, ignored: int | None = None) -> Any:
    """The labels of ``count`` images as int64 [N], or [N, H, W] where the network's outputs are images.
    Each is a class of every output of the network as it was declared, for training puts a loss on all of them; -1 where
    they are ``ignored``. Raises ShapeError or DataError."""
    shape = tuple(labels.shape) if hasattr(labels, "shape") else type(labels).__name__
    each = "pixel" if graph.rows else "image"
    if shape != (count, *graph.rows):
        got = list(shape) if isinstance(shape, tuple) else shape
        expected = [count, *graph.rows]
        raise ShapeError(f"labels: expected an array or tensor {expected}, one per {each}, got {got}")
    labels = plain(labels, "labels", INTEGERS, f"integers, one class number per {each}", tensors=tensors)
    labels = labels.long() if tensors else labels.astype(np.int64, copy=False)
    kept = labels
    if ignored is not None:
        kept = labels[labels != ignored]
        labels = (labels + 1) * (labels != ignored) - 1
    low, high = (int(kept.min()), int(kept.max())) if len(kept.reshape(-1)) else (0, 0)
    classes = graph.classes or 0
    if low < 0 or high >= classes:
        counts = {o.name: graph.types[o.value].channels for o in graph.outputs}
        fewest = next(name for name, count in counts.items() if count == classes)
        whose = graph.name if set(counts.values()) == {classes} else f"output {fewest} of {graph.name}"
        raise DataError(f"labels: {low if low < 0 else high} is out of range; {whose} has classes 0 to {classes - 1}")
    return labels


def as_given(result: Any, like: Any, wide: str) -> Any:
    """A result as the caller's kind of array, on the caller's device, of the type ``wide`` (float32 or float64).
    It has that type however activations are stored, and shares no memory with the model."""
    if is_tensor(like):
        import torch

        tensor = result if is_tensor(result) else torch.as_tensor(np.asarray(result, order="C"))
        return tensor.to(like.device, getattr(torch, wide), copy=True)
    if is_tensor(result):
        import torch

        result = result.detach().to("cpu", getattr(torch, wide)).numpy()
    return np.array(result, dtype=wide)
