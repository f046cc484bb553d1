"""Gradients by name against PyTorch's own joint graph of forward and backward, which its compiler starts from.

AOTAutograd says of every value that goes into that graph, and of every one that comes out, what it is and by which
name: parameter, buffer, image, tangent; output, gradient of which of them, new running statistics. So nothing is
matched by order or shape. PyTorch 2.11 to 2.14 have ``aot_export_joint_with_descriptors`` with the three arguments that
it is given here, and these descriptions; a version without them fails by its import, and is not passed over.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torch._functorch._aot_autograd.descriptors import (
    BufferAOTInput,
    GradAOTOutput,
    InputMutationAOTOutput,
    ParamAOTInput,
    PlainAOTInput,
    PlainAOTOutput,
    TangentAOTInput,
)
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors

import tricnn
from tests.frontends import modules
from tests.frontends.judge import BATCH, lively
from tricnn.ir.table import OPS

#: what is differentiated: a module, and the shape of its images
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "residual block": (modules.Residual, (3, 8, 8)),
    "depthwise with gates": (modules.Mobile, (3, 10, 10)),
    "layer norm and scale": (modules.ChannelsLast, (2, 5, 5)),
    "group norm": (modules.Grouped, (3, 6, 6)),
    "transposed convolution": (modules.Decoder, (2, 6, 6)),
}

#: the largest difference as a part of the largest number; the second for hardsigmoid, whose gradient ATen multiplies by
#: a sixth that is rounded to float32, in float64 too
EXACT, BY_A_SIXTH = 1e-12, 2.0**-24

Values = dict[str, torch.Tensor]


def case(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A module in train() with the same numbers each time, images, and a gradient for its output."""
    make, shape = CASES[name]
    module = lively(make()).train()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((BATCH, *shape), generator=generator, dtype=torch.float64)
    with torch.device("meta"):
        output = make().train()(torch.empty(BATCH, *shape))
    return module, x, torch.randn(output.shape, generator=generator, dtype=torch.float64)


@cache
def by_pytorch(name: str) -> Values:
    """The output, each gradient and the buffers after the step, computed by PyTorch's joint graph."""
    module, x, tangent = case(name)
    given = {f"parameter {n}": p.detach() for n, p in module.named_parameters()}
    given |= {f"buffer {n}": b for n, b in module.named_buffers()}
    given |= {"images": x, "gradient given": tangent}
    with ExitStack() as stack:
        graph = aot_export_joint_with_descriptors(stack, module, (x.clone().requires_grad_(),)).graph_module
    inputs = [given[said(node.meta["desc"])] for node in graph.graph.find_nodes(op="placeholder")]
    (end,) = graph.graph.find_nodes(op="output")
    with torch.no_grad():
        found = torch.fx.Interpreter(graph).run(*inputs, enable_io_processing=False)
    pairs = zip(end.meta["desc"], torch.utils._pytree.tree_leaves(found, is_leaf=lambda y: y is None), strict=True)
    return {said(what): y for what, y in pairs if y is not None}


def said(what: object) -> str:
    """One name for what a value of the joint graph is."""
    match what:
        case ParamAOTInput(target=name):
            return f"parameter {name}"
        case BufferAOTInput(target=name):
            return f"buffer {name}"
        case PlainAOTInput():
            return "images"
        case PlainAOTOutput():
            return "output"
        case TangentAOTInput():
            return "gradient given"
        case GradAOTOutput(grad_of=of):
            return f"gradient of {said(of)}"
        case InputMutationAOTOutput(mutated_input=of):
            return f"{said(of)} after"
    raise AssertionError(f"the joint graph has a value of a kind that no module here should have: {what}")


def by_ours(name: str) -> Values:
    """The same by the module compiled, in float64 by NumPy, with its layers fused."""
    module, x, tangent = case(name)
    x.requires_grad_()
    before = {n: b.clone() for n, b in module.named_buffers()}
    compiled = tricnn.Module(module, tuple(x.shape), dtype="fp64", executor="numpy").train()
    output = compiled(x)
    output.backward(tangent)
    found = {f"gradient of parameter {n}": p.grad for n, p in compiled.named_parameters()}
    found |= {f"buffer {n} after": b for n, b in compiled.named_buffers() if not torch.equal(b, before[n])}
    return {"output": output.detach(), "gradient of images": x.grad, **found}


def compare(found: Values, expected: Values, least: float = EXACT) -> None:
    """Raise AssertionError, with its name, for the first value that differs by more than rounding.
    The gradient of a bias before a batch norm is the rounding of larger ones."""
    assert not set(found) ^ set(expected)
    largest = max(float(y.abs().max()) for n, y in expected.items() if n.startswith("gradient"))
    for n, y in expected.items():
        scale = max(float(y.abs().max()), largest if n.startswith("gradient") else 0.0)
        np.testing.assert_allclose(found[n], y, rtol=0, atol=least * scale, err_msg=n)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "depthwise with gates" else n for n in CASES]
)
def test_gradients_are_those_of_pytorchs_joint_graph(name: str) -> None:
    compare(by_ours(name), by_pytorch(name), BY_A_SIXTH if name == "depthwise with gates" else EXACT)


def test_a_wrong_sign_in_one_row_is_seen() -> None:
    """What a global pooling hands back with the wrong sign is wrong in every layer before it, by name, and right in the
    one after it."""
    row, name = OPS["global_avg_pool"], "layer norm and scale"
    wrong = replace(row, gradient=lambda g, node, dy: [g.add("neg", *row.gradient(g, node, dy))])
    with patch.dict(OPS, {"global_avg_pool": wrong}):
        found = by_ours(name)
    expected = by_pytorch(name)
    with pytest.raises(AssertionError, match=r"gradient of parameter layer_scale"):
        compare(found, expected)
    after = {n: y for n, y in expected.items() if ".fc." in n or " fc." in n or ".last." in n or " last." in n}
    assert len(after) == 4
    compare({n: found[n] for n in after}, after)
