"""``tricnn.Module`` beside the PyTorch module that it was made from: whatever people do to a module, they do to it."""

import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import tricnn
from tests.graphs.reference import REFERENCE
from tricnn.frontends import torch_module
from tricnn.frontends.torch_backend import compile_backend
from tricnn.frontends.torch_gradients import watched
from tricnn.ir import GraphError, ShapeError, TargetError
from tricnn.run.open_step import OpenStep

SHAPE = (2, 3, 8, 8)


class Small(nn.Module):
    """A stem, a residual join, a dropout, two outputs."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(p)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.stem(x)
        h = h + torch.relu(self.conv(h))
        return {"features": h, "logits": self.fc(self.drop(h.mean((2, 3))))}


def pair(module: nn.Module, shape: tuple[int, ...] = SHAPE, **options: object) -> tuple[nn.Module, tricnn.Module]:
    """A module, and a compiled one with a copy of its state."""
    torch.manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn_like(p) * 0.3 + (0.5 if p.dim() == 1 else 0)
    return module, tricnn.Module(copy.deepcopy(module), shape, **{"dtype": "fp32", "executor": "numpy"} | options)


def assert_state_close(a: nn.Module, b: nn.Module, error: float = 1e-5) -> None:
    assert set(a.state_dict()) == set(b.state_dict())
    for name, x in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[name], x, rtol=error, atol=error, msg=lambda m, n=name: f"{n}: {m}")


def loss_of(outputs: object, labels: torch.Tensor) -> torch.Tensor:
    """A loss that no closed plan has: label smoothing, a margin, and a penalty on features."""
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1) + F.multi_margin_loss(logits, labels)
    return loss + 0.1 * outputs["features"].square().mean() if isinstance(outputs, dict) else loss


def train(module: nn.Module, shape: tuple[int, ...], steps: int = 3, classes: int = 3) -> list[float]:
    """SGD with momentum, clipping, accumulation over two batches of different sizes."""
    generator = torch.Generator().manual_seed(1)
    sgd = torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=1e-3)
    losses = []
    for _ in range(steps):
        sgd.zero_grad()
        for batch in (shape[0], shape[0] + 1):
            x = torch.randn((batch, *shape[1:]), generator=generator, dtype=next(module.parameters()).dtype)
            loss = loss_of(module(x), torch.randint(classes, (batch,), generator=generator)) / 2
            loss.backward()
            losses.append(loss.item())
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        sgd.step()
    return losses


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_networks_train_to_pytorchs_losses_and_weights(name: str) -> None:
    """One imported, one declared, whose state fits PyTorch's strictly."""
    module, shape = REFERENCE[name](3, 0.125).double(), (3, 3, 32, 32)
    with torch.no_grad():
        module(torch.zeros(shape, dtype=torch.float64))
    if name == "resnet18":
        module, compiled = pair(module, shape, dtype="fp64")
    else:
        graph = tricnn.graphs.mobilenet_v3_small(num_classes=3, width=0.125, input_shape=shape[1:], dropout=0.0)
        compiled = tricnn.Module(graph, dtype="fp64", executor="numpy").double()
        module.load_state_dict(compiled.state_dict())
    expected, found = train(module, shape, 2), train(compiled, shape, 2)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert_state_close(module, compiled, 1e-7)
    compiled.load_state_dict(module.state_dict())


