"""Time the NumPy functions against PyTorch's, on the CPU, both with all cores: python -m benchmarks.numpy_ops [--quick]

Each line is one function at one size: the median time here, the median time there, and their ratio. The two alternate
within one run, so that a busy machine slows both. Memory is channels-last on both sides. On a machine too busy for
that, compare one core's CPU time: taskset -c 0 python -m benchmarks.numpy_ops --cpu-time
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from tricnn.ir import numpy_ops as ops
from tricnn.measure.in_turns import times_in_turns

# name: n, c, size, k, kernel, stride, padding, groups
LENET = {
    "conv1": (256, 1, 28, 6, 5, 1, 2, 1),
    "conv2": (256, 6, 14, 16, 5, 1, 0, 1),
}
RESNET = {
    "stem": (8, 3, 224, 64, 7, 2, 3, 1),
    "56x56x64": (8, 64, 56, 64, 3, 1, 1, 1),
    "56x56x64 /2": (8, 64, 56, 128, 3, 2, 1, 1),
    "28x28x128": (8, 128, 28, 128, 3, 1, 1, 1),
    "28x28x128 /2": (8, 128, 28, 256, 3, 2, 1, 1),
    "14x14x256": (8, 256, 14, 256, 3, 1, 1, 1),
    "14x14x256 /2": (8, 256, 14, 512, 3, 2, 1, 1),
    "7x7x512": (8, 512, 7, 512, 3, 1, 1, 1),
    "shortcut 56x56x64": (8, 64, 56, 128, 1, 2, 0, 1),
    "shortcut 28x28x128": (8, 128, 28, 256, 1, 2, 0, 1),
    "shortcut 14x14x256": (8, 256, 14, 512, 1, 2, 0, 1),
}
RESNET_COUNTS = {"56x56x64": 4, "28x28x128": 3, "14x14x256": 3, "7x7x512": 3}  # how often ResNet-18 has each; else once
OTHERS = {
    "depthwise 112x112x32": (8, 32, 112, 32, 3, 1, 1, 32),
    "depthwise 14x14x512": (8, 512, 14, 512, 3, 1, 1, 512),
    "32 groups 14x14x256": (8, 256, 14, 256, 3, 1, 1, 32),
}
# name: n, c, size, kernel, stride, padding
POOLS = {
    "LeNet 28x28x6": (256, 6, 28, 2, 2, 0),
    "LeNet 10x10x16": (256, 16, 10, 2, 2, 0),
    "ResNet 112x112x64": (8, 64, 112, 3, 2, 1),
    "Inception 28x28x192": (8, 192, 28, 3, 1, 1),
}

Pair = tuple[str, Callable[[], object], Callable[[], object]]


def images(n: int, c: int, size: int) -> torch.Tensor:
    return torch.randn(n, c, size, size).contiguous(memory_format=torch.channels_last)


def convolution(n: int, c: int, size: int, k: int, kernel: int, stride: int, padding: int, groups: int) -> list[Pair]:
    x, w = images(n, c, size), torch.randn(k, c // groups, kernel, kernel)
    y = F.conv2d(x, w, None, stride, padding, 1, groups)
    dy = torch.randn_like(y)
    xa, wa, dya = x.numpy(), w.numpy(), dy.numpy()
    attrs = dict(stride=(stride,) * 2, padding=(padding,) * 4, dilation=(1, 1), groups=groups)

    def backward(*mask: bool) -> Callable[[], object]:
        args = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *args)

    return [
        ("fprop", lambda: ops.conv2d(xa, wa, **attrs), lambda: F.conv2d(x, w, None, stride, padding, 1, groups)),
        (
            "dgrad",
            lambda: ops.conv2d_grad_input(dya, wa, input_size=(size, size), **attrs),
            backward(True, False, False),
        ),
        (
            "wgrad",
            lambda: ops.conv2d_grad_weight(dya, xa, kernel_size=(kernel, kernel), **attrs),
            backward(False, True, False),
        ),
    ]


def pool(n: int, c: int, size: int, kernel: int, stride: int, padding: int) -> list[Pair]:
    x = images(n, c, size)
    xa = x.numpy()
    attrs = dict(kernel_size=(kernel,) * 2, stride=(stride,) * 2, padding=(padding,) * 4)
    args = [kernel] * 2, [stride] * 2, [padding] * 2
    y, index = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
    dy = torch.randn_like(y)
    dya, index_a = dy.numpy(), ops.max_pool2d_index(xa, **attrs)
    aten = torch.ops.aten
    return [
        (
            "max + index",
            lambda: (ops.max_pool2d(xa, **attrs), ops.max_pool2d_index(xa, **attrs)),
            lambda: F.max_pool2d(x, kernel, stride, padding, return_indices=True),
        ),
        (
            "max grad",
            lambda: ops.max_pool2d_grad(dya, index_a, input_size=(size, size), **attrs),
            lambda: aten.max_pool2d_with_indices_backward(dy, x, *args, [1, 1], False, index),
        ),
        ("avg", lambda: ops.avg_pool2d(xa, **attrs), lambda: F.avg_pool2d(x, kernel, stride, padding)),
        (
            "avg grad",
            lambda: ops.avg_pool2d_grad(dya, input_size=(size, size), **attrs),
            lambda: aten.avg_pool2d_backward(dy, x, *args, False, True, None),
        ),
    ]


def others() -> Iterator[Pair]:
    x = images(8, 96, 55).requires_grad_()
    attrs = dict(size=5, alpha=1e-4, beta=0.75, k=2.0)
    y = F.local_response_norm(x, **attrs)
    dy = torch.randn_like(y)
    xa, dya = x.detach().numpy(), dy.numpy()
    yield (
        "LRN 55x55x96",
        lambda: ops.local_response_norm(xa, **attrs),
        lambda: F.local_response_norm(x.detach(), **attrs),
    )
    yield (
        "LRN grad 55x55x96",
        lambda: ops.local_response_norm_grad(dya, xa, **attrs),
        lambda: torch.autograd.grad(y, x, dy, retain_graph=True),
    )
    shape = (256, 4096)
    yield (
        "dropout mask 256x4096",
        lambda: ops.keep_mask(shape, p=0.5, seed=1, layer=2, step=3),
        lambda: torch.empty(shape).bernoulli_(0.5),
    )
    logits, labels = torch.randn(256, 1000), torch.randint(0, 1000, (256,))
    la, labels_a = logits.numpy(), labels.numpy()
    yield (
        "cross entropy 256x1000",
        lambda: ops.cross_entropy(la, labels_a),
        lambda: F.cross_entropy(logits, labels),
    )


clock = time.perf_counter


def milliseconds(pair: Pair, repeats: int) -> tuple[float, float]:
    """Median times of the two, alternating; each runs once untimed just before it is timed."""

    def timer(function: Callable[[], object]) -> float:
        function()
        start = clock()
        function()
        return 1e3 * (clock() - start)

    timers = {i: partial(timer, function) for i, function in enumerate(pair[1:])}
    times = times_in_turns(timers, least=repeats, most=repeats)
    return statistics.median(times[0]), statistics.median(times[1])


def report(name: str, pairs: list[Pair], repeats: int) -> list[tuple[float, float]]:
    measured = [milliseconds(pair, repeats) for pair in pairs]
    cells = "   ".join(f"{pair[0]} {a:7.2f} / {b:7.2f} = {a / b:5.2f}" for pair, (a, b) in zip(pairs, measured))
    print(f"{name:24s} {cells}", flush=True)
    return measured


def report_network(name: str, layers: dict, counts: dict, repeats: int) -> None:
    """The layers, then the sum over the network; the first layer's dgrad is left out, as training leaves it out."""
    print(f"\n{name}: milliseconds here / PyTorch = ratio")
    here = there = 0.0
    for i, (layer, case) in enumerate(layers.items()):
        measured = report(layer, convolution(*case), repeats)
        for kind, (a, b) in zip(("fprop", "dgrad", "wgrad"), measured):
            if i > 0 or kind != "dgrad":
                here += counts.get(layer, 1) * a
                there += counts.get(layer, 1) * b
    print(f"{'all convolutions':24s} {here:.1f} / {there:.1f} = {here / there:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of the process, not time passed")
    args = parser.parse_args()
    repeats = 3 if args.quick else 11
    if args.cpu_time:
        global clock
        clock = time.process_time
    torch.manual_seed(0)
    report_network("LeNet-5, batch 256", LENET, {}, repeats)
    report_network("ResNet-18, batch 8", RESNET, RESNET_COUNTS, repeats)
    print("\nGroups")
    for name, case in OTHERS.items():
        report(name, convolution(*case), repeats)
    print("\nPools")
    for name, shape in POOLS.items():
        report(name, pool(*shape), repeats)
    print("\nOthers")
    for pair in others():
        report(pair[0], [("", *pair[1:])], repeats)


if __name__ == "__main__":
    main()
