"""Squeeze-and-excitation: Hu, Shen & Sun, "Squeeze-and-excitation networks" (CVPR 2018), section 3.

Each channel of an image is weighed by a number that two small layers make of the means of all: ``x * gate(conv1x1(
activation(conv1x1(mean(x)))))``.
"""

from tricnn.ir import GraphBuilder


def gated(b: GraphBuilder, x: str, squeeze: int, activation: str = "relu", gate: str = "sigmoid") -> str:
    """``x * gate(fc2(activation(fc1(mean(x)))))``, ``squeeze`` channels between; layers named as torchvision's."""
    channels = b.type(x).channels
    s = b.global_avg_pool(x, name="avgpool")
    s = b.add(activation, b.conv2d(s, squeeze, 1, name="fc1"), name="activation")
    s = b.add(gate, b.conv2d(s, channels, 1, name="fc2"), name="scale_activation")
    return b.add("mul", x, s, name="scale")
