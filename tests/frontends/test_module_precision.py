"""``tricnn.Module`` and the backend under autocast and with scaled losses, step by step beside PyTorch's own."""

import copy
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from tests.frontends.test_module import SHAPE, Small, assert_state_close, loss_of, pair
from tricnn.frontends.torch_backend import compile_backend


class Several(nn.Module):
    """Outputs that autocast has in several types: of products, of what follows them, of the images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.relu(self.bn(self.conv(x)))
        logits = self.fc(h.mean((2, 3)))
        return {"features": h, "logits": logits, "shares": torch.softmax(logits, 1), "twice": x * 2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_have_the_types_that_autocast_gives(dtype: torch.dtype) -> None:
    """The numbers, too, within the type's rounding; and outside of autocast all are of the images' type again."""
    module, compiled = pair(Several())
    x = torch.randn(SHAPE)
    torch._dynamo.reset()
    region = torch.compile(copy.deepcopy(module), backend=compile_backend, options={"executor": "numpy"})
    with torch.autocast("cpu", dtype), warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = module(x)
        for net in (compiled, region):
            torch.testing.assert_close(net(x), wanted, rtol=0.03, atol=0.03)  # types too
    assert {y.dtype for y in wanted.values()} == {dtype, torch.float32}
    assert {y.dtype for y in compiled(x).values()} == {torch.float32}


def train_scaled(net: nn.Module, autocast: torch.dtype | None) -> dict[str, list[Any]]:
    """Four updates of two batches each: loss scaling, clipping, a running average, a schedule, one overflow."""
    generator = torch.Generator().manual_seed(1)
    sgd = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=average, use_buffers=True)
    found: dict[str, list[Any]] = {"losses": [], "norms": [], "scales": []}
    for update in range(4):
        sgd.zero_grad()
        for _ in range(2):
            x = torch.randn(SHAPE, generator=generator, dtype=next(net.parameters()).dtype)
            with torch.autocast("cpu", autocast) if autocast else nullcontext():
                outputs = net(x)
            loss = loss_of({n: y if y.dtype == torch.float64 else y.float() for n, y in outputs.items()},
                           torch.randint(3, (SHAPE[0],), generator=generator)) / 2  # fmt: skip
            scaler.scale(loss * (float("inf") if update == 1 else 1)).backward()
            found["losses"].append(loss.item())
        scaler.unscale_(sgd)
        found["norms"].append(nn.utils.clip_grad_norm_(net.parameters(), 1.0).item())
        scaler.step(sgd)
        scaler.update()
        schedule.step()
        averaged.update_parameters(net)
        found["scales"].append(scaler.get_scale())
    found["averaged"] = [averaged]
    return found


@pytest.mark.parametrize("autocast, error", [(None, 1e-9), (torch.float16, 5e-3)])
def test_scaled_losses_go_as_pytorchs(autocast: torch.dtype | None, error: float) -> None:
    """Scales to the number, a step that overflows skipped by both; in float64 without autocast nearly to the bit."""
    module = Small() if autocast else Small().double()
    module, compiled = pair(module, dtype="fp32" if autocast else "fp64")
    wanted, found = (train_scaled(net, autocast) for net in (module, compiled))
    assert found["scales"] == wanted["scales"] == [512.0, 256.0, 512.0, 1024.0]
    for what in ("losses", "norms"):
        torch.testing.assert_close(found[what], wanted[what], rtol=error, atol=error, equal_nan=True)
    assert_state_close(module, compiled, error)
    assert_state_close(wanted["averaged"][0], found["averaged"][0], error)
