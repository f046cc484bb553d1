"""The architectures, declared. Each is a function that returns a :class:`tricnn.ir.Graph`.

Every one takes ``num_classes``, ``input_shape`` (channels, height, width) and ``width``, which multiplies the number of
channels: the same topology at any size. Dropout's probability is an argument too; 0 leaves it out.
"""

from collections.abc import Callable
from typing import Any

from tricnn.ir import Graph

from .alexnet import alexnet, alexnet_2012, alexnet_lecture
from .cifar_resnet import (
    cifar_resnet20,
    cifar_resnet20_bn_after_addition,
    cifar_resnet20_preactivation,
    cifar_resnet20_relu_before_addition,
    cifar_resnet20_relu_preactivation,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
)
from .convnext import convnext_base, convnext_small, convnext_tiny
from .densenet import densenet121, densenet161, densenet169, densenet201
from .efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_v2_s,
)
from .googlenet import googlenet, googlenet_bn, inception_block
from .inception_bn import inception_bn
from .inception_resnet_v2 import inception_resnet_v2
from .inception_v3 import inception_v3
from .inception_v4 import inception_v4
from .lenet import lenet, lenet_sigmoid
from .lenet5 import lenet5
from .mnasnet import mnasnet0_5, mnasnet0_75, mnasnet1_0, mnasnet1_3
from .mobilenet_v2 import mobilenet_v2
from .mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from .regnet import (
    regnet_x_1_6gf,
    regnet_x_3_2gf,
    regnet_x_8gf,
    regnet_x_400mf,
    regnet_x_800mf,
    regnet_y_1_6gf,
    regnet_y_3_2gf,
    regnet_y_8gf,
    regnet_y_400mf,
    regnet_y_800mf,
)
from .repvgg import repvgg_a0, repvgg_a1, repvgg_a2, repvgg_b0, repvgg_b1
from .resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    seresnet18,
    seresnet34,
    seresnet50,
    seresnet101,
    seresnet152,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .resnet_v2 import resnet18_v2, resnet34_v2, resnet50_v2, resnet101_v2, resnet152_v2
from .segmentation import deeplabv3_resnet50, fcn_resnet50
from .shufflenet_v2 import shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0
from .squeezenet import squeezenet1_0, squeezenet1_1
from .unet import unet
from .vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

_TINY: dict[str, Any] = {"num_classes": 10, "width": 1 / 16}
_AT_32 = {**_TINY, "input_shape": (3, 32, 32)}
_AT_64 = {**_TINY, "input_shape": (3, 64, 64)}
#: the smallest images that leave the Inceptions' last blocks 2x2 pixels
_AT_107 = {**_TINY, "input_shape": (3, 107, 107)}
#: narrow enough to leave one channel in each group of a ResNeXt's first stage
_GROUPS_OF_4 = {**_AT_64, "width": 1 / 4}
_GROUPS_OF_8 = {**_AT_64, "width": 1 / 8}
_CIFAR = {"width": 1 / 4, "input_shape": (3, 16, 16)}

