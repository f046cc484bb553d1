"""Open plans: any loss between a forward and its backward, by every executor, beside PyTorch's autograd."""

import numpy as np
import pytest
import torch

from tests.compiler.nets import NETS
from tricnn.graphs import ARCHITECTURES
from tricnn.ir import Graph, GraphBuilder, TargetError
from tricnn.lower.from_graph import lowered
from tricnn.measure.pytorch_network import PyTorchNetwork
from tricnn.run.open_step import OpenStep, as_numpy

WITHOUT_DROPOUT = [net for net in NETS if not any(n.row.random for n in net.nodes)]


def tiny() -> Graph:
    """Everything that an open plan must tell apart: running statistics, an index, a join, two outputs, one of which a
    layer reads too."""
    b = GraphBuilder("tiny")
    x = b.input("x", (2, 6, 6))
    h = b.max_pool2d(b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False, name="c1"), name="b1")), 3, 2)
    h = b.add_(b.relu(b.conv2d(h, 4, 1, name="c2")), h)
    b.output(h, "features")
    return b.build(b.linear(b.global_avg_pool(h), 3, name="fc"))


def activated() -> Graph:
    """Its last layers are pointwise: their gradient could join their kernel, if only it were there."""
    b = GraphBuilder("activated")
    x = b.input("x", (2, 6, 6))
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, name="c1"), name="b1"))
    b.output(b.relu(b.conv2d(x, 4, 1, name="c2")), "one")
    return b.build(b.sigmoid(b.batch_norm(x, name="b2")))


def summed() -> Graph:
    """Its convolution's gradients are sums of what many programs leave; its dense layer reads more than one pixel."""
    b = GraphBuilder("summed")
    h = b.max_pool2d(b.relu(b.conv2d(b.input("x", (1, 17, 17)), 2, 2, name="c")), 4)
    return b.build(b.linear(b.flatten(h), 3, name="fc"))


def boxed() -> Graph:
    """In 16 bits the gradient of its images is stored by a descriptor."""
    b = GraphBuilder("boxed")
    return b.build(b.conv2d(b.input("x", (64, 2, 2)), 64, 1, bias=False, name="a"))


class Beside:
    """One network with one state and batch, and a loss that is linear in the outputs, by PyTorch in float64."""

    def __init__(self, graph: Graph, batch: int = 3, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.graph = graph
        self.state = {
            n.name: rng.normal(size=graph.types[n.name].per_image) * 0.3 for n in (*graph.parameters, *graph.buffers)
        }
        self.state |= {n: np.abs(v) + 0.5 for n, v in self.state.items() if n.endswith("running_var")}
        self.x = rng.normal(size=graph.types[graph.inputs[0].name].at(batch))
        self.weights = {o.name: rng.normal(size=graph.types[o.value].at(batch)) for o in graph.outputs}
        self.network = PyTorchNetwork(graph, "train").double().load(self.state)

    @property
    def given(self) -> dict[str, np.ndarray]:
        return {**self.state, self.graph.inputs[0].name: self.x}

    def expected(self, also_buffers: bool = True) -> dict[str, np.ndarray]:
        """Outputs, statistics, gradients (of the input too) under our names."""
        x = torch.tensor(self.x, requires_grad=True)
        outputs = dict(zip(self.weights, self.network(x), strict=True))
        sum((outputs[o] * torch.tensor(w)).sum() for o, w in self.weights.items()).backward()
        slots = self.network.slot
        found = {o: y.detach() for o, y in outputs.items()}
        found |= {b.name: self.network.get_buffer(slots[b.name]) for b in self.graph.buffers}
        found |= {f"grad:{p.name}": self.network.get_parameter(slots[p.name]).grad for p in self.graph.parameters}
        return {n: v.numpy() for n, v in found.items()} | {f"grad:{self.graph.inputs[0].name}": x.grad.numpy()}


def computed(step: OpenStep, beside: Beside) -> dict[str, np.ndarray]:
    results, saved = step.forward(beside.given)
    results = {n: np.array(np.asarray(v)) for n, v in results.items()}
    gradients = step.backward(saved, beside.weights)
    return results | {f"grad:{n}": np.asarray(g) for n, g in gradients.items()}


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], error: float) -> None:
    for name, value in found.items():
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=error * scale, err_msg=name)


