import torch
from torch import nn

from .layers import ch, conv


class DenseLayer(nn.Module):
    def __init__(self, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.LazyBatchNorm2d(), conv(4 * growth, 1)
        self.norm2, self.conv2 = nn.LazyBatchNorm2d(), conv(growth, 3)

    def forward(self, maps):
        y = self.conv1(torch.relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(torch.relu(self.norm2(y)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, depth, growth):
        super().__init__({f"denselayer{i + 1}": DenseLayer(growth) for i in range(depth)})

    def forward(self, x):
        maps = [x]
        for layer in self.values():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Transition(nn.Module):
    def __init__(self, filters):
        super().__init__()
        self.norm, self.conv = nn.LazyBatchNorm2d(), conv(filters, 1)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """torchvision's order: what a layer concatenates is the list of all maps before it."""

    def __init__(self, classes, width, depths, growth):
        super().__init__()
        growth, filters = ch(growth, width), 2 * ch(growth, width)
        stages = {"conv0": conv(filters, 7, 2), "norm0": nn.LazyBatchNorm2d(), "relu0": nn.ReLU()}
        stages["pool0"] = nn.MaxPool2d(3, 2, 1)
        for number, depth in enumerate(depths, 1):
            stages[f"denseblock{number}"] = DenseBlock(depth, growth)
            filters += depth * growth
            if number < len(depths):
                filters //= 2
                stages[f"transition{number}"] = Transition(filters)
        stages["norm5"] = nn.LazyBatchNorm2d()
        self.features = nn.Sequential()
        for name, stage in stages.items():
            self.features.add_module(name, stage)
        self.classifier = nn.LazyLinear(classes)

    def forward(self, x):
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))