#: every architecture, with the arguments that keep its topology and make it small enough to check without a GPU
_ZOO: dict[Callable[..., Graph], dict[str, Any]] = {
    lenet: {},
    lenet_sigmoid: {},
    lenet5: {},
    alexnet: _AT_64,
    alexnet_lecture: {**_TINY, "input_shape": (3, 67, 67)},
    alexnet_2012: _AT_64,
    vgg11: _AT_32,
    vgg11_bn: _AT_32,
    vgg13: _AT_32,
    vgg13_bn: _AT_32,
    vgg16: _AT_32,
    vgg16_bn: _AT_32,
    vgg19: _AT_32,
    vgg19_bn: _AT_32,
    inception_block: {**_TINY, "input_shape": (12, 7, 7)},
    googlenet: {**_TINY, "input_shape": (3, 80, 80)},
    googlenet_bn: _AT_64,
    inception_bn: _AT_64,
    inception_v3: _AT_107,
    inception_v4: _AT_107,
    inception_resnet_v2: _AT_107,
    resnet18: _AT_64,
    resnet34: _AT_64,
    resnet50: _AT_64,
    resnet101: _AT_64,
    resnet152: _AT_64,
    resnet18_v2: _AT_64,
    resnet34_v2: _AT_64,
    resnet50_v2: _AT_64,
    resnet101_v2: _AT_64,
    resnet152_v2: _AT_64,
    resnext50_32x4d: _GROUPS_OF_4,
    resnext101_32x8d: _GROUPS_OF_8,
    resnext101_64x4d: _GROUPS_OF_4,
    wide_resnet50_2: _AT_64,
    wide_resnet101_2: _AT_64,
    seresnet18: _AT_64,
    seresnet34: _AT_64,
    seresnet50: _AT_64,
    seresnet101: _AT_64,
    seresnet152: _AT_64,
    regnet_x_400mf: _GROUPS_OF_8,
    regnet_x_800mf: _GROUPS_OF_8,
    regnet_x_1_6gf: _GROUPS_OF_8,
    regnet_x_3_2gf: _GROUPS_OF_8,
    regnet_x_8gf: _GROUPS_OF_8,
    regnet_y_400mf: {**_AT_64, "width": 1 / 2},
    regnet_y_800mf: _GROUPS_OF_4,
    regnet_y_1_6gf: _GROUPS_OF_4,
    regnet_y_3_2gf: _GROUPS_OF_4,
    regnet_y_8gf: _GROUPS_OF_4,
    repvgg_a0: _AT_64,
    repvgg_a1: _AT_64,
    repvgg_a2: _AT_64,
    repvgg_b0: _AT_64,
    repvgg_b1: _AT_64,
    densenet121: _AT_64,
    densenet161: _AT_64,
    densenet169: _AT_64,
    densenet201: _AT_64,
    squeezenet1_0: {**_AT_64, "width": 1 / 4},
    squeezenet1_1: {**_AT_64, "width": 1 / 4},
    mobilenet_v2: _AT_64,
    mobilenet_v3_large: {**_AT_64, "width": 1 / 4},
    mobilenet_v3_small: {**_AT_64, "width": 1 / 4},
    mnasnet0_5: {**_AT_64, "width": 1 / 4},
    mnasnet0_75: {**_AT_64, "width": 1 / 8},
    mnasnet1_0: {**_AT_64, "width": 1 / 8},
    mnasnet1_3: {**_AT_64, "width": 1 / 8},
    efficientnet_b0: _AT_64,
    efficientnet_b1: _AT_64,
    efficientnet_b2: _AT_64,
    efficientnet_b3: _AT_64,
    efficientnet_b4: _AT_64,
    efficientnet_b5: _AT_64,
    efficientnet_b6: _AT_64,
    efficientnet_b7: _AT_64,
    efficientnet_v2_s: _AT_64,
    convnext_tiny: _AT_64,
    convnext_small: _AT_64,
    convnext_base: _AT_64,
    shufflenet_v2_x0_5: {**_AT_64, "width": 1 / 4},
    shufflenet_v2_x1_0: {**_AT_64, "width": 1 / 4},
    shufflenet_v2_x1_5: {**_AT_64, "width": 1 / 4},
    shufflenet_v2_x2_0: {**_AT_64, "width": 1 / 4},
    cifar_resnet20: _CIFAR,
    cifar_resnet32: _CIFAR,
    cifar_resnet44: _CIFAR,
    cifar_resnet56: _CIFAR,
    cifar_resnet110: _CIFAR,
    cifar_resnet20_bn_after_addition: _CIFAR,
    cifar_resnet20_relu_before_addition: _CIFAR,
    cifar_resnet20_relu_preactivation: _CIFAR,
    cifar_resnet20_preactivation: _CIFAR,
    unet: {**_TINY, "input_shape": (3, 32, 32)},
    fcn_resnet50: _AT_64,
    deeplabv3_resnet50: _AT_64,
}

#: name -> function, in the order of the lecture; the first line of its docstring is its description
ARCHITECTURES: dict[str, Callable[..., Graph]] = {f.__name__: f for f in _ZOO}

#: name -> arguments of a small member with the same topology, for checks and training without a GPU
SMALL: dict[str, dict[str, Any]] = {f.__name__: arguments for f, arguments in _ZOO.items()}

__all__ = ["ARCHITECTURES", "SMALL", *ARCHITECTURES]
