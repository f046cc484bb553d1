"""The Inception networks. ``Side`` is the papers' figure: what stands side by side in it, from left to right."""

from functools import partial

import torch
from torch import nn

from .layers import Side, Unit, ch


def row(*modules):
    return nn.Sequential(*modules)


def average(width_of_pooling=3, **options):
    return nn.AvgPool2d(width_of_pooling, 1, 1, **options)


# --- v1 ---------------------------------------------------------------------------------------------------------------

GOOGLENET = """
    3a  64  96 128 16  32  32
    3b 128 128 192 32  96  64
    4a 192  96 208 16  48  64
    4b 160 112 224 24  64  64
    4c 128 128 256 24  64  64
    4d 112 144 288 32  64  64
    4e 256 160 320 32 128 128
    5a 256 160 320 32 128 128
    5b 384 192 384 48 128 128
"""


def block_v1(numbers, width, third, norm):
    a, b, c, d, e, f = (ch(n, width) for n in numbers)
    unit = partial(Unit, norm=norm)
    return Side(
        branch1=unit(a, 1),
        branch2=row(unit(b, 1), unit(c, 3)),
        branch3=row(unit(d, 1), unit(e, third)),
        branch4=row(nn.MaxPool2d(3, 1, 1), unit(f, 1)),
    )


class OneBlock(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        block = block_v1([64, 96, 128, 16, 32, 32], width, 5, False)
        for name, branch in block.named_children():
            self.add_module(name, branch)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        y = torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)
        return self.fc(y.mean((2, 3)))


class AuxV1(nn.Module):
    def __init__(self, classes, width, norm):
        super().__init__()
        self.conv = Unit(ch(128, width), 1, norm=norm)
        self.fc1, self.fc2 = nn.LazyLinear(ch(1024, width)), nn.LazyLinear(classes)

    def forward(self, x):
        x = self.conv(nn.functional.avg_pool2d(x, 5, 3)).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class InceptionV1(nn.Module):
    def __init__(self, classes, width, norm, third, last_pool, aux):
        super().__init__()
        unit = partial(Unit, norm=norm)
        self.conv1, self.conv2, self.conv3 = unit(ch(64, width), 7, 2), unit(ch(64, width), 1), unit(ch(192, width), 3)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.last_pool = nn.MaxPool2d(last_pool, 2, ceil_mode=True)
        self.response = nn.Identity() if norm else nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        self.names = []
        for line in GOOGLENET.strip().splitlines():
            name, *numbers = line.split()
            self.names.append(f"inception{name}")
            self.add_module(self.names[-1], block_v1(map(int, numbers), width, third, norm))
        if aux:
            self.aux1, self.aux2 = AuxV1(classes, width, norm), AuxV1(classes, width, norm)
        self.fc = nn.LazyLinear(classes)
        self.aux = aux

    def forward(self, x):
        x = self.response(self.pool(self.conv1(x)))
        x = self.pool(self.response(self.conv3(self.conv2(x))))
        heads = {}
        for name in self.names:
            if name == "inception4a":
                x = self.pool(x)
            if name == "inception5a":
                x = self.last_pool(x)
            x = getattr(self, name)(x)
            if self.aux and self.training and name == "inception4a":
                heads["aux1"] = self.aux1(x)
            if self.aux and self.training and name == "inception4d":
                heads["aux2"] = self.aux2(x)
        logits = self.fc(x.mean((2, 3)))
        return (logits, heads) if heads else logits


def GoogLeNet(classes, width, aux=True):
    return InceptionV1(classes, width, False, 5, 3, aux)


def GoogLeNetBN(classes, width, aux=False):
    return InceptionV1(classes, width, True, 3, 2, aux)


# --- v2 ---------------------------------------------------------------------------------------------------------------


