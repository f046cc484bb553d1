"""The sweep over other people's networks makes them without memory; some compute their widths of numbers in it."""

import pytest
import torch
from torch import nn

from benchmarks import coverage_page
from benchmarks.coverage import unfilled


def regnet() -> nn.Module:
    """Widths as torchvision's RegNets compute them (BlockParams.from_init_params), of a range and of a list."""
    widths = (torch.round(torch.arange(4) * 36.4 + torch.tensor([24.0])) / 8).int().tolist()
    return nn.Sequential(*(nn.Conv2d(w, w, 1) for w in widths), nn.Linear(3, 4))


def test_a_network_whose_widths_are_computed_of_numbers_is_made_without_memory() -> None:
    module = unfilled(regnet)
    assert [layer.weight.shape[0] for layer in module] == [3, 7, 12, 16, 4]
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert torch.arange(2).device.type == "cpu"


def test_an_operation_that_pytorch_has_not_is_not_taken_for_missing_memory() -> None:
    def never() -> nn.Module:
        raise NotImplementedError("no such layer")

    with pytest.raises(NotImplementedError, match="no such layer"):
        unfilled(never)


def test_a_stage_that_memory_ran_out_in_does_not_hide_those_before_it() -> None:
    """In the page's counts; and a network that was never looked at otherwise is one that did not come in."""
    about = {"cnn": True, "date": "2026-12-01", "versions": {"torch": "2.14.1", "timm": "1.0.31"}}
    right = {"model": "timm:a", "stage": "logits", "imported": True, "logits": 0.0, **about}
    ended = {"stage": "gradients", "problems": ["it took more than 300 s, or more than 7 GB"], **about}
    said = coverage_page.page([right, {"model": "timm:a", **ended}])
    assert "| 1 of 1 (100%) | 1 of 1 (100%) | 0 of 1 (0%) |" in said and "| a | it took more than 300 s" in said
    assert "| 0 of 1 (0%) | 0 of 1 (0%) | 0 of 1 (0%) |" in coverage_page.page([{"model": "timm:b", **ended}])
