"""A step captured as a CUDA graph does what the launches one by one do; capturing it leaves no trace.

A user would lose a few updates' worth of running statistics at the start of every run, and never see why evaluation
is off. A CUDA graph's stand-in here records without running, as the real one does.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import tricnn
from tricnn.compiler.pipeline import planned
from tricnn.ir import GraphBuilder
from tricnn.lower.lower import lower
from tricnn.run.captured_step import WARM_UPS, worth_capturing
from tricnn.run.quick_interpreter import quick_interpreter


class Graph:
    def replay(self):
        self.cuda.replays += 1
        self.cuda.step()


class Stream:
    def wait_stream(self, other):
        pass


class Cuda:
    """What `capture` needs of torch.cuda. ``step`` is what a replay runs, ``tensors`` what recording must not touch."""

    Stream, current_stream = Stream, Stream
    replays = captures = warm_ups = 0
    can_capture = True

    def CUDAGraph(self):
        graph = Graph()
        graph.cuda = self
        return graph

    @contextmanager
    def stream(self, aside):
        yield

    @contextmanager
    def graph(self, graph, capture_error_mode):
        if not self.can_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        before = [(t, t.clone()) for t in self.tensors.values()]
        yield
        for tensor, copy in before:
            tensor.copy_(copy)


@pytest.fixture(autouse=True)
def quick():
    with quick_interpreter():
        yield


@pytest.fixture
def network():
    b = GraphBuilder("net")
    x = b.conv2d(b.input("x", (3, 6, 6)), 4, 3, bias=False, name="conv")
    x = b.relu(b.batch_norm(x, name="bn"))
    return b.build(b.linear(b.flatten(x), 5, name="fc"))


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 3, 6, 6), dtype=np.float32), rng.integers(0, 5, 4)


def test_a_captured_step_is_the_step_and_capturing_leaves_no_trace(network):
    plain, captured = (tricnn.compile(network, "train", 4, "fp32", "triton", seed=1) for _ in range(2))
    executor, cuda = captured.executor, Cuda()
    executor.cuda, cuda.tensors = cuda, executor.bind(4)
    steps = []
    honest = executor.module.step
    executor.module.step = lambda *arguments: (steps.append(1), honest(*arguments))[1]
    cuda.step = lambda: honest(cuda.tensors, 4, 0, 0)
    random_state = torch.random.get_rng_state()
    for number in range(3):
        loss, grads = plain.loss_and_grads(*batch(number))
        again, grads_again = captured.loss_and_grads(*batch(number))
        assert again == loss
        for name, g in grads.items():
            assert g.tobytes() == grads_again[name].tobytes(), name
        for name, x in plain.state_dict().items():  # parameters, and running statistics after as many updates
            assert x.tobytes() == captured.state_dict()[name].tobytes(), name
        assert captured.step == plain.step
    assert (cuda.captures, cuda.replays, len(steps)) == (1, 3, WARM_UPS + 1)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_another_batch_size_is_captured_anew_and_forgotten_with_its_memory(network):
    model = tricnn.compile(network, "infer", 4, "fp32", "triton", seed=1)
    executor, cuda = model.executor, Cuda()
    executor.cuda, cuda.step = cuda, lambda: None
    for size in (1, 2, 3, 4, 5, 1):
        cuda.tensors = {}
        model(np.zeros((size, 3, 6, 6), np.float32))
        assert set(executor._captured) <= set(executor._bound)
    assert cuda.captures == 6  # memory of four sizes is kept; the first was made anew


def test_a_step_that_cannot_be_captured_is_launched_kernel_by_kernel(network):
    plain, other = (tricnn.compile(network, "train", 4, "fp32", "triton", seed=1) for _ in range(2))
    other.executor.cuda = Cuda()
    other.executor.cuda.can_capture = False
    with pytest.warns(UserWarning, match="could not be captured: operation not permitted"):
        loss, _ = other.loss_and_grads(*batch(0))
    assert loss == plain.loss_and_grads(*batch(0))[0]
    assert other.loss_and_grads(*batch(1))[0] == plain.loss_and_grads(*batch(1))[0]
    for name, x in plain.state_dict().items():
        assert x.tobytes() == other.state_dict()[name].tobytes(), name


def test_it_can_be_turned_off(network, monkeypatch):
    model = tricnn.compile(network, "infer", 4, "fp32", "triton", seed=1)
    model.executor.cuda = Cuda()
    monkeypatch.setenv("TRICNN_CAPTURE", "0")
    model(np.zeros((4, 3, 6, 6), np.float32))
    assert model.executor.cuda.captures == 0


def test_what_takes_random_numbers_or_long_kernels_is_not_captured():
    """LeNet at batch 256 moves 10 MB in 17 launches, some 3 us at 3.35 TB/s; ResNet-50 some 60 GB in 277."""

    def program(graph, batch):
        return lower(planned(graph, "train", "all"), "bf16", batch)

    assert worth_capturing(program(tricnn.graphs.lenet(), 256), 256)
    long = program(tricnn.graphs.resnet50(), 256)
    assert not worth_capturing(long, 256) and worth_capturing(long, 2)
    assert not worth_capturing(program(tricnn.graphs.alexnet(), 2), 2)  # it has dropout
