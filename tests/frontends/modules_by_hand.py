"""Small modules whose gates, masks and norms are written out in forward, as timm and papers have them."""

import torch
import torch.nn.functional as F
from torch import nn


class GatesAndBorders(nn.Module):
    """Channels gated by their neighbours (ECA), by a mask of pixels, and by their global response, as timm writes them;
    borders that repeat the image's own pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.mask = nn.Conv2d(6, 1, 3, padding=(2, 1), padding_mode="replicate", dilation=(2, 1))
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.pad(x, (1, 0, 2, 6), mode="circular")
        x = torch.tanh(self.stem(F.pad(x, (2, 1, 0, 3), mode="reflect")))
        gate = self.eca(x.mean((2, 3)).view(x.shape[0], 1, -1)).view(x.shape[0], -1, 1, 1).sigmoid()
        x = x * (self.mask(x).tanh() * gate).expand_as(x)
        response = x.norm(p=2, dim=(2, 3), keepdim=True)
        share = response / (response.mean(dim=1, keepdim=True) + 1e-6)
        x = x + torch.addcmul(self.bias.view(1, -1, 1, 1), self.weight.view(1, -1, 1, 1), x * share)
        x = x.permute(0, 2, 3, 1)
        response = x.norm(p=2, dim=(1, 2), keepdim=True)
        x = torch.addcmul(self.bias.view(1, 1, 1, -1), x, response / response.mean(dim=-1, keepdim=True), value=0.5)
        return self.fc(x.mean((1, 2)))


class ChannelMasks(nn.Module):
    """Pixels weighed by what their channels have in common, as CBAM has it, in every way that it is written."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.shared = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6))
        self.mask = nn.Conv2d(5, 1, 7, padding=3, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(1), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        gate = self.shared(F.adaptive_avg_pool2d(x, 1)) + self.shared(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        last = x.permute(0, 2, 3, 1)
        common = torch.cat([
            torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1), torch.max(x, dim=1, keepdim=True)[0],
            x.amax(dim=1, keepdim=True), last.sum(-1, keepdim=True).permute(0, 3, 1, 2),
        ], 1)  # fmt: skip
        x = x * torch.sigmoid(self.norm(self.mask(common)))
        return self.fc((x - x.mean(1, keepdim=True)).mean((2, 3)))


class Standardized(nn.Module):
    """Convolutions of weights that forward standardises, as timm has them: scaled, with a gain (NFNets), and plain."""

    class Conv(nn.Conv2d):
        def __init__(self, *size, scaled, **options):
            super().__init__(*size, **options)
            self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.7)) if scaled else None
            self.scale = self.weight[0].numel() ** -0.5

        def forward(self, x):
            gain = None if self.gain is None else (self.gain * self.scale).view(-1)
            rows = self.weight.reshape(1, self.out_channels, -1)
            w = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-5)
            return self._conv_forward(x, w.reshape_as(self.weight), self.bias)

    def __init__(self):
        super().__init__()
        self.conv1 = self.Conv(3, 6, 3, padding=1, scaled=True)
        self.conv2 = self.Conv(6, 6, 3, padding=1, groups=2, scaled=False, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.conv3 = self.Conv(6, 8, 1, scaled=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.gelu(self.conv1(x)) * 1.7
        x = torch.tanh(self.bn(self.conv2(x)))
        return self.fc(self.conv3(x).mean((2, 3)))


class NormalizedByHand(nn.Module):
    """Normalisations as people write them: by groups of channels (EvoNorm), by channels (filter response norm), by
    pixels (RMS norm, both layouts), by the unbiased deviation; numbers that are expanded, then joined or reshaped."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.rows = nn.Conv2d(2, 6, 1)
        self.v, self.tau, self.weight = (nn.Parameter(torch.full((6,), s)) for s in (0.7, -0.2, 1.3))
        self.rms, self.flat = nn.RMSNorm(6, 1e-6), nn.RMSNorm(8, 1e-5)
        self.mix = nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        n, _, h, w = x.shape
        x = self.stem(x) + self.rows(x.mean(1, keepdim=True).expand(-1, 2, -1, -1))
        groups = x.reshape(n, 3, 2, h, w)
        spread = groups.var(dim=(2, 3, 4), unbiased=False, keepdim=True).add(1e-3).sqrt().to(x.dtype)
        x = x * (x * self.v.view(1, -1, 1, 1)).sigmoid() / spread.expand(groups.shape).reshape(n, 6, h, w)
        x = x * x.square().mean((2, 3), keepdim=True).add(1e-3).rsqrt().expand(x.shape)
        x = torch.maximum(x * self.weight.reshape(1, -1, 1, 1), self.tau.view(1, -1, 1, 1))
        x = self.rms(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x * (x.pow(2).mean(1, keepdim=True) + 1.5) ** -0.5
        x = x / (1e-2 + torch.std(x, (2, 3), keepdim=True)) + 1 / (x.pow(2) + 1)
        x = self.mix(torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1))
        parts = x.view(n, 2, -1)
        x = ((parts - parts.mean(2, keepdim=True)) / parts.std(2, keepdim=True)).view_as(x)
        return self.fc(self.flat(x.amax((2, 3))))


class RowsAndColumns(nn.Module):
    """Rows and columns weighed apart (coordinate attention), and patches put side by side as columns, a row for each
    of their pixels, each row weighed by a softmax over it, and put together again (MobileViT v2)."""

    def __init__(self):
        super().__init__()
        self.stem, self.both = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.by_row, self.by_column = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.qkv, self.out = nn.GroupNorm(1, 4), nn.Conv2d(4, 9, 1), nn.Conv2d(4, 4, 1)
        self.attend, self.fc = nn.Conv2d(4, 1, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        rows, columns = F.adaptive_avg_pool2d(x, (None, 1)), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        rows, columns = self.both(torch.cat([rows, columns], 2)).tanh().split([h, w], 2)
        x = x * self.by_row(rows).sigmoid() * self.by_column(columns.permute(0, 1, 3, 2)).sigmoid()
        p = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c, 4, -1)
        query, key, value = self.qkv(self.norm(p)).split([1, 4, 4], 1)
        context = (key * F.softmax(query, -1)).sum(-1, keepdim=True)
        p = p + self.out(torch.relu(value) * context.expand_as(value))
        x = x - p.reshape(n, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h, w)
        weights = self.attend(x).view(n, 1, h * w).softmax(-1)
        return self.fc((x.view(n, c, -1) * weights).sum(-1) + x.amax(3).mean(2))


class SeparableAttention(nn.Module):
    """Pixels of patches weighed by a score over the patches, of which there may be one only, as MobileViTv2 has it."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.qkv, self.out = nn.Conv2d(6, 1 + 2 * 6, 1), nn.Conv2d(6, 6, 1)

    def attended(self, x):
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c, 4, -1)
        y = y + torch.softmax(y, dim=-1) - y.mean(-2, keepdim=True)
        query, key, value = self.qkv(y).split([1, c, c], dim=1)
        context = (key * torch.softmax(query, dim=-1)).sum(dim=-1, keepdim=True)
        y = y + self.out(torch.relu(value) * context.expand_as(value))
        return x + y.reshape(n, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h, w)

    def forward(self, x):
        x = self.attended(self.stem(x))
        return self.fc(self.attended(F.adaptive_avg_pool2d(x, 2)).mean((2, 3)))


class ComputedWeights(nn.Module):
    """Weights that forward makes of parameters: a function of each number, weight norm (Salimans & Kingma, 2016), a
    number for each filter, one for all; and scalars that forward does not read, beside those that it does."""

    def __init__(self):
        super().__init__()
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3, padding=1))
        self.raw, self.each = nn.Parameter(torch.randn(6, 6, 3, 3) / 8), nn.Parameter(torch.rand(6, 1, 1, 1))
        self.gain, self.bias = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.temperature, self.unread = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(2.0))
        self.register_buffer("steps", torch.tensor(7.0))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.normed(x))
        weight = torch.tanh(self.raw) * self.each
        x = F.conv2d(x, weight * 0.5, F.softplus(self.bias), padding=1) + F.conv2d(x, self.raw * 2 + 0.01, padding=1)
        x = torch.relu(x) * self.gain.exp().view(1, -1, 1, 1)
        return self.fc(x.mean((2, 3))) * self.temperature.exp()
