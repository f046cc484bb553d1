"""Pointwise operations by PyTorch's conventions, where they are conventions: at kinks and ties, of what is not finite,
and of operands that are smaller than the result."""

import numpy as np
import pytest
import torch

from tests.compiler.reference import POINTWISE
from tests.ir.samples import ACTIVATIONS
from tricnn.compiler.differentiate import _Gradients
from tricnn.ir import OPS, Graph, Node, Output, ShapeError, scalar, scalar_facts
from tricnn.ir.scalar import Attribute, Value, exp, maximum, tanh, where
from tricnn.ir.types import N
from tricnn.run.interpreter import interpret

UNARY = [op for op in POINTWISE if len(OPS[op].inputs) == 1 and not OPS[op].detaches]
ATTRS = {op: attrs for op, (attrs, _) in ACTIVATIONS.items()} | {
    "shift": {"amount": 0.3},
    "from_bytes": {"scale": (0.017,), "shift": (-2.1,)},
}
#: kinks of all activations, numbers around them, huge and tiny ones, and what is no number
SPECIAL = np.array([0.0, 1.0, -1.0, 3.0, -3.0, 6.0, -2.0, 2.5, 7.0, -7.0, 1e-30, -1e-30, 25.0, -25.0, 90.0, -90.0,
                    np.inf, -np.inf, np.nan, 0.1])  # fmt: skip


def forward_and_gradients(op: str, operands: list[np.ndarray], fixed: tuple[int, ...] = (), dtype=np.float64, **attrs):
    """The result, and the gradient of its sum times 1, 2, 3, ... by each operand, by the rows of the table."""
    names = [f"x{i}" for i in range(len(operands))]
    shapes = [x.shape if i in fixed else (N, *x.shape[1:]) for i, x in enumerate(operands)]
    sources = [
        Node(name, "parameter" if i in fixed else "input", (), {"shape": shape})
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    graph = Graph("one", (*sources, Node("y", op, tuple(names), attrs)), (Output("y", "y"),))
    shape = graph.types["y"].shape
    dy = Node("dy", "input", (), {"shape": shape})
    g = _Gradients(Graph("one", (*sources, dy, *graph.nodes[len(sources) :]), graph.outputs), frozenset(names))
    g.layer = "y"
    made = OPS[op].gradient(g, g.nodes[-1], "dy")
    outputs = [Output("y", "y"), *(Output(f"d{n}", v) for n, v in zip(names, made, strict=True))]
    batch = next(len(x) for i, x in enumerate(operands) if i not in fixed)
    weights = np.arange(1.0, 1 + batch * np.prod(shape[1:], dtype=int)).reshape(batch, *shape[1:])
    with np.errstate(all="ignore"):
        values = interpret(
            Graph("one", tuple(g.nodes), tuple(outputs)), dict(zip(names, operands, strict=True)) | {"dy": weights},
            dtype=dtype,
        )  # fmt: skip
    return [values[o.name] for o in outputs], weights


def by_pytorch(op: str, operands: list[np.ndarray], weights: np.ndarray, **attrs):
    tensors = [torch.tensor(x, requires_grad=True) for x in operands]
    y = POINTWISE[op](attrs, *tensors)
    y.backward(torch.tensor(weights).to(y.dtype))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


@pytest.mark.parametrize("op", UNARY)
def test_kinks_and_what_is_not_finite_are_as_in_pytorch(op):
    """In float32, where PyTorch's own functions have the constants that they have on a GPU."""
    x, attrs = SPECIAL.astype(np.float32)[None], ATTRS.get(op, {})
    found, weights = forward_and_gradients(op, [x], dtype=np.float32, **attrs)
    expected = by_pytorch(op, [x], weights, **attrs)
    for what, got, want in zip(("y", "dx"), found, expected, strict=True):
        if op in ("silu", "gelu", "gelu_tanh", "mish", "hardswish"):  # x * f(x): of -inf 0, or NaN, as it is written
            got, want = got[np.isfinite(x)], want[np.isfinite(x)]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-6, err_msg=f"{op}: {what}")


