import torch
from torch import nn
from torch.nn import functional as F

from .layers import ch, conv


class Dilated(nn.Module):
    """A bottleneck whose 3x3 convolution may be dilated."""

    def __init__(self, filters, stride, dilation, first):
        super().__init__()
        self.conv1, self.bn1 = conv(filters, 1), nn.LazyBatchNorm2d()
        self.conv2 = nn.LazyConv2d(filters, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.LazyBatchNorm2d()
        self.conv3, self.bn3 = conv(4 * filters, 1), nn.LazyBatchNorm2d()
        self.downsample = nn.Sequential(conv(4 * filters, 1, stride), nn.LazyBatchNorm2d()) if first else None

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """ResNet-50 with an eighth of the image's size at the end: strides of the last two stages became dilation."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = conv(ch(64, width), 7, 2), nn.LazyBatchNorm2d()

        def stage(filters, stride, first_dilation, dilation, depth):
            filters = ch(filters, width)
            rest = [Dilated(filters, 1, dilation, False) for _ in range(depth - 1)]
            return nn.Sequential(Dilated(filters, stride, first_dilation, True), *rest)

        self.layer1, self.layer2 = stage(64, 1, 1, 1, 3), stage(128, 2, 1, 1, 4)
        self.layer3, self.layer4 = stage(256, 1, 1, 2, 6), stage(512, 1, 2, 4, 3)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)


def unit(filters, size, dilation=1):
    padding = dilation if size == 3 else 0
    lazy = nn.LazyConv2d(filters, size, padding=padding, dilation=dilation, bias=False)
    return [lazy, nn.LazyBatchNorm2d(), nn.ReLU()]


def head(channels, classes):
    return nn.Sequential(*unit(channels // 4, 3), nn.Identity(), nn.LazyConv2d(classes, 1))


class Pyramid(nn.Module):
    def __init__(self, filters):
        super().__init__()
        scales = [nn.Sequential(*unit(filters, 1)), *(nn.Sequential(*unit(filters, 3, r)) for r in (12, 24, 36))]
        self.convs = nn.ModuleList([*scales, nn.Sequential(nn.AdaptiveAvgPool2d(1), *unit(filters, 1))])
        self.project = nn.Sequential(*unit(filters, 1))

    def forward(self, x):
        parts = [layer(x) for layer in self.convs]
        parts[-1] = parts[-1].expand(parts[0].shape)
        return self.project(torch.cat(parts, 1))


class Segmentation(nn.Module):
    def __init__(self, classes, width, pyramid):
        super().__init__()
        self.backbone = Backbone(width)
        self.classifier = head(4 * ch(512, width), classes)
        if pyramid:
            filters = ch(256, width)
            self.classifier = nn.Sequential(Pyramid(filters), *unit(filters, 3), nn.LazyConv2d(classes, 1))
        self.aux_classifier = head(4 * ch(256, width), classes)

    def forward(self, x):
        third, last = self.backbone(x)
        logits, aux = (
            F.interpolate(made, x.shape[2:], mode="bilinear", align_corners=False)
            for made in (self.classifier(last), self.aux_classifier(third))
        )
        return (logits, {"aux": aux}) if self.training else logits


class Two(nn.Sequential):
    def __init__(self, name, filters):
        super().__init__()
        for i in (1, 2):
            self.add_module(f"{name}conv{i}", conv(filters, 3))
            self.add_module(f"{name}norm{i}", nn.LazyBatchNorm2d())
            self.add_module(f"{name}relu{i}", nn.ReLU())


class UNet(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        filters = [ch(64 * 2**i, width) for i in range(5)]
        for i in range(1, 5):
            self.add_module(f"encoder{i}", Two(f"enc{i}", filters[i - 1]))
            self.add_module(f"upconv{i}", nn.LazyConvTranspose2d(filters[i - 1], 2, 2))
            self.add_module(f"decoder{i}", Two(f"dec{i}", filters[i - 1]))
        self.bottleneck = Two("bottleneck", filters[4])
        self.conv = nn.LazyConv2d(classes, 1)

    def forward(self, x):
        fine = []
        for i in range(1, 5):
            fine.append(getattr(self, f"encoder{i}")(x))
            x = F.max_pool2d(fine[-1], 2)
        x = self.bottleneck(x)
        for i in range(4, 0, -1):
            x = torch.cat([getattr(self, f"upconv{i}")(x), fine[i - 1]], 1)
            x = getattr(self, f"decoder{i}")(x)
        return self.conv(x)
