"""U-Net: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation" (MICCAI 2015).

    contracting    two 3x3 convolutions, 2x2 max pooling, four times: 64, 128, 256, 512 filters
    at the bottom  two 3x3 convolutions of 1024 filters
    expanding      2x2 transposed convolution, joined with the contracting path's image of that size, two 3x3
                   convolutions, four times: 512, 256, 128, 64 filters
    last           1x1 convolution to the classes

Figure 1, with two differences that everybody makes: convolutions are padded, so that logits have the image's size and
nothing is cropped, and each has batch norm. Names are those of the U-Net on PyTorch's hub (Buda, Saha & Mazurowski
2019, mateuszbuda/brain-segmentation-pytorch), which is this one at half the width.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import conv
from .widths import scaled

ImageShape = Sequence[int]


def unet(num_classes: int = 2, input_shape: ImageShape = (3, 256, 256), width: float = 1.0) -> Graph:
    """U-Net: a class for each pixel, of coarse features and fine ones joined."""
    w = scaled(width)
    b = GraphBuilder("unet")
    x = b.input("x", input_shape)
    fine = []
    for level in range(1, 5):
        x = _two(b, x, w(32 << level), f"encoder{level}.enc{level}")
        fine.append(x)
        x = b.max_pool2d(x, 2, name=f"pool{level}")
    x = _two(b, x, w(1024), "bottleneck.bottleneck")
    for level in range(4, 0, -1):
        filters = w(32 << level)
        x = b.conv_transpose2d(x, filters, 2, stride=2, name=f"upconv{level}")
        x = b.concat([x, fine.pop()], name=f"concat{level}")
        x = _two(b, x, filters, f"decoder{level}.dec{level}")
    return b.build(b.conv2d(x, num_classes, 1, name="conv", weight_init="he_normal(fan_in)"))


def _two(b: GraphBuilder, x: str, filters: int, name: str) -> str:
    """3x3 convolution, batch norm, ReLU, twice."""
    for i in (1, 2):
        x = conv(b, x, filters, 3, name=f"{name}conv{i}")
        x = b.relu(b.batch_norm(x, name=f"{name}norm{i}"), name=f"{name}relu{i}")
    return x
