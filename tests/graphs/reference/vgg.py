from torch import nn

from .layers import ch


class VGG(nn.Module):
    def __init__(self, classes, width, stages, batch_norm):
        super().__init__()
        features = []
        for number, convolutions in enumerate(map(int, stages.split())):
            for _ in range(convolutions):
                features += [nn.LazyConv2d(ch(min(64 * 2**number, 512), width), 3, padding=1)]
                features += [nn.LazyBatchNorm2d()] if batch_norm else []
                features += [nn.ReLU()]
            features += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.LazyLinear(ch(4096, width)), nn.ReLU(), nn.Identity(),
            nn.LazyLinear(ch(4096, width)), nn.ReLU(), nn.Identity(),
            nn.LazyLinear(classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
