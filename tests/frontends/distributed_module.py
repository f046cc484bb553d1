"""What each of two processes does in test_module.py: compiled networks under DistributedDataParallel beside PyTorch's
own, on different images, losses and gradients compared at every step."""

import copy
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tricnn
from tests.frontends.test_module import SHAPE, Small, assert_state_close, loss_of, pair
from tests.graphs.reference import REFERENCE
from tricnn.frontends.torch_backend import compile_backend

#: of a tensor's largest number. Batch norm over three pixels enlarges what rounding differs by: seen are 2e-12 in the
#: first step and 1e-9 in the second
STEPS, ERROR = 2, 1e-7


def steps(
    net: nn.Module, parallel: nn.Module, shape: tuple[int, ...], rank: int
) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """The loss of each step on this process's images, and the gradients, which are of all processes'."""
    sgd = torch.optim.SGD(net.parameters(), 0.05, 0.9)
    images = torch.Generator().manual_seed(rank)
    found = []
    for _ in range(STEPS):
        sgd.zero_grad()
        x = torch.randn(shape, generator=images, dtype=torch.float64)
        loss = loss_of(parallel(x), torch.tensor([rank, 2] + [1] * (shape[0] - 2)))
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in net.named_parameters()}))
        sgd.step()
    return found


def compare(module: nn.Module, others: dict[str, nn.Module], shape: tuple[int, ...], rank: int) -> None:
    """Train the module, and others that began as it is: the same losses, gradients, weights and statistics."""
    expected = steps(module, DistributedDataParallel(module), shape, rank)
    for how, other in others.items():
        parallel = DistributedDataParallel(other)
        if how == "compiled by Dynamo":
            parallel = torch.compile(parallel, backend=compile_backend, options={"executor": "numpy", "strict": True})
        for (loss, gradients), (wanted, wanted_gradients) in zip(steps(other, parallel, shape, rank), expected):
            assert abs(loss - wanted) <= ERROR * abs(wanted), how
            assert gradients.keys() == wanted_gradients.keys()
            for name, gradient in gradients.items():
                error, largest = (gradient - wanted_gradients[name]).abs().max(), wanted_gradients[name].abs().max()
                assert error <= ERROR * largest + 1e-10, (
                    how,
                    name,
                    error,
                    largest,
                )  # some gradients are 0 but for rounding
        assert_state_close(module, other, 1e-6)
        weight = next(other.parameters()).detach().contiguous()
        gathered = [torch.empty_like(weight) for _ in range(2)]
        torch.distributed.all_gather(gathered, weight)
        assert torch.equal(*gathered)  # the ranks agree, although their images do not
    losses = [torch.empty(STEPS, dtype=torch.float64) for _ in range(2)]
    torch.distributed.all_gather(losses, torch.tensor([loss for loss, _ in expected], dtype=torch.float64))
    assert not torch.equal(*losses)


def main() -> None:
    """Compare the networks of the issue, small: by Module, and by torch.compile with our backend."""
    rank, place = int(sys.argv[1]), sys.argv[2]
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    torch._dynamo.config.optimize_ddp = False
    module, compiled = pair(Small().double(), dtype="fp64")
    compare(module, {"a Module": compiled}, SHAPE, rank)
    for name in ("resnet18", "mobilenet_v3_small"):
        shape = (3, 3, 32, 32)
        torch.manual_seed(0)
        module = REFERENCE[name](3, 0.125).double()
        with torch.no_grad():
            module(torch.zeros(shape, dtype=torch.float64))  # lazy layers find their sizes
        others = {
            "a Module": tricnn.Module(copy.deepcopy(module), shape, dtype="fp64", executor="numpy"),
            "compiled by Dynamo": copy.deepcopy(module),
        }
        compare(module, others, shape, rank)
    torch.distributed.destroy_process_group()
