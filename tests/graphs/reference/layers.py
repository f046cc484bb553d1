"""What several references share."""

import torch
from torch import nn


def ch(channels, width):
    return max(1, round(channels * width))


def conv(filters, size, stride=1):
    return nn.LazyConv2d(filters, size, stride, size // 2, bias=False)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU; without ``norm`` a convolution with bias and ReLU."""

    def __init__(self, filters, size, stride=1, padding="same", eps=1e-3, norm=True):
        super().__init__()
        r, s = (size, size) if isinstance(size, int) else size
        padding = (r // 2, s // 2) if padding == "same" else padding
        self.conv = nn.LazyConv2d(filters, (r, s), stride, padding, bias=not norm)
        self.bn = nn.LazyBatchNorm2d(eps=eps) if norm else None

    def forward(self, x):
        x = self.conv(x)
        return torch.relu(x if self.bn is None else self.bn(x))


class Side(nn.Module):
    """Modules side by side on one input, joined on the channels. Named as given."""

    def __init__(self, **branches):
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)
