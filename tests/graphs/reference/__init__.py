"""The zoo once more, written for the tests in plain ``torch.nn`` from the papers and with torchvision's and timm's
attribute names. Nothing here knows of tricnn; the number of input channels of each layer is PyTorch's own inference
(lazy modules), so a wrong join or a wrong stride shows as a wrong shape.

A module returns its logits, or while it trains and has auxiliary heads, the logits and ``{head: logits}``.
"""

import torch
from torch import nn

from . import alexnet, cifar, dense, inception, lenet, mobile, resnet, scaled, segmentation, vgg


def bottlenecks(classes, width, depths, **options):
    return resnet.ResNet(classes, width, depths, resnet.Bottleneck, **options)


def gated(classes, width, depths, block):
    def gate(channels):
        return mobile.Gate(channels, scaled.multiple(channels // 16), gate=torch.sigmoid)

    return resnet.ResNet(classes, width, depths, block, gate=gate)


#: name in tricnn -> ``(num_classes, width, **options) -> module``; dropout left out
REFERENCE = {
    "lenet": lambda classes, width: lenet.lenet(classes, width, nn.ReLU, nn.MaxPool2d),
    "lenet_sigmoid": lambda classes, width: lenet.lenet(classes, width, nn.Sigmoid, nn.AvgPool2d),
    "lenet5": lenet.LeNet5,
    "alexnet": alexnet.OneTower,
    "alexnet_lecture": alexnet.Lecture,
    "alexnet_2012": alexnet.TwoTowers,
    "vgg11": lambda classes, width: vgg.VGG(classes, width, "1 1 2 2 2", False),
    "vgg11_bn": lambda classes, width: vgg.VGG(classes, width, "1 1 2 2 2", True),
    "vgg13": lambda classes, width: vgg.VGG(classes, width, "2 2 2 2 2", False),
    "vgg13_bn": lambda classes, width: vgg.VGG(classes, width, "2 2 2 2 2", True),
    "vgg16": lambda classes, width: vgg.VGG(classes, width, "2 2 3 3 3", False),
    "vgg16_bn": lambda classes, width: vgg.VGG(classes, width, "2 2 3 3 3", True),
    "vgg19": lambda classes, width: vgg.VGG(classes, width, "2 2 4 4 4", False),
    "vgg19_bn": lambda classes, width: vgg.VGG(classes, width, "2 2 4 4 4", True),
    "inception_block": inception.OneBlock,
    "googlenet": inception.GoogLeNet,
    "googlenet_bn": inception.GoogLeNetBN,
    "inception_bn": inception.InceptionBN,
    "inception_v3": inception.InceptionV3,
    "inception_v4": inception.InceptionV4,
    "inception_resnet_v2": inception.InceptionResNetV2,
    "resnet18": lambda classes, width: resnet.ResNet(classes, width, [2, 2, 2, 2], resnet.Basic),
    "resnet34": lambda classes, width: resnet.ResNet(classes, width, [3, 4, 6, 3], resnet.Basic),
    "resnet50": lambda classes, width, **o: resnet.ResNet(classes, width, [3, 4, 6, 3], resnet.Bottleneck, **o),
    "resnet101": lambda classes, width, **o: resnet.ResNet(classes, width, [3, 4, 23, 3], resnet.Bottleneck, **o),
    "resnet152": lambda classes, width, **o: resnet.ResNet(classes, width, [3, 8, 36, 3], resnet.Bottleneck, **o),
    "resnet18_v2": lambda classes, width: resnet.ResNetV2(classes, width, [2, 2, 2, 2], resnet.PreBasic),
    "resnet34_v2": lambda classes, width: resnet.ResNetV2(classes, width, [3, 4, 6, 3], resnet.PreBasic),
    "resnet50_v2": lambda classes, width: resnet.ResNetV2(classes, width, [3, 4, 6, 3], resnet.PreBottleneck),
    "resnet101_v2": lambda classes, width: resnet.ResNetV2(classes, width, [3, 4, 23, 3], resnet.PreBottleneck),
    "resnet152_v2": lambda classes, width: resnet.ResNetV2(classes, width, [3, 8, 36, 3], resnet.PreBottleneck),
    "resnext50_32x4d": lambda classes, width: bottlenecks(classes, width, [3, 4, 6, 3], groups=32, base=4),
    "resnext101_32x8d": lambda classes, width: bottlenecks(classes, width, [3, 4, 23, 3], groups=32, base=8),
    "resnext101_64x4d": lambda classes, width: bottlenecks(classes, width, [3, 4, 23, 3], groups=64, base=4),
    "wide_resnet50_2": lambda classes, width: bottlenecks(classes, width, [3, 4, 6, 3], base=128),
    "wide_resnet101_2": lambda classes, width: bottlenecks(classes, width, [3, 4, 23, 3], base=128),
    "seresnet18": lambda classes, width: gated(classes, width, [2, 2, 2, 2], resnet.Basic),
    "seresnet34": lambda classes, width: gated(classes, width, [3, 4, 6, 3], resnet.Basic),
    "seresnet50": lambda classes, width: gated(classes, width, [3, 4, 6, 3], resnet.Bottleneck),
    "seresnet101": lambda classes, width: gated(classes, width, [3, 4, 23, 3], resnet.Bottleneck),
    "seresnet152": lambda classes, width: gated(classes, width, [3, 8, 36, 3], resnet.Bottleneck),
    "regnet_x_400mf": scaled.regnet(16, [(32, 1), (64, 2), (160, 7), (400, 12)], False),
    "regnet_x_800mf": scaled.regnet(16, [(64, 1), (128, 3), (288, 7), (672, 5)], False),
    "regnet_x_1_6gf": scaled.regnet(24, [(72, 2), (168, 4), (408, 10), (912, 2)], False),
    "regnet_x_3_2gf": scaled.regnet(48, [(96, 2), (192, 6), (432, 15), (1008, 2)], False),
    "regnet_x_8gf": scaled.regnet(120, [(80, 2), (240, 5), (720, 15), (1920, 1)], False),
    "regnet_y_400mf": scaled.regnet(8, [(48, 1), (104, 3), (208, 6), (440, 6)], True),
    "regnet_y_800mf": scaled.regnet(16, [(64, 1), (144, 3), (320, 8), (784, 2)], True),
    "regnet_y_1_6gf": scaled.regnet(24, [(48, 2), (120, 6), (336, 17), (888, 2)], True),
    "regnet_y_3_2gf": scaled.regnet(24, [(72, 2), (216, 5), (576, 13), (1512, 1)], True),
    "regnet_y_8gf": scaled.regnet(56, [(224, 2), (448, 4), (896, 10), (2016, 1)], True),
    "repvgg_a0": scaled.repvgg((2, 4, 14, 1), (48, 48, 96, 192, 1280)),
    "repvgg_a1": scaled.repvgg((2, 4, 14, 1), (64, 64, 128, 256, 1280)),
    "repvgg_a2": scaled.repvgg((2, 4, 14, 1), (64, 96, 192, 384, 1408)),
    "repvgg_b0": scaled.repvgg((4, 6, 16, 1), (64, 64, 128, 256, 1280)),
    "repvgg_b1": scaled.repvgg((4, 6, 16, 1), (64, 128, 256, 512, 2048)),
    "densenet121": lambda classes, width: dense.DenseNet(classes, width, [6, 12, 24, 16], 32),
    "densenet161": lambda classes, width: dense.DenseNet(classes, width, [6, 12, 36, 24], 48),
    "densenet169": lambda classes, width: dense.DenseNet(classes, width, [6, 12, 32, 32], 32),
    "densenet201": lambda classes, width: dense.DenseNet(classes, width, [6, 12, 48, 32], 32),
    "squeezenet1_0": lambda classes, width: mobile.SqueezeNet(classes, width, 96, 7, (6, 11)),
    "squeezenet1_1": lambda classes, width: mobile.SqueezeNet(classes, width, 64, 3, (5, 8)),
    "mobilenet_v2": mobile.MobileNetV2,
    "mobilenet_v3_large": lambda classes, width: mobile.MobileNetV3(classes, width, mobile.LARGE, (960, 1280)),
    "mobilenet_v3_small": lambda classes, width: mobile.MobileNetV3(classes, width, mobile.SMALL, (576, 1024)),
    "efficientnet_b0": scaled.efficientnet(1.0, (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_b1": scaled.efficientnet(1.0, (2, 3, 3, 4, 4, 5, 2)),
    "efficientnet_b2": scaled.efficientnet(1.1, (2, 3, 3, 4, 4, 5, 2)),
    "efficientnet_b3": scaled.efficientnet(1.2, (2, 3, 3, 5, 5, 6, 2)),
    "efficientnet_b4": scaled.efficientnet(1.4, (2, 4, 4, 6, 6, 8, 2)),
    "efficientnet_b5": scaled.efficientnet(1.6, (3, 5, 5, 7, 7, 9, 3), eps=1e-3, momentum=0.01),
    "efficientnet_b6": scaled.efficientnet(1.8, (3, 6, 6, 8, 8, 11, 3), eps=1e-3, momentum=0.01),
    "efficientnet_b7": scaled.efficientnet(2.0, (4, 7, 7, 10, 10, 13, 4), eps=1e-3, momentum=0.01),
    "efficientnet_v2_s": scaled.efficientnet_v2_s,
    "mnasnet0_5": lambda classes, width: scaled.MNASNet(classes, width, 0.5),
    "mnasnet0_75": lambda classes, width: scaled.MNASNet(classes, width, 0.75),
    "mnasnet1_0": lambda classes, width: scaled.MNASNet(classes, width, 1.0),
    "mnasnet1_3": lambda classes, width: scaled.MNASNet(classes, width, 1.3),
    "convnext_tiny": scaled.convnext((3, 3, 9, 3), 96),
    "convnext_small": scaled.convnext((3, 3, 27, 3), 96),
    "convnext_base": scaled.convnext((3, 3, 27, 3), 128),
    "shufflenet_v2_x0_5": lambda classes, width: mobile.ShuffleNetV2(classes, width, (48, 96, 192, 1024)),
    "shufflenet_v2_x1_0": lambda classes, width: mobile.ShuffleNetV2(classes, width, (116, 232, 464, 1024)),
    "shufflenet_v2_x1_5": lambda classes, width: mobile.ShuffleNetV2(classes, width, (176, 352, 704, 1024)),
    "shufflenet_v2_x2_0": lambda classes, width: mobile.ShuffleNetV2(classes, width, (244, 488, 976, 2048)),
    "cifar_resnet20": lambda classes, width: cifar.Cifar(classes, width, 3, cifar.Original),
    "cifar_resnet32": lambda classes, width: cifar.Cifar(classes, width, 5, cifar.Original),
    "cifar_resnet44": lambda classes, width: cifar.Cifar(classes, width, 7, cifar.Original),
    "cifar_resnet56": lambda classes, width: cifar.Cifar(classes, width, 9, cifar.Original),
    "cifar_resnet110": lambda classes, width: cifar.Cifar(classes, width, 18, cifar.Original),
    "cifar_resnet20_bn_after_addition": lambda classes, width: cifar.Cifar(
        classes, width, 3, cifar.BatchNormAfterAddition
    ),
    "cifar_resnet20_relu_before_addition": lambda classes, width: cifar.Cifar(
        classes, width, 3, cifar.ReLUBeforeAddition
    ),
    "cifar_resnet20_relu_preactivation": lambda classes, width: cifar.Cifar(classes, width, 3, cifar.ReLUPreactivation),
    "cifar_resnet20_preactivation": lambda classes, width: cifar.Cifar(classes, width, 3, cifar.Preactivation),
    "unet": segmentation.UNet,
    "fcn_resnet50": lambda classes, width: segmentation.Segmentation(classes, width, False),
    "deeplabv3_resnet50": lambda classes, width: segmentation.Segmentation(classes, width, True),
}
