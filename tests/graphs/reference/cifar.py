import torch
import torch.nn.functional as F
from torch import nn

from .layers import ch, conv


class Cifar(nn.Module):
    def __init__(self, classes, width, depth, block):
        super().__init__()
        self.conv1, self.bn1 = conv(ch(16, width), 3), nn.LazyBatchNorm2d()
        stages = [
            [block(ch(16 * 2**stage, width), 2 if stage and i == 0 else 1, stage == 0 and i == 0) for i in range(depth)]
            for stage in range(3)
        ]
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*blocks) for blocks in stages)
        self.bn = nn.LazyBatchNorm2d() if block is Preactivation else None
        self.relu_at_end = block in (Preactivation, ReLUPreactivation)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = x if self.bn is None else self.bn(x)
        x = torch.relu(x) if self.relu_at_end else x
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    def __init__(self, filters, stride, first):
        super().__init__()
        self.filters, self.stride, self.first = filters, stride, first
        self.conv1, self.conv2 = conv(filters, 3, stride), conv(filters, 3)
        self.bn2 = nn.LazyBatchNorm2d()
        if not (first and isinstance(self, Preactivation)):
            self.bn1 = nn.LazyBatchNorm2d()

    def shortcut(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.filters - x.shape[1]))


class Original(Block):
    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class BatchNormAfterAddition(Block):
    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y) + self.shortcut(x)))


class ReLUBeforeAddition(Block):
    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y))) + self.shortcut(x)


class ReLUPreactivation(Block):
    def forward(self, x):
        y = self.bn1(self.conv1(x if self.first else torch.relu(x)))
        return self.bn2(self.conv2(torch.relu(y))) + self.shortcut(x)


class Preactivation(Block):
    def forward(self, x):
        y = self.conv1(x if self.first else torch.relu(self.bn1(x)))
        return self.conv2(torch.relu(self.bn2(y))) + self.shortcut(x)
