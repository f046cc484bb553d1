"""GoogLeNet, the first Inception: Szegedy et al., "Going deeper with convolutions" (CVPR 2015), section 5 and table 1.

``googlenet`` is the paper's, with local response normalisation and two auxiliary heads while it trains.
``googlenet_bn`` is the network of torchvision's published weights: batch norm in place of local response normalisation
and biases, 3x3 where the paper has 5x5, the last pooling 2x2. (Those weights expect images scaled to -1..1, for which
``transform_input`` is: see published.py.) ``inception_block`` is the lecture's example, the block 3a by itself.
"""

from collections.abc import Sequence

from tricnn.ir import Graph

from .published import images
from .units import UnitBuilder

ImageShape = Sequence[int]

#: table 1: filters of the 1x1, of the 3x3 after its reduction, of the 5x5 after its reduction, and behind the pooling
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def inception_block(
    num_classes: int | None = None, input_shape: ImageShape = (192, 28, 28), width: float = 1.0
) -> Graph:
    """One Inception block (3a of GoogLeNet), 192 to 256 channels.

    The averages of its channels are the logits, so the counts are the block's own; ``num_classes`` adds a dense layer.
    """
    b = UnitBuilder("inception_block", width, norm=False)
    x = inception(b, b.input("x", input_shape), "3a", 5)
    x = b.flatten(b.global_avg_pool(x, name="avgpool"), name="flatten")
    return b.build(x if num_classes is None else b.linear(x, num_classes, name="fc"))


def googlenet(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, aux: bool = True,
    dropout: float = 0.4, aux_dropout: float = 0.7,
) -> Graph:  # fmt: skip
    """GoogLeNet as published: 5x5 branches, local response normalisation, two auxiliary heads in training."""
    b = UnitBuilder("googlenet", width, norm=False)
    x = b.unit(b.input("x", input_shape), 64, 7, "conv1", stride=2)
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool1")
    x = b.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0, name="norm1")
    x = b.unit(x, 64, 1, "conv2")
    x = b.unit(x, 192, 3, "conv3")
    x = b.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0, name="norm2")
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool2")
    return _blocks_and_heads(b, x, 5, 3, num_classes, aux, dropout, aux_dropout)


def googlenet_bn(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, aux: bool = False,
    dropout: float = 0.2, aux_dropout: float = 0.7, transform_input: bool = False,
) -> Graph:  # fmt: skip
    """GoogLeNet with batch norm and 3x3 branches, as torchvision has it."""
    b = UnitBuilder("googlenet_bn", width)
    x = b.unit(images(b, input_shape, transform_input), 64, 7, "conv1", stride=2)
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool1")
    x = b.unit(x, 64, 1, "conv2")
    x = b.unit(x, 192, 3, "conv3")
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool2")
    return _blocks_and_heads(b, x, 3, 2, num_classes, aux, dropout, aux_dropout)


def _blocks_and_heads(
    b: UnitBuilder, x: str, third: int, last_pool: int, num_classes: int, aux: bool, dropout: float, aux_dropout: float
) -> Graph:
    heads = {"4a": "aux1", "4d": "aux2"} if aux else {}
    pools = {"4a": ("maxpool3", 3), "5a": ("maxpool4", last_pool)}
    for block in INCEPTION:
        if block in pools:
            name, size = pools[block]
            x = b.max_pool2d(x, size, 2, ceil_mode=True, name=name)
        with b.scope(f"inception{block}"):
            x = inception(b, x, block, third)
        if block in heads:
            logits = auxiliary(b, x, heads[block], num_classes, aux_dropout)
            b.output(logits, heads[block], loss_weight=0.3, training_only=True)
    x = b.flatten(b.global_avg_pool(x, name="avgpool"), name="flatten")
    x = b.dropout(x, dropout, name="dropout") if dropout else x
    return b.build(b.linear(x, num_classes, name="fc", weight_init="normal(0.01)"))


def inception(b: UnitBuilder, x: str, block: str, third: int) -> str:
    """Figure 2b: four branches joined on the channels; ``third`` is the kernel size of the third."""
    one, reduce3, three, reduce5, five, pool = INCEPTION[block]
    branches = [
        b.branch(x, "branch1", (one, 1)),
        b.branch(x, "branch2.{}", (reduce3, 1), (three, 3)),
        b.branch(x, "branch3.{}", (reduce5, 1), (five, third)),
        b.branch(b.max_pool2d(x, 3, 1, padding=1, name="branch4.0"), "branch4.{}", (pool, 1), first=1),
    ]
    return b.concat(branches, name="concat")


def auxiliary(b: UnitBuilder, x: str, name: str, num_classes: int, dropout: float) -> str:
    """Section 5: 5x5 average pooling with stride 3, 128 1x1 filters, a dense layer of 1024, dropout, the classes."""
    with b.scope(name):
        x = b.unit(b.avg_pool2d(x, 5, 3, name="avgpool"), 128, 1, "conv")
        x = b.relu(b.linear(x, b.scaled(1024), name="fc1"), name="relu")
        x = b.dropout(x, dropout, name="dropout") if dropout else x
        return b.linear(x, num_classes, name="fc2", weight_init="normal(0.01)")
