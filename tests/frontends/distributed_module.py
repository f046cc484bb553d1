"""What each of two processes does in test_module.py: a compiled module under DistributedDataParallel beside PyTorch's
own, on different images."""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.frontends.test_module import SHAPE, Small, assert_state_close, loss_of, pair


def main() -> None:
    rank, place = int(sys.argv[1]), sys.argv[2]
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    module, compiled = pair(Small().double(), dtype="fp64")
    found = []
    for net in (module, compiled):
        parallel = DistributedDataParallel(net)
        sgd = torch.optim.SGD(net.parameters(), 0.05, 0.9)
        images = torch.Generator().manual_seed(rank)
        losses = []
        for _ in range(3):
            sgd.zero_grad()
            x = torch.randn(SHAPE, generator=images, dtype=torch.float64)
            loss = loss_of(parallel(x), torch.tensor([rank, 2]))
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        found.append(losses)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    assert_state_close(module, compiled, 1e-10)
    gathered = [torch.empty_like(compiled.fc.weight) for _ in range(2)]
    torch.distributed.all_gather(gathered, compiled.fc.weight.detach().contiguous())
    assert torch.equal(*gathered)  # the ranks agree, although their images do not
    losses = [torch.empty(3, dtype=torch.float64) for _ in range(2)]
    torch.distributed.all_gather(losses, torch.tensor(found[1], dtype=torch.float64))
    assert not torch.equal(*losses)
    torch.distributed.destroy_process_group()
