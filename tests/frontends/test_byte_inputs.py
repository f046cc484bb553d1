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


def normalising(order: str) -> onnx.ModelProto:
    """A file whose input is bytes, normalised as ``(x / 255 - mean) / std``, or by a product and a sum."""
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    whole = np.array(255, np.float32)
    chain = {
        "divided": [("Div", whole), ("Sub", mean), ("Div", std)],
        "multiplied": [("Mul", np.reshape(1 / (255 * std), (3, 1, 1))), ("Add", -mean / std)],
    }[order]
    nodes = [onnx.helper.make_node("Cast", ["x"], ["v0"], to=onnx.TensorProto.FLOAT)]
    tensors = [onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "w")]
    for i, (op, numbers) in enumerate(chain):
        nodes.append(onnx.helper.make_node(op, [f"v{i}", f"c{i}"], [f"v{i + 1}"]))
        tensors.append(onnx.numpy_helper.from_array(numbers, f"c{i}"))
    nodes.append(onnx.helper.make_node("Conv", [f"v{len(chain)}", "w"], ["y"], pads=[1, 1, 1, 1]))
    kinds, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "net", [info("x", kinds.UINT8, ["N", 3, 9, 8])], [info("y", kinds.FLOAT, ["N", 4, 9, 8])], tensors
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("order", ["divided", "multiplied"])
def test_a_file_s_own_normalisation_of_bytes_is_one_layer(order: str) -> None:
    file = normalising(order)
    graph, state = tricnn.from_onnx(file)
    assert [n.op for n in graph.nodes if n.inputs] == ["from_bytes", "conv2d"]
    assert graph.types[graph.inputs[0].name].dtype == "uint8"
    model = tricnn.compile(graph, batch=2, executor="numpy")
    model.load_state_dict(state)
    (wanted,) = ReferenceEvaluator(file).run(None, {"x": BYTES.numpy()})
    np.testing.assert_allclose(model(BYTES.numpy()), wanted, atol=1e-5)
    del file.graph.node[0]
    file.graph.node[0].input[0] = "x"
    with pytest.raises(tricnn.TricnnError, match="must hold floating-point numbers, it is uint8"):
        tricnn.from_onnx(file)


def test_crops_go_to_files_as_slices_and_come_back() -> None:
    b = GraphBuilder("net")
    x = b.zero_pad2d(b.input("x", (3, 9, 8)), (-1, 2, 0, -3))
    b.output(b.zero_pad2d(x, (-2, -1, -1, 0)), name="y")
    file = tricnn.to_onnx(b.build(), {})
    assert [n.op_type for n in file.graph.node] == ["Slice", "Pad", "Slice", "Identity"]
    images = np.random.default_rng(0).normal(size=(2, 3, 9, 8)).astype(np.float32)
    wanted = torch.nn.functional.pad(torch.from_numpy(images), (0, -3, -1, 2))[:, :, 2:-1, 1:].numpy()
    (found,) = ReferenceEvaluator(file).run(None, {"x": images})
    np.testing.assert_array_equal(found, wanted)
    graph, _ = tricnn.from_onnx(file)
    np.testing.assert_array_equal(tricnn.compile(graph, batch=2, executor="numpy")(images), wanted)
