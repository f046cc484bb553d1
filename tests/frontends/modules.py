"""Modules as people write them, small."""

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

Heads = namedtuple("Heads", "logits aux_logits")


class Residual(nn.Module):
    """Blocks in torchvision's style: one ReLU module used twice and in place, ``+=``, an optional projection."""

    class Block(nn.Module):
        def __init__(self, c, k, stride=1):
            super().__init__()
            self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(k)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(k, eps=1e-3, momentum=0.3)
            self.downsample = None
            if stride > 1:
                self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

        def forward(self, x):
            identity = x if self.downsample is None else self.downsample(x)
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            y += identity
            return self.relu(y)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(self.Block(4, 4), self.Block(4, 6, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.avgpool(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


class DropPath(nn.Module):
    """Stochastic depth as torchvision writes it; ``swapped`` and ``new_empty`` are how others do."""

    def __init__(self, p, swapped=False):
        super().__init__()
        self.p, self.swapped = p, swapped

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        if self.swapped:
            return x.new_empty(shape).bernoulli_(1 - self.p).div_(1 - self.p) * x
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p).div_(1 - self.p)


class ChannelsLast(nn.Module):
    """A block of ConvNeXt: what it computes of [N, H, W, C] lies in channels-last memory as it is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm, self.up, self.down = nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1) * 0.5)
        self.last, self.fc = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        x = x + self.layer_scale * y
        return self.fc(self.last(x.mean((2, 3))))


class Shapes(nn.Module):
    """Reshapes, permutations, slices and paddings, each of which comes to nothing or to an operation of ours."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2)
        self.b = nn.Conv2d(8, 8, 2, groups=2, dilation=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.fc = nn.Linear(8, 4)
        self.up_fc = nn.Linear(6, 4)
        self.wide = nn.Linear(8 * 4, 4)

    def forward(self, x):
        n, c, h, w = x.size()
        x = x.view(n, c * h, w).reshape(-1, c, h, w).contiguous()
        x = F.pad(x, (0, 1, 0, 1))  # TensorFlow's "same", which a convolution of stride 2 takes over
        x = F.relu_(self.a(x))
        left, right = x.chunk(2, 1)
        x = torch.cat((right, left, x[:, 2:4], x[:, :2]), dim=1)
        x = torch.cat([x[:, i : i + 2] for i in (10, 0, 4, 2)], -3)
        y = x.permute(0, 2, 3, 1).sigmoid()  # NHWC and back
        x = y.permute(0, 3, 1, 2) + torch.tanh(x)
        x = self.b(F.pad(x, [1, 1, 1, 1]))
        x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) * 2.0 / 4
        x = F.max_pool2d(x, 3, stride=1, padding=1) - x
        pooled = x.flatten(2).mean(-1) + x.mean((2, 3)).squeeze() + F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]
        pooled = self.fc(pooled) + self.up_fc(self.up(x).relu().mean((2, 3)))
        return pooled + self.wide(x[:, :, ::2, ::2].reshape(x.shape[0], -1))


class Shared(nn.Module):
    """A convolution used twice, two names of one weight, a layer that nobody uses, a constant, dropout of 0."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.twin = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.twin.weight = self.conv.weight
        self.stem = nn.Conv2d(2, 4, 1)
        self.unused = nn.Linear(3, 3)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.0)
        self.gain = torch.tensor(0.5)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.conv(self.relu(self.conv(self.stem(x)))))
        x = self.drop(self.relu(self.twin(x) * self.gain))
        return self.fc(x.mean(dim=[2, 3]))


class Frozen(nn.Module):
    """Fine-tuning: the stem's weights take no gradient, its batch norm keeps its statistics in train() too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.stem.requires_grad_(False)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 3)

    def train(self, mode=True):
        super().train(mode)
        self.stem.eval()
        self.body[1].eval()  # its weight and bias learn
        return self

    def forward(self, x):
        return self.fc(self.body(F.relu(self.stem(x))).mean((-1, -2)))


class Grouped(nn.Module):
    """Normalised by groups of channels, and by single channels without numbers that are learnt."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.GroupNorm(2, 6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.InstanceNorm2d(4), nn.SiLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class Branches(nn.Module):
    """Branches that are added up or weighed against each other: a stack that is summed (FPN), selective kernels
    (SKNet), split attention (ResNeSt)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.select = nn.Conv2d(6, 12, 1)
        self.split = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.weigh = nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        x = torch.stack([a, b, a * b]).sum(dim=0)
        pair = torch.stack([x, a], dim=1)
        gate = self.select(pair.sum(1).mean((2, 3), keepdim=True)).view(x.shape[0], 2, 6, 1, 1)
        x = torch.sum(pair * torch.softmax(gate, dim=1), dim=1)
        x = torch.relu(self.split(x))
        n, c, h, w = x.shape
        x = x.reshape((n, 2, c // 2, h, w))
        gate = self.weigh(x.sum(dim=1).mean((2, 3), keepdim=True))
        gate = F.softmax(gate.view(n, 2, 2, -1).transpose(1, 2), dim=1).reshape(n, -1)
        return self.fc((gate.view(n, 2, c // 2, 1, 1) * x).sum(dim=1).mean((2, 3)))


class Probabilities(nn.Module):
    """Softmax and its logarithm over channels and features, features of length 1, gated linear units, a cube."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(36, 5)

    def forward(self, x):
        x = self.conv(x)
        x = F.glu(x, 1) + x[:, :3] ** 3
        x = F.log_softmax(x, dim=1) + 2 * x.softmax(1)
        x = F.normalize(self.fc(F.normalize(x.flatten(1), dim=1)), dim=1)
        return F.log_softmax(x - x.amax(1, keepdim=True) * x.sum(1, keepdim=True), -1)


class OneNumber(nn.Module):
    """Parameters that all channels have in common: PReLU as it is made unsaid, a skipped block's gain (ReZero, NFNets),
    the scale and the bias of an activation (StarReLU). Layer norms with less than weight and bias."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 1)
        self.act, self.gain = nn.PReLU(), nn.Parameter(torch.tensor(0.5))
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
        self.norm, self.plain = nn.LayerNorm(5, bias=False), nn.LayerNorm(5, elementwise_affine=False)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = self.act(self.conv1(x))
        y = self.conv2(x)
        x = x + y.mul_(self.gain)
        x = self.scale * F.relu(x.permute(0, 2, 3, 1)) ** 2 + self.bias
        return self.fc(self.plain(self.norm(x).mean((1, 2))))


class Blurred(nn.Module):
    """Tensors that are not learnt and in no state_dict: the numbers that normalise images, a filter that blurs as it
    goes down (Zhang, "Making convolutional networks shift-invariant again", 2019). Pixels become channels and channels
    pixels, the place in the block before the channel, as TResNet has it."""

    def __init__(self):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("filt", (row[:, None] * row).repeat(6, 1, 1, 1), persistent=False)
        self.register_buffer("unread", torch.zeros(3), persistent=False)
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.conv((x - self.mean) / 0.2))
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)
        x = torch.tanh(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
        x = x.view(n, 2, 2, c, h // 2, w // 2).permute(0, 3, 4, 1, 5, 2).reshape(n, c, h, w)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=6)
        return self.fc(x.mean((2, 3)))


class Decoder(nn.Module):
    """Down by a strided convolution, up by a transposed one beside what was there before, and a map of classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.up(self.down(x)), x], 1))


class Auxiliary(nn.Module):
    """A head that only train() has, as in GoogLeNet."""

    def __init__(self, named):
        super().__init__()
        self.named = named
        self.conv = nn.Conv2d(2, 4, 3)
        self.aux = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 3))
        self.channels, self.drop = nn.Dropout2d(0.4), nn.Dropout(0.25)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.channels(torch.relu(self.conv(x)))
        logits = self.fc(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        if not self.training:
            return logits
        return Heads(logits, self.aux(x)) if self.named else (logits, self.aux(x))


class Many(nn.Module):
    """A dictionary with a tuple in it, and None."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return {"out": self.a(x), "sides": (self.b(x), self.a(torch.relu(x))), "nothing": None}


class Unknown(nn.Module):
    """Three operations that nobody has words for, one of them twice; after them everything is known again."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.tail = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.cumsum(self.conv(x), 1)
        x = torch.erfinv(x)
        x = self.tail(torch.cumsum(x, 1))
        x = torch.roll(x, 1, 1)
        return self.fc(x.mean((2, 3)))


class Mobile(nn.Module):
    """What MobileNetV3 and EfficientNet are made of: depthwise convolutions, gates, their activations."""

    class Gate(nn.Module):
        def __init__(self, c, dense):
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.dense = dense
            self.fc1 = nn.Linear(c, 2) if dense else nn.Conv2d(c, 2, 1)
            self.fc2 = nn.Linear(2, c) if dense else nn.Conv2d(2, c, 1)

        def forward(self, x):
            n, c = x.shape[:2]
            s = self.avgpool(x)
            s = s.view(n, c) if self.dense else s
            s = F.hardsigmoid(self.fc2(F.silu(self.fc1(s)))) if self.dense else self.fc2(F.relu6(self.fc1(s))).sigmoid()
            return x * s.view(n, c, 1, 1).expand_as(x) if self.dense else s * x

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6, eps=1e-3), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(6, 6, 5, 1, 2, groups=6, bias=False), nn.BatchNorm2d(6), nn.SiLU(True))
        self.gates = nn.Sequential(self.Gate(6, True), self.Gate(6, False))
        self.drop = nn.Dropout2d(0.0)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.Hardswish(inplace=True), nn.Dropout(0.0), nn.Linear(8, 4))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.drop(self.gates(self.depth(x)))
        return self.head(x.mean([2, 3]))


class Arithmetic(nn.Module):
    """Every function and every kind of operand, on images, under a permutation, and on features."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.prelu = nn.PReLU(4)
        self.gamma, self.beta = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
        self.mask = nn.Conv2d(4, 1, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.prelu(self.conv(2 * x - 1 + x / 3 - (0.5 - x)))
        x = F.leaky_relu(x, 0.2) - F.elu(x, 1.3) * F.mish(x) + F.selu(x) + F.celu(x, 0.7)
        x = x * torch.sigmoid(self.mask(x))  # a gate for each pixel
        x = self.gamma.view(1, -1, 1, 1) * x + self.beta.reshape(4, 1, 1)
        y = x.permute(0, 2, 3, 1)
        y = F.gelu(y) * self.gamma + torch.tanh(y.mean((1, 2), keepdim=True)) - self.beta
        x = y.permute(0, 3, 1, 2) + F.gelu(x, approximate="tanh")
        x = x.square() / (x**2 + 1.5).sqrt() + (x.clamp(-1, 2) - x.clamp(min=0.1)).abs().pow(1)
        x = torch.maximum(x, -x * 0.3) - torch.minimum(x, F.hardtanh(x)) + F.softplus(x, 2) + F.logsigmoid(x)
        x = torch.add(x, x.exp().log(), alpha=0.5)
        f = x.mean((2, 3))
        return self.fc((f - self.beta) * self.gamma + torch.rsub(f, 1.0))


class Resized(nn.Module):
    """Other sizes: up, adaptive, padded, cropped, shuffled by functions and by reshapes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)
        self.fc = nn.Linear(8, 3)
        self.small = nn.Linear(2, 3)

    def forward(self, x):
        x = self.conv(x)  # 8 x 6 x 6
        n, c, h, w = x.shape
        shuffled = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = torch.tanh(F.channel_shuffle(x, 4)) * shuffled
        up = F.interpolate(x, scale_factor=2) + F.interpolate(x, size=(12, 12), mode="bilinear")
        up = up * F.interpolate(x, size=[12, 12], mode="bilinear", align_corners=True)
        x = F.max_pool2d(F.pad(up, (0, 1, 1, 0)), 3) + F.pad(F.pad(x, (-1, -1, -1, 0)), (0, 0, 0, -1))[:, :, :, :]
        x = x[:, :, 1:, :3] * x[..., :-1, 1:]
        fine = F.pixel_shuffle(up, 2)
        again = up.view(n, 2, 2, 2, 12, 12).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 24, 24)
        fine = F.pixel_unshuffle(fine * again.sigmoid(), 4).reshape(n, 2, 16, 36)[:, :, 1::3, 0::2]
        sides = (
            F.adaptive_max_pool2d(up, 3)
            + F.adaptive_avg_pool2d(up, 3)
            + F.adaptive_avg_pool2d(up, (5, 7))[:, :, 1:4, 2:5]
        )
        f = x.amax((2, 3)) + F.adaptive_max_pool2d(up, 1).flatten(1) + sides.sum((-1, -2)) / 9
        return self.fc(f) + self.small(fine.mean((2, 3)))