def everything(graph: Graph) -> tuple[str, ...]:
    return (*(n.name for n in graph.parameters), graph.inputs[0].name)


@pytest.mark.parametrize("fuse", ["auto", "none"])
@pytest.mark.parametrize("executor", ["numpy", "eager"])
@pytest.mark.parametrize("net", [tiny(), activated(), *WITHOUT_DROPOUT], ids=lambda g: g.name)
def test_outputs_statistics_and_gradients_are_those_of_autograd(net: Graph, executor: str, fuse: str) -> None:
    beside = Beside(net)
    step = OpenStep(net, everything(net), 3, "fp64", executor, fuse=fuse)
    found, expected = computed(step, beside), beside.expected()
    assert {n for n in found if n.startswith("grad:")} == {f"grad:{n}" for n in everything(net)}
    close(found, expected, 1e-11)


def test_kernels_compute_the_same() -> None:
    """Under the interpreter, with memory that nothing has written poisoned; and nothing of one forward is another's."""
    net = tiny()
    step = OpenStep(net, everything(net), 2, "fp32", "triton")
    first, second = Beside(net, 2), Beside(net, 2, seed=1)
    _, saved = step.forward(first.given)
    close(computed(step, second), second.expected(), 1e-5)
    found = step.backward(saved, first.weights, keep=True)
    expected = first.expected()
    close({f"grad:{n}": np.asarray(g) for n, g in found.items()}, expected, 1e-5)
    again = step.backward(saved, first.weights)
    assert all((again[n] == g).all() for n, g in found.items())


@pytest.mark.parametrize(
    "net, dtype, executor, error",
    [
        (summed(), "fp32", "triton", 1e-5),
        (boxed(), "bf16", "triton", 0.03),
        (summed(), "fp64", "numpy", 1e-11),
        (summed(), "fp64", "eager", 1e-11),
    ],
)
def test_gradients_are_the_callers(net: Graph, dtype: str, executor: str, error: float) -> None:
    """Whoever keeps them, or changes them, finds them as he left them whatever runs afterwards; kernels write the next
    ones elsewhere."""
    step = OpenStep(net, everything(net), 2, dtype, executor, target="sm_90")
    if executor == "triton":
        step.executor.poisons = True
        assert bool(step.program.sums) == (net.name == "summed")
        assert {d.buffer for d in step.program.descriptors.values()}.isdisjoint(step.executor.handed) == (
            dtype == "fp32"
        )
    besides = [Beside(net, 2, seed) for seed in range(3)]
    under_way = [step.forward(b.given)[1] for b in besides[:2]]
    found = [step.backward(under_way[0], besides[0].weights, keep=True)]
    for gradient in found[0].values():
        gradient[...] = 7.0
    found += [step.backward(saved, b.weights) for saved, b in zip(under_way, besides, strict=False)]
    found.append(step.backward(step.forward(besides[2].given)[1], besides[2].weights))
    assert all((as_numpy(gradient) == 7.0).all() for gradient in found[0].values())
    for gradients, beside in zip(found[1:], besides, strict=True):
        close({f"grad:{n}": as_numpy(g) for n, g in gradients.items()}, beside.expected(), error)


def test_gradients_of_one_value_are_two() -> None:
    """Two biases of one sum have the same gradient, and an output that is an input has its own tangent for one."""
    b = GraphBuilder("shared")
    x = b.input("x", (2, 4, 4))
    b.output(x, "same")
    net = b.build(b.add_(b.conv2d(x, 3, 1, name="c1"), b.conv2d(x, 3, 1, name="c2")))
    for executor in ("numpy", "eager", "triton"):
        step, beside = OpenStep(net, ("c1.bias", "c2.bias", "x"), 2, "fp32", executor), Beside(net, 2)
        _, saved = step.forward(beside.given)
        tangents = {name: np.asarray(w, dtype=np.float32) for name, w in beside.weights.items()}
        found = step.backward(saved, tangents)
        found["c1.bias"][...] = 0.0
        close({"grad:c2.bias": np.asarray(found["c2.bias"])}, beside.expected(), 1e-5)
        found["x"][...] = 0.0
        assert all((tangents[name] == w.astype(np.float32)).all() for name, w in beside.weights.items())