@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_where_both_are_equal_each_takes_half_of_the_gradient(op):
    a = np.array([[1.0, 2.0, -1.0, 0.0, np.nan, 1.0, np.inf]])
    b = np.array([[1.0, 1.0, 2.0, -0.0, 1.0, np.nan, np.inf]])
    found, weights = forward_and_gradients(op, [a, b])
    for got, want in zip(found, by_pytorch(op, [a, b], weights), strict=True):
        np.testing.assert_array_equal(got, want)


SHAPES = {"channel": (4,), "gate": (3, 4, 1, 1), "mask": (3, 1, 5, 6), "image": (3, 1, 1, 1)}


@pytest.mark.parametrize("small", SHAPES)
@pytest.mark.parametrize("op", ["sub", "mul", "div", "maximum"])
@pytest.mark.parametrize("first", [True, False])
def test_a_smaller_operand_s_gradient_is_summed_over_what_it_lacks(op, small, first):
    rng = np.random.default_rng(3)
    operands = [rng.uniform(0.5, 2.0, (3, 4, 5, 6)), rng.uniform(0.5, 2.0, SHAPES[small])]
    operands = operands[::-1] if first else operands
    fixed = (1 - first,) if small == "channel" else ()
    found, weights = forward_and_gradients(op, operands, fixed)
    for got, want in zip(found, by_pytorch(op, operands, weights), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_operands_that_fit_nowhere_are_refused_by_name():
    with pytest.raises(ShapeError, match=r"layer y \(mul\): inputs must have one shape, or one of \[C\]"):
        forward_and_gradients("mul", [np.zeros((2, 4, 5, 5)), np.zeros((2, 4, 5, 1))])


def test_what_an_operand_promises_is_said_by_its_row_and_not_by_its_name():
    row = OPS["prelu"]
    assert "weight" in row.inputs and row.batched["weight"] is None
    (y, _, _), _ = forward_and_gradients("prelu", [-np.ones((2, 3, 2, 2)), np.full((2, 3, 1, 1), 0.5)])
    np.testing.assert_array_equal(y, -0.5)


# --- expressions ---------------------------------------------------------------------------------

X, DY, A = Value("x"), Value("dy"), Value("a")
EXPRESSIONS = {
    "product": (X * (X + 1.0) * Attribute("k"), lambda x: x * (x + 1) * 0.7),
    "quotient": (X / (1.0 + exp(X)), lambda x: x / (1 + np.exp(x))),
    "condition": (where(X > 0.5, X * X, -X), lambda x: np.where(x > 0.5, x * x, -x)),
    "shared": (tanh(X) * tanh(X) + exp(tanh(X)), lambda x: np.tanh(x) ** 2 + np.exp(np.tanh(x))),
    "nested": (1.0 - (2.0 - (X - 3.0)) / (X * X + 2.0) * -X, lambda x: 1 - (2 - (x - 3)) / (x * x + 2) * -x),
}


class _Triton:
    """What the text of a kernel calls, for numbers."""

    PropagateNan = type("PropagateNan", (), {"ALL": None})
    exp, where, abs = staticmethod(np.exp), staticmethod(np.where), staticmethod(np.abs)
    sigmoid = staticmethod(lambda x: 1 / (1 + np.exp(-x)))
    maximum = staticmethod(lambda a, b, _: np.maximum(a, b))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_means_the_same_in_every_language(name):
    expression, function = EXPRESSIONS[name]
    x, attrs = np.linspace(-2.0, 2.0, 41) + 0.013, {"k": 0.7}
    np.testing.assert_allclose(scalar.evaluate(expression, attrs, {"x": x}), function(x), rtol=1e-14)
    by_torch = scalar.evaluate(expression, attrs, {"x": torch.tensor(x)}, "torch")
    np.testing.assert_allclose(by_torch.numpy(), function(x), rtol=1e-14)
    scope: dict[str, object] = {"tl": _Triton, "x": x}
    lines: list[str] = []

    def let(stem: str, text: str) -> str:
        lines.append(f"{stem}_{len(lines)} = {text}")
        return f"{stem}_{len(lines) - 1}"

    written = scalar.text(expression, attrs, {"x": "x"}, let, "channel")
    exec("\n".join([*lines, f"result = {written}"]), scope)
    np.testing.assert_allclose(scope["result"], function(x), rtol=1e-12)
    step = 1e-6
    measured = (function(x + step) - function(x - step)) / (2 * step)
    slope = scalar.evaluate(scalar.derivative(expression, "x"), attrs, {"x": x})
    np.testing.assert_allclose(slope + 0 * x, measured, rtol=1e-7, atol=1e-8)


def test_what_is_used_twice_is_computed_once():
    lines: list[str] = []
    text = scalar.text(tanh(X) * tanh(X), {}, {"x": "x"}, lambda stem, text: lines.append(text) or stem, "c")
    assert (text, lines) == ("tanh * tanh", ["2.0 * tl.sigmoid(2.0 * x) - 1.0"])
    assert scalar.operations(tanh(X) * tanh(X)) == scalar.operations(tanh(X)) + 2


def test_what_becomes_of_zeros():
    zero = {"x": 0.0, "a": scalar_facts.FINITE}
    assert scalar_facts.of_zeros(X * A, {}, zero) == 0.0
    assert scalar_facts.of_zeros(X + A, {}, zero) == scalar_facts.FINITE
    assert scalar_facts.of_zeros(X * exp(A), {}, zero) is None  # exp may be infinite
    assert scalar_facts.of_zeros(X / A, {}, zero) is None  # 0 / 0
    assert scalar_facts.of_zeros(maximum(X, Attribute("low")), {"low": -1.0}, zero) == 0.0
    assert scalar_facts.of_zeros(maximum(X, Attribute("low")), {"low": 1.0}, zero) == 1.0


def test_a_branch_of_zero_stays_zero_whatever_comes():
    masked = scalar.times(DY, where(X <= 0.0, 0.0, 1.0))
    values = {"dy": np.array([np.inf, np.nan]), "x": np.array([-1.0, -1.0])}
    np.testing.assert_array_equal(scalar.evaluate(masked, {}, values), 0.0)


@pytest.mark.parametrize("op", [op for op, row in OPS.items() if row.rises])
def test_what_is_said_to_rise_does(op):
    x = np.sort(np.concatenate([np.linspace(-40, 40, 4001), np.linspace(-1, 1, 2001)]))
    x = np.abs(x) + 1e-3 if op in ("log", "sqrt") else x
    y = scalar.evaluate(OPS[op].scalar, ATTRS.get(op, {}), {"x": np.sort(x)})
    assert np.all(np.diff(y) >= 0)


@pytest.mark.parametrize("op", [op for op, row in OPS.items() if row.scalar is not None and "log" not in op])
def test_fp32_is_within_the_bound_that_rounding_has(op):
    """Each function of the expression rounded to fp32, as NumPy does it, differs by less than the row says."""
    row, rng = OPS[op], np.random.default_rng(0)
    attrs = ATTRS.get(op, ATTRS.get(op.removesuffix("_grad"), {})) | ({"factor": 1.7} if op == "scale" else {})
    values = [rng.normal(size=10_000).astype(np.float32) * 3 for _ in row.inputs]
    values = [np.abs(v) + np.float32(0.1) for v in values] if "sqrt" in op or "div" in op else values
    operands = dict(zip(row.inputs, values, strict=True))
    exact = {k: v.astype(np.float64) for k, v in operands.items()}
    error = np.abs(scalar.evaluate(row.scalar, attrs, operands) - scalar.evaluate(row.scalar, attrs, exact))
    bound = scalar_facts.rounding(row.scalar, attrs, exact)
    assert np.all(error <= bound * 1.0001)
