"""The emitted kernels, run by Triton's interpreter, against float64: what a user trusts when they see 'verified'."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.run.mutations import wrong_relu
from tests.run.networks import KINDS, network
from tricnn.check.verify import compiled, verify, verify_model
from tricnn.graphs import lenet
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower import expressions
from tricnn.lower.program import Launch
from tricnn.run.model import Model, compile
from tricnn.run.triton_executor import interpreting

# In bf16, training and inference, test_counting verifies them while it counts.


@pytest.mark.parametrize("kind", KINDS)
def test_training_kernels_are_within_their_tolerance(kind: str) -> None:
    checks = verify(network(kind), mode="train", batch=2, dtype="fp32")
    assert checks and [c for c in checks if not c.ok] == []


@pytest.mark.parametrize("kind", KINDS)
def test_unfused_inference_kernels_are_within_their_tolerance(kind: str) -> None:
    assert [c for c in verify(network(kind), mode="infer", batch=3, dtype="fp16", fuse=False) if not c.ok] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_unfused_training_kernels_too(kind: str) -> None:
    assert [c for c in verify(network(kind), mode="train", batch=2, dtype="fp32", fuse=False) if not c.ok] == []


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_target_s_tiles_are_verified_where_one_is_named(dtype: str) -> None:
    """Without a GPU the tiles are the interpreter's, larger and fewer; the GPU's must be right as well."""
    graph = network("residual")
    checks = verify(graph, mode="train", batch=2, dtype=dtype, target="sm_90")
    assert checks and [c for c in checks if not c.ok] == []
    named = compiled(graph, mode="train", batch=2, dtype="fp32", target="sm_90")
    assert named.source == compile(graph, "train", 2, "fp32", "triton", "sm_90").source
    if interpreting():
        assert named.source != compiled(graph, mode="train", batch=2, dtype="fp32").source


def test_a_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(expressions.EXPRESSIONS, "relu", wrong_relu)
    checks = verify(lenet(width=0.5), mode="infer", batch=1, dtype="fp32")
    assert {c.value for c in checks if not c.ok} == {"act1", "act2", "act3", "act4"}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_weight_computed_at_every_step_is_rounded_to_nearest_as_it_is_multiplied(dtype: str) -> None:
    """Forward and for the input's gradient; Triton's interpreter by itself would truncate bf16."""
    b = GraphBuilder("sum")
    y = b.conv2d(b.input("x", (16, 5, 5)), 16, 1)
    for size, channels in ((3, 16), (2, 4)):  # as many as fill a block, and fewer
        shape = (channels, b.type(y).channels, size, size)
        w = b.add_(b.parameter(f"v{size}", shape, "he_normal"), b.parameter(f"w{size}", shape, "he_normal"))
        y = b.add("conv2d", y, w)
    graph = b.build(b.linear(b.global_avg_pool(y), 3, name="fc"))
    assert [c for c in verify(graph, mode="train", batch=2, dtype=dtype) if not c.ok] == []


def two_branches() -> Graph:
    b = GraphBuilder("branches")
    x = b.input("x", (2, 4, 4))
    y = b.concat(
        [b.relu(b.conv2d(x, 3, 1, name="one")), b.relu(b.conv2d(x, 2, 3, padding=1, name="two"))], name="whole"
    )
    return b.build(b.linear(b.global_avg_pool(y), 3, name="fc"))


def test_what_is_written_beside_a_kernel_s_own_channels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each branch also writes the channel after its own, which another kernel writes later: the end looks right, if the
    launches come in that order."""
    from tricnn.lower.body import Body

    store = Body.store

    def beyond(self: Body, value: str, variable: str, at, **options) -> None:
        store(self, value, variable, at, **options)
        if value in self.plan.within:
            last = f"mask={at.mask} & ({at.channel} == {at.width - 1})"
            self.lines.append(self.lines[-1].replace("+ channel", "+ channel + 1").replace(f"mask={at.mask}", last))

    assert [c for c in verify(two_branches(), mode="infer", batch=2) if not c.ok] == []
    monkeypatch.setattr(Body, "store", beyond)
    assert "whole, beside its own" in {c.value for c in verify(two_branches(), mode="infer", batch=2) if not c.ok}