@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_a_gradient_is_what_was_written_and_stays(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes what a kernel wrote, without a copy, and then it is the parameter's: the next step writes
    elsewhere, and whoever accumulates adds to his own."""
    written: list[int] = []
    backward = OpenStep.backward

    def observed(*args: object) -> dict[str, object]:
        found = backward(*args)
        written.extend(torch.as_tensor(x).untyped_storage().data_ptr() for x in found.values())
        return found

    monkeypatch.setattr(OpenStep, "backward", observed)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    module, compiled = pair(layers, (1, 2, 4, 4), executor=executor)
    compiled.to(memory_format=torch.channels_last)
    x = [torch.randn(2, 2, 4, 4) for _ in range(2)]
    for net in (module, compiled):
        net(x[0]).square().sum().backward()
    if executor == "triton":
        assert {p.grad.untyped_storage().data_ptr() for p in compiled.parameters()} == set(written)
    kept = [p.grad for p in compiled.parameters()]
    before = [g.clone() for g in kept]
    compiled.zero_grad()
    compiled(x[1]).square().sum().backward()
    assert all(torch.equal(g, old) for g, old in zip(kept, before, strict=True))
    for p, g in zip(compiled.parameters(), kept, strict=True):
        p.grad += g
    module(x[1]).square().sum().backward()
    for a, b in zip(module.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    if executor == "numpy":
        factor = torch.ones((), requires_grad=True)
        for g in torch.autograd.grad(compiled(x[0]).square().sum(), list(compiled.parameters())):
            assert g.mul_(factor).requires_grad  # as PyTorch's own may be changed in place


@pytest.mark.parametrize("executor", ["numpy", "eager"])
def test_modes_of_layers_are_followed(executor: str) -> None:
    """A frozen batch norm, a frozen weight, evaluation with gradients of images; the state goes there and back."""
    module, compiled = pair(Small(), executor=executor)
    x, labels = torch.randn(SHAPE), torch.tensor([0, 2])
    for net in (module, compiled):
        net.stem[1].eval()
        net.stem[0].weight.requires_grad_(False)
        loss_of(net(x), labels).backward()
        net.eval()
        net.images = x.clone().requires_grad_()
        loss_of(net(net.images), labels).backward()
    torch.testing.assert_close(compiled.images.grad, module.images.grad)
    for (name, a), (_, b) in zip(module.named_parameters(), compiled.named_parameters(), strict=True):
        assert (b.grad is None) == (a.grad is None) == (name == "stem.0.weight")
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)
            assert b.grad.stride() == b.stride()
    assert_state_close(module, compiled)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)["logits"], module(x)["logits"])
    module.load_state_dict(compiled.state_dict())
    compiled.load_state_dict(Small().state_dict())


def test_triton_kernels_train_it() -> None:
    """Under the interpreter: the emitted forward and backward behind one node of autograd."""
    layers = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    module, compiled = pair(layers, (1, 2, 4, 4), executor="triton")
    images = [torch.randn(2, 2, 4, 4, requires_grad=True)] * 2
    gradients = [
        torch.autograd.grad(F.cross_entropy(net(x), torch.tensor([0, 2])), [x, *net.parameters()])
        for net, x in zip((module, compiled), images, strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert_state_close(module, compiled)
    graph, state = tricnn.from_torch(nn.Sequential(nn.Conv2d(2, 3, 3)), (1, 2, 4, 4))
    with torch.inference_mode():
        compiled.eval()(images[1])
        closed = tricnn.compile(graph, batch=2, executor="triton")
        closed(images[1])
    with torch.no_grad():  # what was made in that mode serves outside it, too
        torch.testing.assert_close(compiled(images[1]), module.eval()(images[1]), rtol=1e-4, atol=1e-5)
    closed.load_state_dict(state)
    closed(images[1])


def test_copies_pickles_hooks_and_averages() -> None:
    module, compiled = pair(Small())
    train(compiled, SHAPE, 1)
    buffer = io.BytesIO()
    torch.save(compiled, buffer)
    buffer.seek(0)
    x, seen = torch.randn(SHAPE), []
    copies = [copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled)), torch.load(buffer, weights_only=False)]
    handle = compiled.register_forward_hook(lambda m, inputs, outputs: seen.append(outputs["logits"].shape))
    for other in copies:
        assert_state_close(compiled, other, 0)
    for other in copies:
        torch.testing.assert_close(other.eval()(x), compiled.eval()(x), rtol=0, atol=0)
        compiled.train(), other.train()
        train(other, SHAPE, 1)
        assert not torch.equal(other.fc.weight, compiled.fc.weight)
    assert seen == [(2, 3)] * 3
    handle.remove()
    module.load_state_dict(compiled.state_dict())
    for net in (module, compiled):
        net.averaged = [torch.optim.swa_utils.AveragedModel(net)]
        train(net, SHAPE, 1)
        net.averaged[0].update_parameters(net)
        batches = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(3)]
        torch.optim.swa_utils.update_bn(batches, net.averaged[0])
    assert_state_close(module.averaged[0], compiled.averaged[0])
    compiled.conv.register_full_backward_hook(print)
    with pytest.warns(UserWarning, match="hooks on the layer conv do not run"):
        compiled(x)


def test_graphs_second_derivatives_and_changes_in_between_are_pytorchs() -> None:
    _, compiled = pair(Small())
    x = torch.randn(SHAPE)
    first, second = compiled(x)["logits"], compiled(2 * x)["logits"]
    second.sum().backward()
    first.sum().backward(retain_graph=True)
    kept = compiled.fc.weight.grad.clone()
    compiled.zero_grad()
    first.sum().backward()
    second_time = compiled.fc.weight.grad + 0
    assert not torch.equal(second_time, kept)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        first.sum().backward()
    changed = compiled(x)["logits"].sum()
    with torch.no_grad():
        compiled.fc.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.backward()
    (gradient,) = torch.autograd.grad(compiled(x)["logits"].square().sum(), compiled.fc.weight, create_graph=True)
    with pytest.raises(TargetError, match="a second derivative was asked for"):
        gradient.sum().backward()


def test_autocast_and_loss_scaling() -> None:
    """Outputs have autocast's type; gradients are fp32, near those in fp32; a step that overflows is skipped."""
    module, compiled = pair(Small())
    x, labels = torch.randn(SHAPE), torch.tensor([0, 2])
    for dtype in (torch.bfloat16, torch.float16):
        compiled.zero_grad()
        with torch.autocast("cpu", dtype):
            outputs = compiled(x)
        assert {y.dtype for y in outputs.values()} == {dtype}
        sgd = torch.optim.SGD(compiled.parameters(), 0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        scaler.scale(loss_of({n: y.float() for n, y in outputs.items()}, labels)).backward()
        scaler.unscale_(sgd)
        module.zero_grad()
        loss_of(module(x), labels).backward()
        for a, b in zip(module.parameters(), compiled.parameters(), strict=True):
            assert b.grad.dtype == torch.float32
            torch.testing.assert_close(b.grad, a.grad, rtol=0.1, atol=0.05)
    before = copy.deepcopy(compiled.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1e30)
    with torch.autocast("cpu", torch.float16), warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = compiled.eval()(x)["logits"].float().sum()
    sgd = torch.optim.SGD(compiled.parameters(), 1.0)
    scaler.scale(loss).backward()
    scaler.step(sgd)
    scaler.update()
    assert scaler.get_scale() < 1e30
    torch.testing.assert_close(compiled.state_dict(), before, rtol=0, atol=0)


def test_dropout_draws_from_pytorchs_generator() -> None:
    compiled = pair(Small(0.5))[1]
    x = torch.randn((64, *SHAPE[1:]))
    torch.manual_seed(3)
    a, b = compiled(x)["logits"], compiled(x)["logits"]
    torch.manual_seed(3)
    assert torch.equal(compiled(x)["logits"], a) and not torch.equal(a, b)
    compiled.drop.eval()
    assert torch.equal(compiled(x)["logits"], compiled(x)["logits"])


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(number)`` in so many threads at once."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


@pytest.mark.parametrize("executor, count, times", [("numpy", 4, 5), ("triton", 2, 2)])
def test_threads_share_a_module(executor: str, count: int, times: int) -> None:
    """Each gets the gradients of its own images, however they interleave, and no running statistics are lost."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    _, compiled = pair(layers, executor=executor)
    images = [torch.randn((3, *SHAPE[1:]), requires_grad=True) for _ in range(count)]
    expected = [torch.autograd.grad(compiled(x).square().sum(), x)[0] for x in images]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(count)}

    def work(i: int) -> None:
        for _ in range(times):
            found[i] += torch.autograd.grad(compiled(images[i]).square().sum(), images[i])

    in_threads(count, work)
    for i, gradients in found.items():
        assert len(gradients) == times and all(torch.equal(g, expected[i]) for g in gradients)
    assert int(compiled.get_buffer("1.num_batches_tracked")) == count * (times + 1)
    before = copy.deepcopy(compiled)
    in_threads(count, lambda i: [compiled(images[0]) for _ in range(times)])
    for _ in range(count * times):
        before(images[0])
    assert_state_close(before, compiled, 0)


class Stops(nn.Module):
    """A branch through which no gradient passes, and an output that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.relu(self.a(x))
        return {"logits": self.fc((h + self.b(h.detach())).mean((2, 3))), "features": h.detach()}


def test_no_gradient_passes_a_detach() -> None:
    """Of a Module, of torch.compile's backend and of a closed step."""
    module, compiled = pair(Stops().double(), dtype="fp64")
    other, x, labels = copy.deepcopy(module), torch.randn(SHAPE, dtype=torch.float64), torch.tensor([0, 2])
    torch._dynamo.reset()
    fast = torch.compile(other, backend=compile_backend, options={"executor": "numpy", "strict": True})
    for net in (module, compiled, fast):
        outputs = net(x)
        F.cross_entropy(outputs["logits"], labels).backward()
        assert not outputs["features"].requires_grad
    graph, state = tricnn.from_torch(module, SHAPE)
    graph = replace(graph, outputs=graph.outputs[:1])
    closed = tricnn.compile(graph, "train", 2, "fp64", executor="numpy")
    closed.load_state_dict(state)
    found = closed.loss_and_grads(x.numpy(), labels.numpy())[1]
    for name, p in module.named_parameters():
        for gradient in (compiled.get_parameter(name).grad, other.get_parameter(name).grad, found[name]):
            torch.testing.assert_close(torch.as_tensor(gradient), p.grad, msg=lambda m, n=name: f"{n}: {m}")
    assert not any(n.row.detaches for n in closed.plan.graph.nodes)


class Reversed(torch.autograd.Function):
    """Its operand, whose gradient is turned round (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, dy: torch.Tensor) -> torch.Tensor:
        return -2 * dy


class OwnGradients(Stops):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = Reversed.apply(torch.relu(self.a(x)))
        if h.requires_grad:
            h.register_hook(lambda dy: 3 * dy)
        with torch.no_grad():
            fixed = self.b(h)
        return self.fc((h + fixed).mean((2, 3)))


def test_gradients_that_no_graph_knows_are_never_passed_over() -> None:
    """A Module computes values only, the backend leaves them to PyTorch, an import warns."""
    module, compiled = pair(OwnGradients().double(), dtype="fp64")
    x = torch.randn(SHAPE, dtype=torch.float64)
    what = "forward has the backward of Reversed and a hook on a value's gradient and torch.no_grad"
    with pytest.raises(TargetError, match=what):
        compiled(x)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))
    with pytest.warns(UserWarning, match=what):
        tricnn.from_torch(module, SHAPE)
    other = copy.deepcopy(module)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = torch.compile(other, backend=compile_backend, options={"executor": "numpy"})
        for net in (module, fast):
            net(x).square().sum().backward()
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad)


def test_threads_that_import_at_once_leave_pytorch_as_it_was() -> None:
    """Each watches the process: were they to do so side by side, one would restore what another has put there."""
    before = torch.autograd.Function.__dict__["apply"], torch.Tensor.register_hook
    first, second = watched(), watched()
    first.__enter__()
    other = threading.Thread(target=lambda: (second.__enter__(), second.__exit__(None, None, None)))
    other.start()
    other.join(0.2)
    assert other.is_alive()
    first.__exit__(None, None, None)
    other.join()
    assert before == (torch.autograd.Function.__dict__["apply"], torch.Tensor.register_hook)


def test_parameters_that_are_computed_or_lent() -> None:
    """Weight and spectral norms, set before and after it is compiled, stay PyTorch's; functional_call lends others."""
    module = Small().double()
    spectral_norm(module.conv)
    module, compiled = pair(module, dtype="fp64")
    x, labels = torch.randn(SHAPE, dtype=torch.float64), torch.tensor([0, 2])
    for net in (module, compiled):
        weight_norm(net.stem[0])
        sgd = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            sgd.zero_grad()
            loss_of(net(x), labels).backward()
            sgd.step()
    assert_state_close(module, compiled, 1e-12)
    results = []
    for net in (module, compiled):
        lent = {name: (2 * p.detach()).requires_grad_() for name, p in net.named_parameters()}
        loss = loss_of(functional_call(net, lent, (x,)), labels)
        results.append(torch.autograd.grad(loss, list(lent.values())))
    torch.testing.assert_close(results[1], results[0])
    with pytest.raises(TargetError, match=r"transforms of torch.func \(grad, vmap, jvp\) cannot look into"):
        torch.func.grad(lambda p: functional_call(compiled, p, (x,))["logits"].sum())(lent)


def test_a_state_is_written_and_read_as_the_module_itself_does() -> None:
    """Its hooks, its extra state, its own way of reading older names; another layer than was compiled is an error."""

    class Versions(Small):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 2}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.found = state

        def _load_from_state_dict(self, state: dict, prefix: str, *rest: object) -> None:
            state[prefix + "fc.weight"] = state.pop(prefix + "head.weight", state.get(prefix + "fc.weight"))
            super()._load_from_state_dict(state, prefix, *rest)

    module = Versions()
    module.register_state_dict_post_hook(lambda m, state, prefix, _: state.update({prefix + "note": torch.ones(1)}))
    module.register_load_state_dict_pre_hook(lambda m, state, prefix, *_: state.pop(prefix + "note", None))
    added = ("note", "_extra_state")
    module, compiled = pair(module)
    state = copy.deepcopy(compiled.state_dict())
    assert list(state) == list(module.state_dict()) and set(added) < set(state)
    state["head.weight"] = 2 * state.pop("fc.weight")
    assert str(compiled.load_state_dict(state)) == "<All keys matched successfully>"
    torch.testing.assert_close(compiled.fc.weight, 2 * module.fc.weight)
    assert list(tricnn.from_torch(module, SHAPE)[1]) == [name for name in module.state_dict() if name not in added]
    compiled.fc = nn.Linear(4, 5)
    with pytest.raises(ShapeError, match=r"fc.weight is \[5, 4\] now, and was \[3, 4\]"):
        compiled(torch.zeros(SHAPE))
    compiled.fc = nn.Identity()
    with pytest.raises(GraphError, match="the layer fc is a Identity now, and was a Linear"):
        compiled(torch.zeros(SHAPE))


def test_what_is_not_accepted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match="give it an example"):
        tricnn.Module(Small())
    with pytest.raises(TargetError, match="dtype 'int3' is unknown"):
        tricnn.Module(Small(), SHAPE, dtype="int3")
    with pytest.raises(TargetError, match="fuse 'most' is not a policy"):
        tricnn.Module(Small(), SHAPE, fuse="most")
    _, compiled = pair(Small())
    with pytest.raises(ShapeError, match=r"input x: expected a tensor .*8.*, got \[2, 3, 9, 8\]"):
        compiled(torch.zeros(2, 3, 9, 8))
    _, synchronised = pair(nn.SyncBatchNorm.convert_sync_batchnorm(Small()))
    monkeypatch.setattr(torch_module, "_several_processes", lambda: True)
    with pytest.raises(TargetError, match="statistics over several processes are for `tricnn train"):
        synchronised(torch.zeros(SHAPE))
    assert "small, dtype=fp32, executor=numpy" in repr(compiled)
    assert "dtype=bf16, executor=auto" in repr(tricnn.Module(Small(), SHAPE))


@pytest.mark.slow
def test_two_processes_train_it_as_they_train_pytorchs(tmp_path: Path) -> None:
    """ResNet-18 and MobileNetV3, small, by Module and by the backend, under DistributedDataParallel with gloo."""
    script = "from tests.frontends.distributed_module import main; main()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        _, err = process.communicate(timeout=540)
        assert process.returncode == 0, err
