from itertools import pairwise

import torch
from torch import nn

from .layers import ch


def unit(filters, size, stride=1, groups=1):
    convolution = nn.LazyConv2d(filters, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.LazyBatchNorm2d(), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        inner = before * expansion
        layers = [unit(inner, 1)] if expansion > 1 else []
        layers += [unit(inner, 3, stride, inner), nn.LazyConv2d(after, 1, bias=False), nn.LazyBatchNorm2d()]
        self.conv, self.same = nn.Sequential(*layers), stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(nn.Module):
    """Filters and strides block by block, as figure 4 and table 2 of the paper come out."""

    def __init__(self, classes, width):
        super().__init__()
        filters = [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
        halves = {2, 4, 7, 14}
        blocks = [unit(ch(32, width), 3, 2)]
        for i, (before, after) in enumerate(pairwise(filters), 1):
            stride, expansion = 2 if i in halves else 1, 1 if i == 1 else 6
            blocks.append(InvertedResidual(ch(before, width), ch(after, width), stride, expansion))
        self.features = nn.Sequential(*blocks, unit(ch(1280, width), 1))
        self.classifier = nn.Sequential(nn.Identity(), nn.LazyLinear(classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Fire(nn.Module):
    def __init__(self, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.LazyConv2d(squeezed, 1)
        self.expand1x1, self.expand3x3 = nn.LazyConv2d(expanded, 1), nn.LazyConv2d(expanded, 3, padding=1)

    def forward(self, x):
        s = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(s), self.expand3x3(s)], 1))


class SqueezeNet(nn.Module):
    """``pools``: the places in ``features`` of the later poolings, as torchvision's file names have them."""

    def __init__(self, classes, width, filters, size, pools):
        super().__init__()
        fires = iter([(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)])
        layers = [nn.LazyConv2d(ch(filters, width), size, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
        while len(layers) < 13:
            if len(layers) in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            else:
                squeezed, expanded = next(fires)
                layers.append(Fire(ch(squeezed, width), ch(expanded, width)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.LazyConv2d(classes, 1), nn.ReLU())

    def forward(self, x):
        return self.classifier(self.features(x)).mean((2, 3))


def hardsigmoid(x):
    """Not PyTorch's own, whose gradient has 1/6 in fp32 for tensors in fp64 too: off by 3e-8."""
    return torch.clamp(x / 6 + 0.5, 0, 1)


class Hardswish(nn.Module):
    def forward(self, x):
        return x * hardsigmoid(x)


class Gate(nn.Module):
    def __init__(self, channels, squeezed, activation=torch.relu, gate=hardsigmoid):
        super().__init__()
        self.fc1, self.fc2 = nn.LazyConv2d(squeezed, 1), nn.LazyConv2d(channels, 1)
        self.activation, self.gate = activation, gate

    def forward(self, x):
        return x * self.gate(self.fc2(self.activation(self.fc1(x.mean((2, 3), keepdim=True)))))


def narrow_unit(filters, size, stride, activation, groups=1):
    convolution = nn.LazyConv2d(filters, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.LazyBatchNorm2d(eps=1e-3, momentum=0.01), activation)


class GatedResidual(nn.Module):
    def __init__(self, before, expanded, after, size, squeezed, activation, stride):
        super().__init__()
        layers = [narrow_unit(expanded, 1, 1, activation())] if expanded != before else []
        layers.append(narrow_unit(expanded, size, stride, activation(), expanded))
        if squeezed:
            layers.append(Gate(expanded, squeezed))
        layers.append(narrow_unit(after, 1, 1, nn.Identity()))
        self.block, self.same = nn.Sequential(*layers), stride == 1 and before == after

    def forward(self, x):
        return self.block(x) + x if self.same else self.block(x)


class MobileNetV3(nn.Module):
    """``blocks``: (kernel size, expanded, channels, squeezed or 0, late, stride), squeezed as torchvision's files
    have it; ``last``: the filters of the last convolution and of the dense layer before the last."""

    def __init__(self, classes, width, blocks, last):
        super().__init__()
        before, layers = 16, [narrow_unit(ch(16, width), 3, 2, Hardswish())]
        for size, expanded, after, squeezed, late, stride in blocks:
            inner = ch(expanded, width) if expanded != before else ch(before, width)
            squeezed = ch(squeezed, width) if squeezed else 0
            activation = Hardswish if late else nn.ReLU
            if expanded == before:
                block = GatedResidual(inner, inner, ch(after, width), size, squeezed, activation, stride)
            else:
                block = GatedResidual(ch(before, width), inner, ch(after, width), size, squeezed, activation, stride)
            layers.append(block)
            before = after
        self.features = nn.Sequential(*layers, narrow_unit(ch(last[0], width), 1, 1, Hardswish()))
        dense = nn.LazyLinear(ch(last[1], width))
        self.classifier = nn.Sequential(dense, Hardswish(), nn.Identity(), nn.LazyLinear(classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


LARGE = [
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 24, 0, 2), (5, 120, 40, 32, 0, 1), (5, 120, 40, 32, 0, 1),
    (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 120, 1, 1), (3, 672, 112, 168, 1, 1),
    (5, 672, 160, 168, 1, 2), (5, 960, 160, 240, 1, 1), (5, 960, 160, 240, 1, 1),
]  # fmt: skip
SMALL = [
    (3, 16, 16, 8, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 24, 1, 2), (5, 240, 40, 64, 1, 1), (5, 240, 40, 64, 1, 1),
    (5, 120, 48, 32, 1, 1), (5, 144, 48, 40, 1, 1),
    (5, 288, 96, 72, 1, 2), (5, 576, 96, 144, 1, 1), (5, 576, 96, 144, 1, 1),
]  # fmt: skip


def depthwise(channels, stride):
    return [
        nn.LazyConv2d(channels, 3, stride, 1, groups=channels, bias=False), nn.LazyBatchNorm2d(),
    ]  # fmt: skip


def pointwise(filters):
    return [nn.LazyConv2d(filters, 1, bias=False), nn.LazyBatchNorm2d(), nn.ReLU()]


class ShuffleUnit(nn.Module):
    def __init__(self, before, half, first):
        super().__init__()
        stride = 2 if first else 1
        self.branch1 = nn.Sequential(*depthwise(before, 2), *pointwise(half)) if first else nn.Identity()
        self.branch2 = nn.Sequential(*pointwise(half), *depthwise(half, stride), *pointwise(half))
        self.first = first

    def forward(self, x):
        left, right = (x, x) if self.first else x.chunk(2, 1)
        y = torch.cat([self.branch1(left), self.branch2(right)], 1)
        return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, classes, width, channels):
        super().__init__()
        first = ch(24, width)
        self.conv1 = nn.Sequential(nn.LazyConv2d(first, 3, 2, 1, bias=False), nn.LazyBatchNorm2d(), nn.ReLU())
        stages = []
        for filters, repeats in zip(channels, (4, 8, 4)):
            half = ch(filters // 2, width)
            stages.append(nn.Sequential(*(ShuffleUnit(first, half, i == 0) for i in range(repeats))))
            first = 2 * half
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = nn.Sequential(*pointwise(ch(channels[-1], width)))
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x), 3, 2, 1)
        return self.fc(self.conv5(self.stage4(self.stage3(self.stage2(x)))).mean((2, 3)))
