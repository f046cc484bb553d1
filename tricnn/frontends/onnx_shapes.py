"""ONNX operators in our words: shapes, slices, joins, padding, and images of another size.

A reader takes the assembler, the node, its inputs and its attributes (onnx_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from . import torch_shapes
from .assembler import BATCH, Tensor, Unsupported, described
from .onnx_inputs import given, ints, two_dimensional
from .readers import Reader, entering

READERS: dict[str, Reader] = {}
reads = entering(READERS)

#: how many places that are at no equal distances are taken one by one
MOST_PLACES = 64

#: PyTorch's names of the ways in which an image's own pixels are repeated around it
PADDING = {"edge": "replicate", "wrap": "circular"}


def seen_as(a: Any, x: Any, shape: Sequence[int]) -> Any:
    a.shape = tuple(shape)
    return torch_shapes.reshaped(a, x)


@reads("Reshape")
def reshape(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    wanted = ints(given(a, inputs, 1, attributes.get("shape")))
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    if isinstance(x, Tensor) and wanted and wanted[0] == a.batch and a.batch is not None:
        wanted[0] = BATCH
    known = prod(d for d in wanted if d != -1)
    if prod(x.shape) % max(known, 1):
        raise Unsupported(f"{described(x.shape)} seen as {wanted}", "the batch must stay open: -1 or 0")
    return seen_as(a, x, [prod(x.shape) // known if d == -1 else d for d in wanted])


@reads("Flatten")
def flatten(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x, axis = inputs[0], attributes.get("axis", 1)
    return seen_as(a, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@reads("Squeeze")
def squeeze(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    axes = given(a, inputs, 1, attributes.get("axes"))
    gone = [d % len(x.shape) for d in ints(axes)] if axes is not None else [i for i, d in enumerate(x.shape) if d == 1]
    return seen_as(a, x, [d for i, d in enumerate(x.shape) if i not in gone])


@reads("Unsqueeze")
def unsqueeze(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    axes = ints(given(a, inputs, 1, attributes.get("axes")))
    rank = len(x.shape) + len(axes)
    new, old = {d % rank for d in axes}, iter(x.shape)
    return seen_as(a, x, [1 if i in new else next(old) for i in range(rank)])


@reads("Transpose")
def transpose(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    return torch_shapes.permuted(a, x, attributes.get("perm", list(range(len(x.shape)))[::-1]))


@reads("Concat")
def concat(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_shapes.concat(a, inputs, attributes["axis"])


@reads("Split")
def split(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 0)
    sizes = given(a, inputs, 1, attributes.get("split"))
    if sizes is None:
        size = -(-x.shape[axis] // len(node.output))
        return torch_shapes.split(a, x, size, axis)
    return torch_shapes.split_with_sizes(a, x, ints(sizes), axis)


@reads("Slice")
def slice_(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    starts, ends = (ints(given(a, inputs, i + 1, attributes.get(n))) for i, n in enumerate(("starts", "ends")))
    axes = ints(given(a, inputs, 3, attributes.get("axes", range(len(starts)))))
    steps = ints(given(a, inputs, 4, [1] * len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps):
        x = torch_shapes.sliced(a, x, axis, start, end, step)
    return x


@reads("Gather")
def gather(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    """Places along an axis; or all numbers of a row of all, under another shape.
    So PyTorch's exporter writes ConvNeXt's mean over pixels where the batch is open."""
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 0)
    places = inputs[1]
    if not isinstance(places, np.ndarray) or not places.size:
        raise Unsupported("places that the network computes, or none", "supported are constants")
    if len(x.shape) == 1 and np.array_equal(places.reshape(-1), np.arange(x.shape[0])):
        return seen_as(a, x, places.shape)
    if axis % len(x.shape) == 0:
        raise Unsupported("images of the batch that are chosen", "the batch must stay open")
    if places.ndim == 0:
        return torch_shapes.select(a, x, axis, int(places))
    if places.ndim > 1:
        raise Unsupported(f"places {list(places.shape)}", "supported are one, or a list")
    first, *more = chosen = (places % x.shape[axis]).tolist()
    step = more[0] - first if more else 1
    if step > 0 and chosen == list(range(first, chosen[-1] + 1, step)):
        return torch_shapes.sliced(a, x, axis, first, chosen[-1] + 1, step)
    if len(chosen) > MOST_PLACES:
        raise Unsupported(f"{len(chosen)} places of an axis", f"at unequal distances supported are {MOST_PLACES}")
    return torch_shapes.concat(a, [torch_shapes.sliced(a, x, axis, p, p + 1, 1) for p in chosen], axis)


@reads("Pad")
def pad(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    amounts = ints(given(a, inputs, 1, attributes.get("pads")))
    value = given(a, inputs, 2, attributes.get("value", 0.0))
    axes = [d % len(x.shape) for d in ints(given(a, inputs, 3, range(len(x.shape))))]
    by_axis = {axis: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}
    ordered = [v for axis in reversed(range(len(x.shape))) for v in by_axis.get(axis, (0, 0))]
    mode = attributes.get("mode", "constant")
    if mode != "constant":
        of_pixels = ordered if any(ordered[4:]) else ordered[:4]
        return torch_shapes.repeated(a, x, of_pixels, PADDING.get(mode, mode)) if any(ordered) else x
    a.shape = x.shape
    return torch_shapes.pad(a, x, ordered, "constant", float(np.asarray(value).item()))


@reads("Resize", "Upsample")
def resize(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, mode = a.tensor(inputs[0]), attributes.get("mode", "nearest")
    two_dimensional(x)
    old = node.op_type == "Upsample" or a.version < 11
    place = 1 if old else 2
    scales = given(a, inputs, place, attributes.get("scales"))
    sizes = None if old else given(a, inputs, 3)
    scales = None if scales is None or not np.size(scales) else [float(s) for s in np.reshape(scales, -1)]
    axes = attributes.get("axes")
    if axes is not None and list(axes) == [2, 3]:
        scales = None if scales is None else [1.0, 1.0, *scales]
        sizes = None if sizes is None else [*x.shape[:2], *ints(sizes)]
    size = [int(np.floor(n * s)) for n, s in zip(x.shape, scales)] if scales is not None else ints(sizes)
    if size[1] != x.shape[1]:
        raise Unsupported("channels are resized", "supported is resizing height and width")
    where = attributes.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounds = attributes.get("nearest_mode", "floor" if old else "round_prefer_floor")
    whole = all(q % p == 0 for p, q in zip(x.shape[2:], size[2:]))
    exact = scales is None or all(n * s == q for n, s, q in zip(x.shape[2:], scales[2:], size[2:]))
    if attributes.get("antialias", 0) or not exact:
        raise Unsupported("antialiasing, or a scale that gives no whole size", "give it sizes")
    if mode == "nearest" and (
        (where == "asymmetric" and rounds == "floor")
        or (where == "half_pixel" and whole and rounds.startswith("round_prefer"))
    ):
        return a.made(a.add("upsample_nearest2d", a.image(x), size=tuple(size[2:])))
    one = where == "pytorch_half_pixel" and 1 in size[2:]  # where it takes the first pixel, not the middle
    if mode in ("linear", "bilinear") and where in ("half_pixel", "pytorch_half_pixel", "align_corners") and not one:
        corners = where == "align_corners"
        return a.made(a.add("upsample_bilinear2d", a.image(x), size=tuple(size[2:]), align_corners=corners))
    raise Unsupported(f"mode {mode} with {where}, {rounds}", "supported is PyTorch's nearest and bilinear")


@reads("DepthToSpace")
def depth_to_space(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """CRD is PyTorch's order of channels; DCR has the place in the block first."""
    image, r = a.image(inputs[0]), attributes["blocksize"]
    if attributes.get("mode", "DCR") == "DCR":
        image = a.add("channel_shuffle", image, groups=r * r)
    return a.made(a.add("pixel_shuffle", image, upscale_factor=r))


@reads("SpaceToDepth")
def space_to_depth(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """DCR, which older files mean, has the place in the block before the channel; CRD is PyTorch's order."""
    image = a.image(inputs[0])
    channels = a.type(image).channels
    apart = a.add("pixel_unshuffle", image, downscale_factor=attributes["blocksize"])
    if attributes.get("mode", "DCR") == "CRD":
        return a.made(apart)
    return a.made(a.add("channel_shuffle", apart, groups=channels))
