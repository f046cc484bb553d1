"""RepVGG: Ding, Zhang, Ma, Han, Ding & Sun, "RepVGG: making VGG-style ConvNets great again" (CVPR 2021).

Table 2: stages of 1, d_1 .. d_4 blocks at 112x112 to 7x7 pixels, of 64 a (at most 64), 64 a, 128 a, 256 a and 512 b
channels, the first block of each with stride 2. A block is trained as three branches that are added, a 3x3
convolution, a 1x1 convolution and (where the shape stays) the input, each with a batch norm (figure 2). For inference
the compiler folds them into one 3x3 convolution (section 3.3; compiler/fold.py): the network is then a plain one.
Names are timm's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import conv
from .widths import scaled

ImageShape = Sequence[int]


def repvgg_a0(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RepVGG-A0: 22 blocks of three branches, one 3x3 convolution each for inference."""
    return _repvgg("repvgg_a0", (2, 4, 14, 1), (0.75, 2.5), num_classes, input_shape, width)


def repvgg_a1(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RepVGG-A1: 22 blocks of three branches, one 3x3 convolution each for inference."""
    return _repvgg("repvgg_a1", (2, 4, 14, 1), (1, 2.5), num_classes, input_shape, width)


def repvgg_a2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RepVGG-A2: 22 blocks of three branches, one 3x3 convolution each for inference."""
    return _repvgg("repvgg_a2", (2, 4, 14, 1), (1.5, 2.75), num_classes, input_shape, width)


def repvgg_b0(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RepVGG-B0: 28 blocks of three branches, one 3x3 convolution each for inference."""
    return _repvgg("repvgg_b0", (4, 6, 16, 1), (1, 2.5), num_classes, input_shape, width)


def repvgg_b1(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RepVGG-B1: 28 blocks of three branches, one 3x3 convolution each for inference."""
    return _repvgg("repvgg_b1", (4, 6, 16, 1), (2, 4), num_classes, input_shape, width)


def _repvgg(
    name: str, depths: Sequence[int], multipliers: tuple[float, float], num_classes: int, input_shape: ImageShape,
    width: float,
) -> Graph:  # fmt: skip
    w = scaled(width)
    a, last = multipliers
    channels = [min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * last)]
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    for stage, (filters, depth) in enumerate(zip(channels, (1, *depths), strict=True)):
        for i in range(depth):
            with b.scope(f"stages.{stage - 1}.{i}" if stage else "stem"):
                x = _block(b, x, w(filters), 1 if i else 2)
    x = b.global_avg_pool(x, name="avgpool")
    return b.build(b.linear(x, num_classes, name="head.fc", weight_init="normal(0.01)"))


def _block(b: GraphBuilder, x: str, filters: int, stride: int) -> str:
    """``relu(bn(conv1x1(x)) + bn(conv3x3(x)) + bn(x))``, the last one where the shape stays."""
    same = stride == 1 and b.type(x).channels == filters
    y, z = (
        b.batch_norm(conv(b, x, filters, size, stride, name=f"{name}.conv"), name=f"{name}.bn")
        for name, size in (("conv_1x1", 1), ("conv_kxk", 3))
    )
    y = b.add_(y, z, name="add")
    if same:
        y = b.add_(y, b.batch_norm(x, name="identity"), name="add_identity")
    return b.relu(y, name="act")