class InceptionBN(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.unit = partial(Unit, eps=1e-5)
        self.w = partial(ch, width=width)
        self.conv1, self.conv2, self.conv3 = (self.unit(self.w(n), *o) for n, *o in ((64, 7, 2), (64, 1), (192, 3)))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = self.block(64, (64, 64), (64, 96), 32)
        self.inception3b = self.block(64, (64, 96), (64, 96), 64)
        self.inception3c = self.reduction((128, 160), (64, 96))
        self.inception4a = self.block(224, (64, 96), (96, 128), 128)
        self.inception4b = self.block(192, (96, 128), (96, 128), 128)
        self.inception4c = self.block(160, (128, 160), (128, 160), 128)
        self.inception4d = self.block(96, (128, 192), (160, 192), 128)
        self.inception4e = self.reduction((128, 192), (192, 256))
        self.inception5a = self.block(352, (192, 320), (160, 224), 128)
        self.inception5b = self.block(352, (192, 320), (192, 224), 128, nn.MaxPool2d(3, 1, 1))
        self.fc = nn.LazyLinear(classes)

    def block(self, one, three, double, projection, pool=None):
        w, unit = self.w, self.unit
        return Side(
            branch1=unit(w(one), 1),
            branch2=row(unit(w(three[0]), 1), unit(w(three[1]), 3)),
            branch3=row(unit(w(double[0]), 1), unit(w(double[1]), 3), unit(w(double[1]), 3)),
            branch4=row(pool or average(), unit(w(projection), 1)),
        )

    def reduction(self, three, double):
        w, unit = self.w, self.unit
        return Side(
            branch2=row(unit(w(three[0]), 1), unit(w(three[1]), 3, 2)),
            branch3=row(unit(w(double[0]), 1), unit(w(double[1]), 3), unit(w(double[1]), 3, 2)),
            branch4=nn.MaxPool2d(3, 2, ceil_mode=True),
        )

    def forward(self, x):
        x = self.pool(self.conv3(self.conv2(self.pool(self.conv1(x)))))
        x = self.inception3c(self.inception3b(self.inception3a(x)))
        x = self.inception4d(self.inception4c(self.inception4b(self.inception4a(x))))
        x = self.inception5b(self.inception5a(self.inception4e(x)))
        return self.fc(x.mean((2, 3)))


# --- v3 ---------------------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """A figure in which one unit feeds several: ``figure`` says what stands side by side, units have torchvision's
    names, each given as ``name=(filters, size, stride, padding)``."""

    def __init__(self, width, figure, **units):
        super().__init__()
        self.figure = figure
        for name, (filters, *rest) in units.items():
            self.add_module(name, Unit(ch(filters, width), *rest))

    def forward(self, x):
        return torch.cat(self.figure(self, x), 1)


def pooled(x):
    return nn.functional.avg_pool2d(x, 3, 1, 1)


def shrunk(x):
    return nn.functional.max_pool2d(x, 3, 2)


def v3_a(width, pool):
    return Named(
        width,
        lambda m, x: [
            m.branch1x1(x),
            m.branch5x5_2(m.branch5x5_1(x)),
            m.branch3x3dbl_3(m.branch3x3dbl_2(m.branch3x3dbl_1(x))),
            m.branch_pool(pooled(x)),
        ],
        branch1x1=(64, 1), branch5x5_1=(48, 1), branch5x5_2=(64, 5),
        branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3), branch_pool=(pool, 1),
    )  # fmt: skip


def v3_b(width):
    return Named(
        width,
        lambda m, x: [m.branch3x3(x), m.branch3x3dbl_3(m.branch3x3dbl_2(m.branch3x3dbl_1(x))), shrunk(x)],
        branch3x3=(384, 3, 2, 0),
        branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3, 2, 0),
    )  # fmt: skip


def v3_c(width, n):
    return Named(
        width,
        lambda m, x: [
            m.branch1x1(x),
            m.branch7x7_3(m.branch7x7_2(m.branch7x7_1(x))),
            m.branch7x7dbl_5(m.branch7x7dbl_4(m.branch7x7dbl_3(m.branch7x7dbl_2(m.branch7x7dbl_1(x))))),
            m.branch_pool(pooled(x)),
        ],
        branch1x1=(192, 1), branch7x7_1=(n, 1), branch7x7_2=(n, (1, 7)), branch7x7_3=(192, (7, 1)),
        branch7x7dbl_1=(n, 1), branch7x7dbl_2=(n, (7, 1)), branch7x7dbl_3=(n, (1, 7)), branch7x7dbl_4=(n, (7, 1)),
        branch7x7dbl_5=(192, (1, 7)), branch_pool=(192, 1),
    )  # fmt: skip


def v3_d(width):
    return Named(
        width,
        lambda m, x: [
            m.branch3x3_2(m.branch3x3_1(x)),
            m.branch7x7x3_4(m.branch7x7x3_3(m.branch7x7x3_2(m.branch7x7x3_1(x)))),
            shrunk(x),
        ],
        branch3x3_1=(192, 1), branch3x3_2=(320, 3, 2, 0),
        branch7x7x3_1=(192, 1), branch7x7x3_2=(192, (1, 7)), branch7x7x3_3=(192, (7, 1)),
        branch7x7x3_4=(192, 3, 2, 0),
    )  # fmt: skip


def v3_e(width):
    def figure(m, x):
        three, double = m.branch3x3_1(x), m.branch3x3dbl_2(m.branch3x3dbl_1(x))
        return [
            m.branch1x1(x), m.branch3x3_2a(three), m.branch3x3_2b(three),
            m.branch3x3dbl_3a(double), m.branch3x3dbl_3b(double), m.branch_pool(pooled(x)),
        ]  # fmt: skip

    return Named(
        width, figure,
        branch1x1=(320, 1), branch3x3_1=(384, 1), branch3x3_2a=(384, (1, 3)), branch3x3_2b=(384, (3, 1)),
        branch3x3dbl_1=(448, 1), branch3x3dbl_2=(384, 3), branch3x3dbl_3a=(384, (1, 3)),
        branch3x3dbl_3b=(384, (3, 1)), branch_pool=(192, 1),
    )  # fmt: skip


class AuxV3(nn.Module):
    """``left``: how many pixels wide the pooled image is, 5 from 299x299."""

    def __init__(self, classes, width, left):
        super().__init__()
        self.conv0 = Unit(ch(128, width), 1)
        self.conv1 = Unit(ch(768, width), left, padding=0)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        return self.fc(self.conv1(self.conv0(nn.functional.avg_pool2d(x, 5, 3))).mean((2, 3)))


class InceptionV3(nn.Module):
    def __init__(self, classes, width, aux=True, left=1):
        super().__init__()
        w = partial(ch, width=width)
        self.Conv2d_1a_3x3 = Unit(w(32), 3, 2, 0)
        self.Conv2d_2a_3x3 = Unit(w(32), 3, 1, 0)
        self.Conv2d_2b_3x3 = Unit(w(64), 3)
        self.Conv2d_3b_1x1 = Unit(w(80), 1)
        self.Conv2d_4a_3x3 = Unit(w(192), 3, 1, 0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = v3_a(width, 32), v3_a(width, 64), v3_a(width, 64)
        self.Mixed_6a, self.Mixed_6b = v3_b(width), v3_c(width, 128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = v3_c(width, 160), v3_c(width, 160), v3_c(width, 192)
        if aux:
            self.AuxLogits = AuxV3(classes, width, left)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = v3_d(width), v3_e(width), v3_e(width)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        x = shrunk(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = shrunk(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        heads = {"aux": self.AuxLogits(x)} if self.training and hasattr(self, "AuxLogits") else {}
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits = self.fc(x.mean((2, 3)))
        return (logits, heads) if heads else logits


# --- v4 and Inception-ResNet ------------------------------------------------------------------------------------------


def uncounted():
    """Average pooling that leaves the padding out of the mean."""
    return average(count_include_pad=False)


class InceptionV4(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.w = partial(ch, width=width)
        u = self.u
        stem = [
            u(32, 3, 2, 0), u(32, 3, 1, 0), u(64, 3),
            Side(maxpool=nn.MaxPool2d(3, 2), conv=u(96, 3, 2, 0)),
            Side(
                branch0=row(u(64, 1), u(96, 3, 1, 0)),
                branch1=row(u(64, 1), u(64, (1, 7)), u(64, (7, 1)), u(96, 3, 1, 0)),
            ),
            Side(conv=u(192, 3, 2, 0), maxpool=nn.MaxPool2d(3, 2)),
        ]  # fmt: skip
        a = [
            Side(
                branch0=u(96, 1), branch1=row(u(64, 1), u(96, 3)), branch2=row(u(64, 1), u(96, 3), u(96, 3)),
                branch3=row(uncounted(), u(96, 1)),
            )
            for _ in range(4)
        ]  # fmt: skip
        to_17 = Side(
            branch0=u(384, 3, 2, 0), branch1=row(u(192, 1), u(224, 3), u(256, 3, 2, 0)), branch2=nn.MaxPool2d(3, 2)
        )
        b = [
            Side(
                branch0=u(384, 1), branch1=row(u(192, 1), u(224, (1, 7)), u(256, (7, 1))),
                branch2=row(u(192, 1), u(192, (7, 1)), u(224, (1, 7)), u(224, (7, 1)), u(256, (1, 7))),
                branch3=row(uncounted(), u(128, 1)),
            )
            for _ in range(7)
        ]  # fmt: skip
        to_8 = Side(
            branch0=row(u(192, 1), u(192, 3, 2, 0)),
            branch1=row(u(256, 1), u(256, (1, 7)), u(320, (7, 1)), u(320, 3, 2, 0)),
            branch2=nn.MaxPool2d(3, 2),
        )

        def figure(m, x):
            one, two = m.branch1_0(x), m.branch2_2(m.branch2_1(m.branch2_0(x)))
            parts = [m.branch0(x), m.branch1_1a(one), m.branch1_1b(one), m.branch2_3a(two), m.branch2_3b(two)]
            return [*parts, m.branch3(x)]

        c = []
        for _ in range(3):
            block = Named(
                width, figure, branch0=(256, 1), branch1_0=(384, 1), branch1_1a=(256, (1, 3)), branch1_1b=(256, (3, 1)),
                branch2_0=(384, 1), branch2_1=(448, (3, 1)), branch2_2=(512, (1, 3)),
                branch2_3a=(256, (1, 3)), branch2_3b=(256, (3, 1)),
            )  # fmt: skip
            block.branch3 = row(uncounted(), u(256, 1))
            c.append(block)
        self.features = nn.Sequential(*stem, *a, to_17, *b, to_8, *c)
        self.last_linear = nn.LazyLinear(classes)

    def u(self, filters, *rest):
        return Unit(self.w(filters), *rest)

    def forward(self, x):
        return self.last_linear(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """``relu(x + factor * conv1x1(figure))``; the last one of all has no ReLU."""

    def __init__(self, factor, relu=True, **branches):
        super().__init__()
        self.factor, self.relu, self.names = factor, relu, list(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def project(self, channels):
        self.conv2d = nn.LazyConv2d(channels, 1)
        return self

    def forward(self, x):
        y = self.conv2d(torch.cat([getattr(self, name)(x) for name in self.names], 1))
        y = x + self.factor * y
        return torch.relu(y) if self.relu else y


class InceptionResNetV2(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        w = partial(ch, width=width)

        def u(filters, *rest):
            return Unit(w(filters), *rest)

        self.conv2d_1a, self.conv2d_2a, self.conv2d_2b = u(32, 3, 2, 0), u(32, 3, 1, 0), u(64, 3)
        self.conv2d_3b, self.conv2d_4a = u(80, 1), u(192, 3, 1, 0)
        self.mixed_5b = Side(
            branch0=u(96, 1), branch1=row(u(48, 1), u(64, 5)), branch2=row(u(64, 1), u(96, 3), u(96, 3)),
            branch3=row(uncounted(), u(64, 1)),
        )  # fmt: skip
        at_35 = w(96) + w(64) + w(96) + w(64)
        self.repeat = nn.Sequential(*(
            Residual(
                0.17, branch0=u(32, 1), branch1=row(u(32, 1), u(32, 3)), branch2=row(u(32, 1), u(48, 3), u(64, 3))
            ).project(at_35)
            for _ in range(10)
        ))  # fmt: skip
        self.mixed_6a = Side(
            branch0=u(384, 3, 2, 0), branch1=row(u(256, 1), u(256, 3), u(384, 3, 2, 0)), branch2=nn.MaxPool2d(3, 2)
        )
        at_17 = at_35 + 2 * w(384)
        self.repeat_1 = nn.Sequential(*(
            Residual(
                0.1, branch0=u(192, 1), branch1=row(u(128, 1), u(160, (1, 7)), u(192, (7, 1)))
            ).project(at_17)
            for _ in range(20)
        ))  # fmt: skip
        self.mixed_7a = Side(
            branch0=row(u(256, 1), u(384, 3, 2, 0)), branch1=row(u(256, 1), u(288, 3, 2, 0)),
            branch2=row(u(256, 1), u(288, 3), u(320, 3, 2, 0)), branch3=nn.MaxPool2d(3, 2),
        )  # fmt: skip
        at_8 = at_17 + w(384) + w(288) + w(320)
        last = [
            Residual(
                0.2 if i < 9 else 1.0, i < 9,
                branch0=u(192, 1), branch1=row(u(192, 1), u(224, (1, 3)), u(256, (3, 1))),
            ).project(at_8)
            for i in range(10)
        ]  # fmt: skip
        self.repeat_2, self.block8 = nn.Sequential(*last[:9]), last[9]
        self.conv2d_7b = u(1536, 1)
        self.classif = nn.LazyLinear(classes)

    def forward(self, x):
        x = shrunk(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = shrunk(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_1(self.mixed_6a(self.repeat(self.mixed_5b(x))))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        return self.classif(self.conv2d_7b(x).mean((2, 3)))
