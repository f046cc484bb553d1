import torch
from torch import nn

from .layers import ch, conv


class ResNet(nn.Module):
    def __init__(self, classes, width, depths, block, **options):
        super().__init__()
        self.conv1 = conv(ch(64, width), 7, 2)
        self.bn1 = nn.LazyBatchNorm2d()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = [[] for _ in depths]
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stages[stage].append(block(ch(64 * 2**stage, width), stage, i, **options))
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in stages)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def stride_of(stage, i):
    return 2 if stage > 0 and i == 0 else 1


class Basic(nn.Module):
    def __init__(self, filters, stage, i, gate=None):
        super().__init__()
        stride = stride_of(stage, i)
        self.conv1, self.bn1 = conv(filters, 3, stride), nn.LazyBatchNorm2d()
        self.conv2, self.bn2 = conv(filters, 3), nn.LazyBatchNorm2d()
        self.downsample = None
        if stride == 2:
            self.downsample = nn.Sequential(conv(filters, 1, 2), nn.LazyBatchNorm2d())
        self.se = gate(filters) if gate else nn.Identity()

    def forward(self, x):
        y = self.se(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    def __init__(self, filters, stage, i, stride_on="3x3", groups=1, base=64, gate=None):
        super().__init__()
        stride, inner = stride_of(stage, i), filters * base // 64 * groups
        self.conv1, self.bn1 = conv(inner, 1, stride if stride_on == "1x1" else 1), nn.LazyBatchNorm2d()
        self.conv2 = nn.LazyConv2d(inner, 3, stride if stride_on == "3x3" else 1, 1, groups=groups, bias=False)
        self.bn2 = nn.LazyBatchNorm2d()
        self.conv3, self.bn3 = conv(4 * filters, 1), nn.LazyBatchNorm2d()
        self.downsample = None
        if i == 0:
            self.downsample = nn.Sequential(conv(4 * filters, 1, stride), nn.LazyBatchNorm2d())
        self.se = gate(4 * filters) if gate else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetV2(nn.Module):
    def __init__(self, classes, width, depths, block):
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", conv(ch(64, width), 7, 2))
        self.stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential()
        for stage, depth in enumerate(depths):
            holder = nn.Sequential()
            blocks = [block(ch(64 * 2**stage, width), stage, i) for i in range(depth)]
            holder.add_module("blocks", nn.Sequential(*blocks))
            self.stages.append(holder)
        self.norm = nn.LazyBatchNorm2d()
        self.head = nn.Module()
        self.head.fc = nn.LazyConv2d(classes, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stages(self.stem(x))))
        return self.head.fc(nn.functional.adaptive_avg_pool2d(x, 1)).flatten(1)


class PreBasic(nn.Module):
    def __init__(self, filters, stage, i):
        super().__init__()
        stride = stride_of(stage, i)
        self.norm1, self.conv1 = nn.LazyBatchNorm2d(), conv(filters, 3, stride)
        self.norm2, self.conv2 = nn.LazyBatchNorm2d(), conv(filters, 3)
        if stride == 2:
            self.downsample = nn.Module()
            self.downsample.conv = conv(filters, 1, 2)

    def forward(self, x):
        a = torch.relu(self.norm1(x))
        y = self.conv2(torch.relu(self.norm2(self.conv1(a))))
        return y + (self.downsample.conv(a) if hasattr(self, "downsample") else x)


class PreBottleneck(nn.Module):
    def __init__(self, filters, stage, i):
        super().__init__()
        stride = stride_of(stage, i)
        self.norm1, self.conv1 = nn.LazyBatchNorm2d(), conv(filters, 1)
        self.norm2, self.conv2 = nn.LazyBatchNorm2d(), conv(filters, 3, stride)
        self.norm3, self.conv3 = nn.LazyBatchNorm2d(), conv(4 * filters, 1)
        if i == 0:
            self.downsample = nn.Module()
            self.downsample.conv = conv(4 * filters, 1, stride)

    def forward(self, x):
        a = torch.relu(self.norm1(x))
        y = self.conv2(torch.relu(self.norm2(self.conv1(a))))
        y = self.conv3(torch.relu(self.norm3(y)))
        return y + (self.downsample.conv(a) if hasattr(self, "downsample") else x)
