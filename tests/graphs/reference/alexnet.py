from collections import OrderedDict

from torch import nn

from .layers import ch


class OneTower(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.features = nn.Sequential(
            nn.LazyConv2d(ch(64, width), 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.LazyConv2d(ch(192, width), 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.LazyConv2d(ch(384, width), 3, 1, 1), nn.ReLU(),
            nn.LazyConv2d(ch(256, width), 3, 1, 1), nn.ReLU(),
            nn.LazyConv2d(ch(256, width), 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Identity(), nn.LazyLinear(ch(4096, width)), nn.ReLU(),
            nn.Identity(), nn.LazyLinear(ch(4096, width)), nn.ReLU(),
            nn.LazyLinear(classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Lecture(nn.Sequential):
    def __init__(self, classes, width):
        super().__init__(
            OrderedDict(
                conv1=nn.LazyConv2d(ch(96, width), 11, 4), r1=nn.ReLU(), p1=nn.MaxPool2d(3, 2),
                conv2=nn.LazyConv2d(ch(256, width), 5, padding=2), r2=nn.ReLU(), p2=nn.MaxPool2d(3, 2),
                conv3=nn.LazyConv2d(ch(384, width), 3, padding=1), r3=nn.ReLU(),
                conv4=nn.LazyConv2d(ch(384, width), 3, padding=1), r4=nn.ReLU(),
                conv5=nn.LazyConv2d(ch(256, width), 3, padding=1), r5=nn.ReLU(), p5=nn.MaxPool2d(3, 2),
                flat=nn.Flatten(),
                dense1=nn.LazyLinear(ch(4096, width)), r6=nn.ReLU(),
                dense2=nn.LazyLinear(ch(4096, width)), r7=nn.ReLU(),
                dense3=nn.LazyLinear(classes),
            )
        )  # fmt: skip


class TwoTowers(nn.Sequential):
    def __init__(self, classes, width):
        def norm():
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)

        def half(filters):
            return 2 * ch(filters // 2, width)

        super().__init__(
            OrderedDict(
                conv1=nn.LazyConv2d(half(96), 11, 4, 2), r1=nn.ReLU(), n1=norm(), p1=nn.MaxPool2d(3, 2),
                conv2=nn.LazyConv2d(half(256), 5, padding=2, groups=2), r2=nn.ReLU(), n2=norm(), p2=nn.MaxPool2d(3, 2),
                conv3=nn.LazyConv2d(half(384), 3, padding=1), r3=nn.ReLU(),
                conv4=nn.LazyConv2d(half(384), 3, padding=1, groups=2), r4=nn.ReLU(),
                conv5=nn.LazyConv2d(half(256), 3, padding=1, groups=2), r5=nn.ReLU(), p5=nn.MaxPool2d(3, 2),
                flat=nn.Flatten(),
                fc6=nn.LazyLinear(half(4096)), r6=nn.ReLU(),
                fc7=nn.LazyLinear(half(4096)), r7=nn.ReLU(),
                fc8=nn.LazyLinear(classes),
            )
        )  # fmt: skip