@pytest.mark.parametrize("executor", ["numpy", "eager"])
def test_forwards_may_be_under_way_and_be_kept(executor: str) -> None:
    net = tiny()
    step = OpenStep(net, everything(net), 3, "fp64", executor)
    besides = [Beside(net, batch, seed) for seed, batch in enumerate((3, 1, 4))]
    under_way = [step.forward(b.given)[1] for b in besides]
    for beside, saved in reversed(list(zip(besides, under_way, strict=True))):
        expected = beside.expected()
        for keep in (True, True, False):
            found = step.backward(saved, beside.weights, keep)
            close({f"grad:{n}": np.asarray(g) for n, g in found.items()}, expected, 1e-11)
    with pytest.raises(TargetError, match="a backward pass of this forward was run already"):
        step.backward(saved, beside.weights)


def test_only_what_is_wanted_is_computed() -> None:
    """A frozen stem costs neither its weights' gradients nor those of what lies before it."""
    net = tiny()
    ops = {
        wants: [n.op for n in OpenStep(net, wants).plan.graph.nodes]
        for wants in ((), ("fc.weight",), ("c2.weight",), ("x",))
    }
    assert not any("_grad_" in op for op in ops[()])
    assert ops["fc.weight",].count("linear_grad_weight") == 1 and "linear_grad_input" not in ops["fc.weight",]
    assert [op for op in ops["c2.weight",] if op.startswith("conv2d_grad")] == ["conv2d_grad_weight"]
    assert "conv2d_grad_weight" not in ops["x",] and ops["x",].count("conv2d_grad_input") == 2
    assert "tangent" not in str(OpenStep(net).plan)


def test_an_output_without_a_gradient_counts_as_zero() -> None:
    net, name = tiny(), "fc.weight"
    step, beside = OpenStep(net, (name,), 3, "fp64"), Beside(tiny())
    beside.weights["features"] = np.zeros_like(beside.weights["features"])
    _, saved = step.forward(beside.given)
    found = step.backward(saved, {"logits": beside.weights["logits"]})
    close({f"grad:{name}": found[name]}, beside.expected(), 1e-11)


SLOW = ("mobilenet_v3_small", "googlenet_bn", "convnext_tiny", "squeezenet1_1", "resnet50", "efficientnet_b0", "unet")


@pytest.mark.parametrize(
    "name",
    ["resnet18", "inception_block", "alexnet", "vgg11_bn", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)],
)
def test_an_open_step_needs_hardly_more_memory_than_a_closed_one(name: str) -> None:
    """With its own copies of statistics and outputs, which the closed step has not. Where parameters outweigh images,
    as in alexnet and vgg11_bn, it has no room for a copy of a parameter or gradient."""
    graph, batch = ARCHITECTURES[name](), 64
    closed = lowered(graph, "train", batch, "bf16", "sm_90", fuse="auto")
    open_ = OpenStep(graph, tuple(n.name for n in graph.parameters), batch, "bf16", target="sm_90")
    assert open_.peak_memory_bytes() <= 1.1 * closed.peak_memory_bytes()
    assert open_.program.dram_bytes() <= 1.01 * closed.dram_bytes()


def test_an_open_step_holds_what_it_states() -> None:
    """After its backward pass, with what it has given to the caller."""
    net, batch = summed(), 2
    step, beside = OpenStep(net, tuple(n.name for n in net.parameters), batch, "bf16", "triton"), Beside(net, batch)
    state = {name: torch.tensor(x, dtype=torch.float32) for name, x in beside.given.items()}
    state = {n: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for n, x in state.items()}
    outputs, saved = step.forward(state)
    gradients = step.backward(saved, beside.weights)
    (kept,) = step.executor._free[batch]
    parameters = {n.name: state[n.name] for n in net.parameters}
    held = {}
    for x in (*kept.values(), *parameters.values(), *outputs.values(), *gradients.values()):
        if isinstance(x, torch.Tensor):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    assert sum(held.values()) == step.peak_memory_bytes(batch)
