"""What a declared network computes, said by PyTorch's own functions and its autograd: nothing of ours but the names."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from tricnn.ir import Graph
from tricnn.ir.numpy_ops import keep_mask

Values = Mapping[str, np.ndarray]
Rounding = Callable[[torch.Tensor], torch.Tensor]


def broadcast(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A vector has a number for each channel."""
    rank = max(x.dim(), y.dim())
    x, y = (t.view(-1, *[1] * (rank - 2)) if t.dim() == 1 and rank > 2 else t for t in (x, y))
    return x, y


#: pointwise operations of the table, by PyTorch's own functions: (attributes, operands) -> result
POINTWISE: dict[str, Callable[..., torch.Tensor]] = {
    "sub": lambda a, x, y: torch.sub(*broadcast(x, y)),
    "mul": lambda a, x, y: torch.mul(*broadcast(x, y)),
    "div": lambda a, x, y: torch.div(*broadcast(x, y)),
    "maximum": lambda a, x, y: torch.maximum(*broadcast(x, y)),
    "minimum": lambda a, x, y: torch.minimum(*broadcast(x, y)),
    "shift": lambda a, x: x + a["amount"],
    "neg": lambda a, x: -x,
    "detach": lambda a, x: x.detach(),
    "abs": lambda a, x: x.abs(),
    "square": lambda a, x: x.square(),
    "sqrt": lambda a, x: x.sqrt(),
    "reciprocal": lambda a, x: x.reciprocal(),
    "exp": lambda a, x: x.exp(),
    "log": lambda a, x: x.log(),
    "clamp": lambda a, x: x.clamp(a["min"], a["max"]),
    "relu6": lambda a, x: F.relu6(x),
    "leaky_relu": lambda a, x: F.leaky_relu(x, a["negative_slope"]),
    "prelu": lambda a, x, weight: F.prelu(x, weight),
    "elu": lambda a, x: F.elu(x, a["alpha"]),
    "silu": lambda a, x: F.silu(x),
    # PyTorch multiplies its gradient by 1/6 of fp32, whatever x is
    "hardsigmoid": lambda a, x: F.hardsigmoid(x) if x.dtype == torch.float32 else F.relu6(x + 3) / 6,
    "hardswish": lambda a, x: F.hardswish(x),
    "gelu": lambda a, x: F.gelu(x),
    "gelu_tanh": lambda a, x: F.gelu(x, approximate="tanh"),
    "mish": lambda a, x: F.mish(x),
    "softplus": lambda a, x: F.softplus(x, a["beta"]),
}


