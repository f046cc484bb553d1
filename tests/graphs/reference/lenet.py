from collections import OrderedDict

import torch
from torch import nn

from .layers import ch


def lenet(classes, width, activation, pool):
    return nn.Sequential(
        OrderedDict(
            conv1=nn.LazyConv2d(ch(6, width), 5, padding=2), a1=activation(), p1=pool(2),
            conv2=nn.LazyConv2d(ch(16, width), 5), a2=activation(), p2=pool(2), flat=nn.Flatten(),
            fc1=nn.LazyLinear(ch(120, width)), a3=activation(),
            fc2=nn.LazyLinear(ch(84, width)), a4=activation(),
            fc3=nn.LazyLinear(classes),
        )
    )  # fmt: skip


#: table I as the paper prints it: a row for each map of S2, a column for each map of C3
TABLE_I = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


class LeNet5(nn.Module):
    """Each map of C3 is a convolution of its own, of the maps it sees."""

    def __init__(self, classes, width):
        super().__init__()
        self.sees = [[row for row in range(6) if TABLE_I[row][column] == "X"] for column in range(16)]
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.s2 = nn.Conv2d(6, 6, 1, groups=6)
        self.c3 = nn.ModuleList(nn.Conv2d(len(maps), 1, 5) for maps in self.sees)
        self.s4 = nn.Conv2d(16, 16, 1, groups=16)
        self.c5 = nn.Conv2d(16, ch(120, width), 5)
        self.f6 = nn.Linear(ch(120, width), ch(84, width))
        self.output = nn.Linear(ch(84, width), classes)

    def forward(self, x):
        def f(a):
            return 1.7159 * torch.tanh(2 / 3 * a)

        def pooled(a, layer):
            total = a[:, :, ::2, ::2] + a[:, :, ::2, 1::2] + a[:, :, 1::2, ::2] + a[:, :, 1::2, 1::2]
            return f(layer(total / 4))

        x = pooled(f(self.c1(x)), self.s2)
        x = f(torch.cat([conv(x[:, maps]) for conv, maps in zip(self.c3, self.sees)], 1))
        x = f(self.c5(pooled(x, self.s4)))
        return self.output(f(self.f6(x.flatten(1))))