def test_an_element_that_is_never_written_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last channel of a store masked away: the NaN that the buffer was filled with must show."""
    from tricnn.lower.body import Body

    store = Body.store

    def forgetful(self, value, variable, at):  # type: ignore[no-untyped-def]
        store(self, value, variable, at)
        self.lines[-1] = self.lines[-1].replace("mask=mask", f"mask=mask & (channel < {at.width - 1})")

    monkeypatch.setattr(Body, "store", forgetful)
    checks = verify(lenet(width=0.5), mode="infer", batch=1, dtype="fp32")
    assert not all(c.ok for c in checks)


def test_sums_of_what_is_not_stored_may_have_its_error() -> None:
    """The first layer's batch norm: dgrad leaves the gradient's sums, nobody reads the gradient itself."""
    b = GraphBuilder("first")
    h = b.conv2d(b.relu(b.batch_norm(b.input("x", (4, 16, 16)), name="b1")), 4, 3, padding=1, name="c1")
    graph = b.build(b.linear(b.global_avg_pool(b.tanh(h)), 5, name="fc"))
    checks = verify(graph, mode="train", batch=3, dtype="bf16")
    assert "b1.grad_sums" in {c.value for c in checks} and [c for c in checks if not c.ok] == []


def test_groups_that_fill_no_tile_leave_each_other_s_statistics_alone() -> None:
    """68 filters a group, in tiles of 64: what the second tile of a group has beyond them is the next group's."""
    b = GraphBuilder("groups")
    h = b.conv2d(b.input("x", (4, 4, 4)), 136, 1, groups=2, name="c1")
    h = b.conv2d(b.relu(b.batch_norm(h, name="b1")), 4, 1, groups=2, name="c2")
    graph = b.build(b.linear(b.global_avg_pool(h), 3, name="fc"))
    checks = verify(graph, mode="train", batch=3, dtype="fp32", target="sm_90")
    assert {"b1.stats", "b1.grad_sums"} <= {c.value for c in checks} and [c for c in checks if not c.ok] == []


@contextmanager
def scaled(model: Model, batch: int, by: float, launch: Launch) -> Iterator[None]:
    """A launch of dgrad whose activations come out a little too large."""
    yield
    if launch.kind == "conv2d_grad_input":
        tensors, plan = model.executor.bind(batch), model.plan
        for value in next(k for k in plan.kernels if k.name == launch.kernel).writes:
            if plan.type(value).batched:
                tensors[plan.place(value).buffer].mul_(by)


def test_gradients_that_are_off_by_a_thousandth_are_caught() -> None:
    """Each element has its own tolerance: what the largest ones may be off must not excuse the others."""
    b = GraphBuilder("depthwise")
    h = b.relu(b.batch_norm(b.conv2d(b.input("x", (4, 16, 16)), 8, 3, padding=1, name="c0"), name="b0"))
    for i in range(2):
        h = b.conv2d(h, 8, 3, padding=1, groups=8, bias=False, name=f"d{i}")
        h = b.conv2d(b.relu(b.batch_norm(h, name=f"bd{i}")), 8, 1, bias=False, name=f"p{i}")
        h = b.relu(b.batch_norm(h, name=f"bp{i}"))
    graph = b.build(b.linear(b.global_avg_pool(h), 10, name="fc"))
    model = compiled(graph, mode="train", batch=3, dtype="fp32")
    checks = verify_model(model, 3, watch=partial(scaled, model, 3, 1.001))
    of_dgrad = [c for c in checks if c.kind == "conv2d_grad_input" and model.plan.type(c.value).batched]
    assert len(of_dgrad) == 4 and [c.value for c in of_dgrad if c.ok] == []
    assert [c.value for c in checks if c not in of_dgrad and not c.ok and c.kind != "conv2d_grad_input"] == []
