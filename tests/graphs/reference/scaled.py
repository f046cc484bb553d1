"""Networks whose members are one plan at several sizes."""

import torch
from torch import nn

from .layers import ch, conv
from .mobile import Gate


def multiple(channels, of=8):
    """torchvision's rounding: to a multiple, and never more than a tenth down."""
    near = max(of, int(channels + of / 2) // of * of)
    return near if near >= 0.9 * channels else near + of


def unit(filters, size=1, stride=1, groups=1, activation=None, **norm):
    convolution = nn.LazyConv2d(filters, size, stride, size // 2, groups=groups, bias=False)
    layers = [convolution, nn.LazyBatchNorm2d(**norm)]
    return nn.Sequential(*layers, activation()) if activation else nn.Sequential(*layers)


class Added(nn.Module):
    """A block, with the input added where the shape stays."""

    def __init__(self, same, **named):
        super().__init__()
        ((name, block),) = named.items()
        self.add_module(name, block)
        self.same = same

    def forward(self, x):
        (block,) = self.children()
        y = block(x)
        return x + y if self.same else y


class EfficientNet(nn.Module):
    """``rows``: (expansion or 0 for a dense 3x3 without one, kernel size, stride, channels, blocks, dense)."""

    def __init__(self, classes, width, stem, rows, last, **norm):
        super().__init__()

        def w(channels):
            return ch(channels, width)

        silu = nn.SiLU
        layers, before = [unit(w(stem), 3, 2, activation=silu, **norm)], stem
        for expansion, size, stride, channels, blocks, dense in rows:
            stage = []
            for i in range(blocks):
                step, inner = 1 if i else stride, expansion * w(before)
                parts = []
                if dense and expansion == 1:
                    parts.append(unit(w(channels), size, step, activation=silu, **norm))
                elif dense:
                    parts.append(unit(inner, size, step, activation=silu, **norm))
                else:
                    if expansion > 1:
                        parts.append(unit(inner, activation=silu, **norm))
                    parts.append(unit(inner, size, step, inner, activation=silu, **norm))
                    parts.append(Gate(inner, w(before // 4), nn.functional.silu, torch.sigmoid))
                if not dense or expansion > 1:
                    parts.append(unit(w(channels), **norm))
                stage.append(Added(step == 1 and before == channels, block=nn.Sequential(*parts)))
                before = channels
            layers.append(nn.Sequential(*stage))
        layers.append(unit(w(last), activation=silu, **norm))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.LazyLinear(classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def efficientnet(widths, blocks, **norm):
    """B0 of the paper's table 1 with other channels, and so many blocks in each stage."""
    table = [(1, 3, 1, 16), (6, 3, 2, 24), (6, 5, 2, 40), (6, 3, 2, 80), (6, 5, 1, 112), (6, 5, 2, 192), (6, 3, 1, 320)]
    rows = [(e, r, s, multiple(c * widths), n, False) for (e, r, s, c), n in zip(table, blocks, strict=True)]
    last = 4 * rows[-1][3]
    return lambda classes, width: EfficientNet(classes, width, multiple(32 * widths), rows, last, **norm)


def efficientnet_v2_s(classes, width):
    rows = [
        (1, 3, 1, 24, 2, True), (4, 3, 2, 48, 4, True), (4, 3, 2, 64, 4, True),
        (4, 3, 2, 128, 6, False), (6, 3, 1, 160, 9, False), (6, 3, 2, 256, 15, False),
    ]  # fmt: skip
    return EfficientNet(classes, width, 24, rows, 1280, eps=1e-3)


class MNASNet(nn.Module):
    def __init__(self, classes, width, alpha):
        super().__init__()

        def layers(*settings):
            found = []
            for filters, size, stride, groups, active in settings:
                convolution = nn.LazyConv2d(filters, size, stride, size // 2, groups=groups, bias=False)
                found += [convolution, nn.LazyBatchNorm2d(momentum=3e-4)] + [nn.ReLU()] * active
            return found

        first, before = (ch(multiple(channels * alpha), width) for channels in (32, 16))
        parts = layers((first, 3, 2, 1, True), (first, 3, 1, first, True), (before, 1, 1, 1, False))
        for channels, size, stride, times, blocks in (
            (24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3),
            (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1),
        ):  # fmt: skip
            after, stage = ch(multiple(channels * alpha), width), []
            for i in range(blocks):
                inner, step = times * before, 1 if i else stride
                three = layers((inner, 1, 1, 1, True), (inner, size, step, inner, True), (after, 1, 1, 1, False))
                stage.append(Added(i > 0, layers=nn.Sequential(*three)))
                before = after
            parts.append(nn.Sequential(*stage))
        self.layers = nn.Sequential(*parts, *layers((ch(1280, width), 1, 1, 1, True)))
        self.classifier = nn.Sequential(nn.Identity(), nn.LazyLinear(classes))

    def forward(self, x):
        return self.classifier(self.layers(x).mean((2, 3)))


class RegNetBlock(nn.Module):
    def __init__(self, filters, stride, groups, squeezed, projects):
        super().__init__()
        self.proj = unit(filters, 1, stride) if projects else None
        self.f = nn.Sequential()
        self.f.add_module("a", unit(filters, activation=nn.ReLU))
        self.f.add_module("b", unit(filters, 3, stride, groups, nn.ReLU))
        if squeezed:
            self.f.add_module("se", Gate(filters, squeezed, gate=torch.sigmoid))
        self.f.add_module("c", unit(filters))

    def forward(self, x):
        return torch.relu((x if self.proj is None else self.proj(x)) + self.f(x))


class RegNet(nn.Module):
    """``stages``: (channels, blocks), as torchvision's files have them; groups of ``group`` channels, at most all."""

    def __init__(self, classes, width, stages, group, gates):
        super().__init__()
        self.stem = unit(ch(32, width), 3, 2, activation=nn.ReLU)
        self.trunk_output, before = nn.Sequential(), 32
        for number, (channels, blocks) in enumerate(stages, 1):
            stage, of = nn.Sequential(), min(group, channels)
            for i in range(blocks):
                groups, squeezed = channels // of, ch(round(before / 4), width) if gates else 0
                block = RegNetBlock(groups * ch(of, width), 1 if i else 2, groups, squeezed, i == 0)
                stage.add_module(f"block{number}-{i}", block)
                before = channels
            self.trunk_output.add_module(f"block{number}", stage)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        return self.fc(self.trunk_output(self.stem(x)).mean((2, 3)))


def regnet(group, stages, gates):
    return lambda classes, width: RegNet(classes, width, stages, group, gates)


class RepVGGBlock(nn.Module):
    def __init__(self, filters, stride, same):
        super().__init__()
        self.identity = nn.LazyBatchNorm2d() if same else None
        for name, size in (("conv_kxk", 3), ("conv_1x1", 1)):
            branch = nn.Module()
            branch.conv, branch.bn = conv(filters, size, stride), nn.LazyBatchNorm2d()
            self.add_module(name, branch)

    def forward(self, x):
        y = sum(branch.bn(branch.conv(x)) for branch in (self.conv_1x1, self.conv_kxk))
        return torch.relu(y if self.identity is None else y + self.identity(x))


class RepVGG(nn.Module):
    def __init__(self, classes, width, depths, channels):
        super().__init__()
        self.stem = RepVGGBlock(ch(channels[0], width), 2, False)
        self.stages = nn.Sequential()
        for depth, filters in zip(depths, channels[1:], strict=True):
            blocks = [RepVGGBlock(ch(filters, width), 1 if i else 2, i > 0) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Module()
        self.head.fc = nn.LazyLinear(classes)

    def forward(self, x):
        return self.head.fc(self.stages(self.stem(x)).mean((2, 3)))


def repvgg(depths, channels):
    return lambda classes, width: RepVGG(classes, width, depths, channels)


class Permuted(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.block = nn.Sequential(
            nn.LazyConv2d(channels, 7, padding=3, groups=channels),
            Permuted(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permuted(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1) * 1e-6)

    def forward(self, x):
        return self.layer_scale * self.block(x) + x


class ConvNeXt(nn.Module):
    def __init__(self, classes, width, depths, first):
        super().__init__()
        layers, before = [], 0
        for stage, depth in enumerate(depths):
            channels = ch(first * 2**stage, width)
            if stage:
                layers.append(nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.LazyConv2d(channels, 2, 2)))
            else:
                layers.append(nn.Sequential(nn.LazyConv2d(channels, 4, 4), LayerNorm2d(channels, eps=1e-6)))
            layers.append(nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(depth))))
            before = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.Flatten(1), nn.LazyLinear(classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))


def convnext(depths, first):
    return lambda classes, width: ConvNeXt(classes, width, depths, first)
