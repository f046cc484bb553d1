"""PyTorch's networks that take images of bytes and normalise them themselves, and files of networks that do."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import tricnn
from tricnn.ir import DataError, GraphBuilder, of_bytes

BYTES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 9, 8), dtype=np.uint8))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Linear(4 * 5 * 4, 3)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c((x.float() / 255 - self.mean) / self.std).relu().flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network()


def test_a_module_that_normalises_bytes_itself_is_imported_as_one(network) -> None:
    graph, state = tricnn.from_torch(network, BYTES)
    assert graph.types[graph.inputs[0].name].dtype == "uint8"
    model = tricnn.compile(graph, batch=2, executor="numpy")
    model.load_state_dict(state)
    wanted = network(BYTES).detach().numpy()
    np.testing.assert_allclose(model(BYTES).numpy(), wanted, atol=1e-5)
    with pytest.raises(DataError, match="expected bytes"):
        model(BYTES.float())
    ours = tricnn.Module(network, BYTES, dtype="fp32", executor="numpy")
    np.testing.assert_allclose(ours(BYTES).detach().numpy(), wanted, atol=1e-5)


def test_a_file_of_a_network_on_bytes_takes_bytes(tmp_path) -> None:
    b = GraphBuilder("net")
    b.output(b.conv2d(b.input("x", (3, 9, 8)), 4, 3, padding=1, name="c"), name="y")
    graph = of_bytes(b.build(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model, path = tricnn.compile(graph, batch=2, executor="numpy"), str(tmp_path / "net.onnx")
    tricnn.to_onnx(graph, model.state_dict(), path)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    (found,) = ReferenceEvaluator(path).run(None, {"x": BYTES.numpy()})
    np.testing.assert_allclose(found, model(BYTES.numpy()), atol=1e-5)


def test_a_region_of_torch_compile_takes_bytes(network) -> None:
    fast = torch.compile(network, backend="tricnn", options={"dtype": "fp32", "executor": "numpy", "strict": True})
    found = fast(BYTES)
    np.testing.assert_allclose(found.detach().numpy(), network(BYTES).detach().numpy(), atol=1e-5)
    found.sum().backward()
    assert network.c.weight.grad is not None and network.c.weight.grad.abs().max() > 0
