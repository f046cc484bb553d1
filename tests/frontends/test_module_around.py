"""``tricnn.Module`` inside what people build around a module: what views its parameters, compiles its caller, or wants
its outputs in a shape that no graph has."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tricnn
from tests.frontends.test_module import SHAPE, Small, pair
from tricnn.frontends.assembler import NotImported


def test_what_wants_pytorchs_layout_of_parameters_finds_it(tmp_path: Path) -> None:
    """L-BFGS and flat vectors of parameters view them, safetensors writes them as they lie."""
    from safetensors.torch import load_file, save_file

    module, compiled = pair(Small().double(), dtype="fp64")
    x = torch.randn(SHAPE, dtype=torch.float64)
    for net in (module, compiled):
        optimiser = torch.optim.LBFGS(net.parameters(), lr=0.01, max_iter=3)

        def closure(net: nn.Module = net, optimiser: torch.optim.Optimizer = optimiser) -> torch.Tensor:
            optimiser.zero_grad()
            loss = net(x)["logits"].square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
    vectors = [nn.utils.parameters_to_vector(net.parameters()) for net in (module, compiled)]
    torch.testing.assert_close(vectors[1], vectors[0], rtol=1e-9, atol=1e-9)
    save_file(compiled.state_dict(), tmp_path / "state.safetensors")
    compiled.load_state_dict(load_file(tmp_path / "state.safetensors"))


def test_somebodys_torch_compile_calls_it_and_does_not_look_into_it() -> None:
    """What is around it is compiled, in two graphs: before it and behind it."""

    class Around(nn.Module):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(2 * x)["logits"].tanh()

    module, compiled = pair(Small())
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    x = torch.randn(SHAPE)
    y = torch.compile(Around(compiled), backend=backend)(x)
    torch.testing.assert_close(y, Around(module)(x), rtol=1e-5, atol=1e-5)
    called = [sum(n.op.startswith("call") for n in graph.graph.nodes) for graph in graphs]
    assert called == [1, 1]
    y.square().sum().backward()
    assert compiled.fc.weight.grad is not None


class Outputs(nn.Module):
    """A number for each image, a mask without channels, boxes of several anchors, pixels with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.boxes, self.fc = nn.Conv2d(3, 1, 3), nn.Conv2d(3, 2 * 5, 3, stride=2), nn.Linear(36, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        mask, boxes = self.conv(x), self.boxes(x)
        return {
            "number": self.fc(mask.relu().flatten(1)).squeeze(1),
            "mask": mask.squeeze(1),
            "boxes": boxes.unflatten(1, (2, 5)).permute(0, 1, 3, 4, 2).flatten(1, 3),
            "pixels": boxes.permute(0, 2, 3, 1),
        }


@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_outputs_are_reshaped_and_permuted_as_forward_does(executor: str) -> None:
    """Gradients go back through it; a graph alone has no such outputs, and its import names them."""
    module, compiled = pair(Outputs(), executor=executor)
    x = torch.randn(3, *SHAPE[1:])
    found = []
    for net in (module, compiled):
        outputs = net(x)
        sum((y * torch.arange(y.numel()).reshape(y.shape)).sum() for y in outputs.values()).backward()
        found.append((outputs, [p.grad for p in net.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-3)
    with pytest.raises(NotImported, match=r"output number .* as \[N\], made of \[N, 1\]"):
        tricnn.from_torch(module, SHAPE)
