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