def padded(x: torch.Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> torch.Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def pooled(
    x: torch.Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int],
    ceil_mode: bool, average: bool, count_include_pad: bool = True,
) -> torch.Tensor:  # fmt: skip
    """PyTorch's pooling; where the padding is uneven, which it does not know, its pooling of a padded plane."""
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        if average:
            return F.avg_pool2d(x, kernel_size, stride, (top, left), ceil_mode, count_include_pad)
        return F.max_pool2d(x, kernel_size, stride, (top, left), ceil_mode=ceil_mode)
    # PyTorch leaves out a window of ceil mode that begins beyond the image and the padding before it
    sizes = [(x.shape[2], top, bottom), (x.shape[3], left, right)]
    missing = []
    for (extent, before, after), k, step in zip(sizes, kernel_size, stride, strict=True):
        steps = -(-(extent + before + after - k) // step) if ceil_mode else (extent + before + after - k) // step
        steps -= steps * step >= extent + before
        missing.append(max(0, steps * step + k - extent - before - after))
    beyond = (0, missing[0], 0, missing[1])
    if not average:
        return F.max_pool2d(padded(padded(x, padding, -torch.inf), beyond, -torch.inf), kernel_size, stride)
    counted = padded(torch.ones_like(x), padding, float(count_include_pad))
    total = F.avg_pool2d(padded(padded(x, padding), beyond), kernel_size, stride)
    return total / F.avg_pool2d(padded(counted, beyond), kernel_size, stride)


def run(
    graph: Graph, tensors: dict[str, torch.Tensor], *, training: bool, seed: int = 0, step: int = 0,
    rounding: Rounding = lambda y: y,
) -> None:  # fmt: skip
    """Add the value of every layer of a declared graph to ``tensors``; training updates the running statistics.
    ``rounding`` is what becomes of each layer's result before the next one reads it."""
    for node in graph.nodes:
        if node.name in tensors:
            continue
        x, *rest = [tensors[v] for v in node.inputs]
        a = node.attrs
        match node.op:
            case "conv2d":
                y = F.conv2d(padded(x, a["padding"]), *rest, stride=a["stride"], dilation=a["dilation"],
                             groups=a["groups"])  # fmt: skip
            case "conv_transpose2d":
                top, bottom, left, right = a["padding"]
                y = F.conv_transpose2d(x, *rest, stride=a["stride"], dilation=a["dilation"], groups=a["groups"],
                                       output_padding=a["output_padding"])  # fmt: skip
                y = padded(y, (-top, -bottom, -left, -right))
            case "linear":
                y = F.linear(x, *rest)
            case "batch_norm":
                weight, bias, mean, var = rest
                y = F.batch_norm(x, mean, var, weight, bias, training, a["momentum"], a["eps"])
            case "max_pool2d" | "avg_pool2d":
                y = pooled(x, average=node.op == "avg_pool2d", **a)
            case "global_avg_pool":
                y = F.adaptive_avg_pool2d(x, 1)
            case "upsample_nearest2d":
                y = F.interpolate(x, a["size"], mode="nearest")
            case "upsample_bilinear2d":
                y = F.interpolate(x, a["size"], mode="bilinear", align_corners=a["align_corners"])
            case "adaptive_avg_pool2d":
                y = F.adaptive_avg_pool2d(x, a["output_size"])
            case "zero_pad2d":
                y = padded(x, a["padding"])
            case "channel_shuffle":
                y = F.channel_shuffle(x, a["groups"])
            case "pixel_shuffle":
                y = F.pixel_shuffle(x, a["upscale_factor"])
            case "pixel_unshuffle":
                y = F.pixel_unshuffle(x, a["downscale_factor"])
            case "dropout" | "dropout2d" | "stochastic_depth":
                y = x
                if training:
                    own = {"dropout": x.dim(), "dropout2d": 2, "stochastic_depth": 1}[node.op]
                    drawn = (*x.shape[:own], *[1] * (x.dim() - own))
                    keep = keep_mask(drawn, p=a["p"], seed=seed, layer=a["layer"], step=step)
                    y = x * torch.from_numpy(np.ascontiguousarray(keep)) / (1 - a["p"])
            case "relu" | "sigmoid" | "tanh":
                y = getattr(torch, node.op)(x)
            case "add":
                y = x + rest[0]
            case "concat":
                y = torch.cat([x, *rest], min(x.dim() - 1, 1))
            case "slice_channels":
                y = x[:, a["start"] : a["stop"]]
            case "pad_channels":
                before, after = (x.new_zeros(len(x), a[side], *x.shape[2:]) for side in ("before", "after"))
                y = torch.cat([before, x, after], 1)
            case "softmax":
                y = F.softmax(x, 1)
            case "scale":
                y = x * a["factor"]
            case "local_response_norm":
                y = F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["k"])
            case "unflatten":
                y = x.unflatten(1, a["shape"])
            case "flatten":
                y = x.flatten(1)
            case op if op in POINTWISE:
                y = POINTWISE[op](a, x, *rest)
            case _:
                raise NotImplementedError(node.op)
        tensors[node.name] = rounding(y)


def as_tensors(graph: Graph, values: Values) -> dict[str, torch.Tensor]:
    return {n.name: torch.from_numpy(np.array(values[n.name])) for n in graph.nodes if n.name in values}


def rounded_at_random(bits: int, seed: int) -> Rounding:
    """A rounding of each number, and of the gradient that comes back, by a random part of the last of so many bits
    (Parker, Monte Carlo arithmetic, 1997): how far results move by it is how far rounding may move them."""
    random = torch.Generator().manual_seed(seed)

    def rounding(y: torch.Tensor) -> torch.Tensor:
        return y * (1 + (2 * torch.rand(y.shape, generator=random, dtype=y.dtype) - 1) * 2.0**-bits)

    return rounding


def outputs(graph: Graph, values: Values, rounding: Rounding = lambda y: y) -> dict[str, np.ndarray]:
    """Inference: outputs by name."""
    tensors = as_tensors(graph, values)
    run(graph, tensors, training=False, rounding=rounding)
    return {o.name: tensors[o.value].numpy() for o in graph.outputs if not o.training_only}


def training_step(
    graph: Graph, values: Values, labels: np.ndarray, *, label_smoothing: float = 0.0, seed: int = 0, step: int = 0,
    rounding: Rounding = lambda y: y,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``loss``, ``grad:<parameter>`` by autograd, and the running statistics after the step."""
    tensors = as_tensors(graph, values)
    for node in graph.parameters:
        tensors[node.name].requires_grad_(True)
    run(graph, tensors, training=True, seed=seed, step=step, rounding=rounding)

    def scores(value: str) -> torch.Tensor:
        """Logits; of probabilities their logarithms, which are logits of the same."""
        node = graph.by_name[value]
        return F.log_softmax(tensors[node.inputs[0]], 1) if node.op == "softmax" else tensors[value]

    loss = sum(
        o.loss_weight * F.cross_entropy(scores(o.value), torch.from_numpy(labels), label_smoothing=label_smoothing)
        for o in graph.outputs
    )
    loss.backward()
    results = {"loss": loss.detach().numpy()}
    results |= {f"grad:{n.name}": tensors[n.name].grad.numpy() for n in graph.parameters}
    results |= {n.name: tensors[n.name].numpy() for n in graph.buffers}
    return results
