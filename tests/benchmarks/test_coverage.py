"""The sweep over other people's networks makes them without memory; some compute their widths of numbers in it."""

import torch
from torch import nn

from benchmarks.coverage import unfilled


def regnet() -> nn.Module:
    """Widths as torchvision's RegNets compute them (BlockParams.from_init_params)."""
    widths = (torch.round(torch.arange(4) * 36.4 + 24) / 8).int().tolist()
    return nn.Sequential(*(nn.Conv2d(w, w, 1) for w in widths), nn.Linear(3, 4))


def test_a_network_whose_widths_are_computed_of_a_range_is_made_without_memory() -> None:
    module = unfilled(regnet)
    assert [layer.weight.shape[0] for layer in module] == [3, 7, 12, 16, 4]
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert torch.arange(2).device.type == "cpu"
