"""MobileNetV3: Howard et al., "Searching for MobileNetV3" (ICCV 2019), tables 1 (large) and 2 (small).

A block expands its input (1x1), filters each channel by itself (3x3 or 5x5), in some blocks weighs the channels by a
gate, and projects (1x1, no activation); the input is added where the shape stays. The gate is squeeze-and-excitation
(Hu, Shen & Sun, CVPR 2018): ``x * hardsigmoid(conv1x1(relu(conv1x1(mean(x)))))``. Activations are ReLU in the early
blocks and hardswish in the later. Names are torchvision's, and so are batch norm's eps and momentum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tricnn.ir import Graph, GraphBuilder

from .gate import gated
from .widths import scaled, to_multiple

ImageShape = Sequence[int]


@dataclass(frozen=True)
class Block:
    """A row of the paper's tables: kernel size, expanded channels, channels, gate, activation, stride."""

    size: int
    expanded: int
    channels: int
    gate: bool
    activation: str
    stride: int


def _blocks(rows: str) -> list[Block]:
    """The rows as the paper prints them: kernel, exp size, #out, SE, NL, s."""
    found = []
    for row in rows.strip().splitlines():
        size, expanded, channels, gate, activation, stride = row.split()
        name = {"RE": "relu", "HS": "hardswish"}[activation]
        found.append(Block(int(size), int(expanded), int(channels), gate == "yes", name, int(stride)))
    return found


LARGE = _blocks("""
    3   16   16  -    RE  1
    3   64   24  -    RE  2
    3   72   24  -    RE  1
    5   72   40  yes  RE  2
    5  120   40  yes  RE  1
    5  120   40  yes  RE  1
    3  240   80  -    HS  2
    3  200   80  -    HS  1
    3  184   80  -    HS  1
    3  184   80  -    HS  1
    3  480  112  yes  HS  1
    3  672  112  yes  HS  1
    5  672  160  yes  HS  2
    5  960  160  yes  HS  1
    5  960  160  yes  HS  1
""")
SMALL = _blocks("""
    3   16   16  yes  RE  2
    3   72   24  -    RE  2
    3   88   24  -    RE  1
    5   96   40  yes  HS  2
    5  240   40  yes  HS  1
    5  240   40  yes  HS  1
    5  120   48  yes  HS  1
    5  144   48  yes  HS  1
    5  288   96  yes  HS  2
    5  576   96  yes  HS  1
    5  576   96  yes  HS  1
""")


def mobilenet_v3_large(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MobileNetV3-Large: 15 inverted residuals, gates and hardswish."""
    return _mobilenet("mobilenet_v3_large", LARGE, (960, 1280), num_classes, input_shape, width, dropout)


def mobilenet_v3_small(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MobileNetV3-Small: 11 inverted residuals, gates and hardswish."""
    return _mobilenet("mobilenet_v3_small", SMALL, (576, 1024), num_classes, input_shape, width, dropout)


def _mobilenet(
    name: str, blocks: Sequence[Block], last: tuple[int, int], num_classes: int, input_shape: ImageShape, width: float,
    dropout: float,
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    with b.scope("features.0"):
        x = _unit(b, x, w(16), 3, 2, "hardswish")
    for number, (before, block) in enumerate(zip([16, *(block.channels for block in blocks)], blocks), 1):
        with b.scope(f"features.{number}"):
            expanded = w(block.expanded) if block.expanded != before else 0
            x = _block(b, x, block, expanded, w(block.channels), w(to_multiple(block.expanded // 4)))
    with b.scope(f"features.{len(blocks) + 1}"):
        x = _unit(b, x, w(last[0]), 1, 1, "hardswish")
    x = b.linear(b.global_avg_pool(x, name="avgpool"), w(last[1]), name="classifier.0", weight_init="normal(0.01)")
    x = b.add("hardswish", x, name="classifier.1")
    if dropout:
        x = b.dropout(x, dropout, name="classifier.2")
    return b.build(b.linear(x, num_classes, name="classifier.3", weight_init="normal(0.01)"))


def _block(b: GraphBuilder, x: str, block: Block, expanded: int, channels: int, squeeze: int) -> str:
    """``x + bn(conv1x1(gate(depthwise(expand(x)))))``, figures 3 and 4; not expanded, if ``expanded`` is 0."""
    before, y = b.type(x).channels, x
    within = expanded or before
    layers = [lambda y: _unit(b, y, within, block.size, block.stride, block.activation, groups=within)]
    if expanded:
        layers.insert(0, lambda y: _unit(b, y, within, 1, 1, block.activation))
    if block.gate:
        layers.append(lambda y: gated(b, y, squeeze, gate="hardsigmoid"))
    layers.append(lambda y: _unit(b, y, channels, 1, 1, None))
    for number, layer in enumerate(layers):
        with b.scope(f"block.{number}"):
            y = layer(y)
    return b.add_(y, x, name="add") if block.stride == 1 and before == channels else y


def _unit(
    b: GraphBuilder, x: str, filters: int, size: int, stride: int, activation: str | None, groups: int = 1
) -> str:  # fmt: skip
    """``activation(bn(conv2d(x)))``, layers 0, 1 and 2 of their scope."""
    x = b.conv2d(x, filters, size, stride=stride, padding=size // 2, groups=groups, bias=False, name="0")
    x = b.batch_norm(x, name="1", eps=1e-3, momentum=0.01)
    return b.add(activation, x, name="2") if activation else x
