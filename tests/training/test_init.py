"""What a user would lose: networks that start with the variance their authors derived, the same one every time."""

import math

import numpy as np
import pytest
import torch

from tricnn.ir.init import KINDS, Init, draw, fans
from tricnn.system.errors import GraphError

CONV, LINEAR, GROUPED = (64, 32, 3, 3), (300, 200), (64, 8, 5, 1)

# kind, shape -> the variance of the papers' formulas
VARIANCES = [
    ("normal(0.05)", LINEAR, 0.05**2),
    ("uniform(0.3)", LINEAR, 0.3**2 / 3),
    ("xavier_uniform", CONV, 2 / (32 * 9 + 64 * 9)),
    ("xavier_normal", CONV, 2 / (32 * 9 + 64 * 9)),
    ("xavier_normal(2)", LINEAR, 4 * 2 / 500),
    ("he_uniform", CONV, 2 / (32 * 9)),
    ("he_normal(fan_in)", CONV, 2 / (32 * 9)),
    ("he_normal(fan_out)", CONV, 2 / (64 * 9)),
    ("he_normal(fan_out)", GROUPED, 2 / (64 * 5)),
    ("torch_default", CONV, 1 / (3 * 32 * 9)),
]


@pytest.mark.parametrize(("text", "shape", "variance"), VARIANCES)
def test_draws_have_the_formulas_variance(text, shape, variance):
    values = draw(text, shape, seed=1, name="layer.weight").astype(np.float64)
    n = values.size
    # five standard errors of a mean and of a variance (kurtosis at most that of the normal distribution)
    assert abs(values.mean()) < 5 * math.sqrt(variance / n)
    assert abs(values.var() / variance - 1) < 5 * math.sqrt(2 / n)
    if "uniform" in text or text == "torch_default":
        assert np.abs(values).max() <= math.sqrt(3 * variance) * (1 + 1e-6)


@pytest.mark.parametrize("shape", [CONV, LINEAR, GROUPED])
def test_fans_and_the_default_agree_with_pytorch(shape):
    assert fans(shape) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    weight = torch.empty(shape)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    bound = Init.parse("torch_default").scale(shape)
    assert weight.abs().max() <= bound * (1 + 1e-6)
    assert weight.abs().max() > 0.99 * bound


def test_a_parameter_depends_on_seed_and_name_only():
    first = draw("he_normal", (8, 3, 3, 3), seed=1, name="conv1.weight")
    draw("he_normal", (5, 5), seed=1, name="another")
    assert np.array_equal(first, draw("he_normal", (8, 3, 3, 3), seed=1, name="conv1.weight"))
    assert not np.array_equal(first, draw("he_normal", (8, 3, 3, 3), seed=2, name="conv1.weight"))
    assert not np.array_equal(first, draw("he_normal", (8, 3, 3, 3), seed=1, name="conv2.weight"))
    assert first.dtype == np.float32 and first.flags.c_contiguous
    assert np.array_equal(draw("constant(1)", (7,), 0, "bn.weight"), np.ones(7, np.float32))


@pytest.mark.parametrize(
    "text", ["constant(0)", "constant(-0.5)", "normal(0.01)", "uniform(0.1)", "xavier_uniform", "xavier_normal(1.5)",
             "he_uniform(fan_in)", "he_normal(fan_out)", "torch_default"],
)  # fmt: skip
def test_text_round_trips(text):
    assert str(Init.parse(text)) == text
    assert Init.parse(str(Init.parse(text))) == Init.parse(text)


def test_short_forms_mean_their_default():
    assert Init.parse("he_normal") == Init("he_normal", "fan_in")
    assert {Init.parse(text.split("(")[0]).kind for text, *_ in VARIANCES if text[0] in "xht"} <= set(KINDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [("he", "known are constant"), ("he_normal(3)", "fan_in or fan_out"), ("constant", "needs its number"),
     ("constant(x)", "takes a number"), ("constant(nan)", "cannot be nan"), ("normal(-1)", "cannot be -1"),
     ("constant(0)\n", "ok"), ("constant(0);import os", "not an initialiser"), ("", "not an initialiser"),
     ("x" * 500, "unknown")],
)  # fmt: skip
def test_bad_text_is_refused_in_one_line(text, says):
    if says == "ok":
        assert Init.parse(text) == Init("constant", 0.0)
        return
    with pytest.raises(GraphError, match=says) as error:
        Init.parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_a_bias_has_no_fan():
    with pytest.raises(GraphError, match=r"conv1\.bias: he_normal needs a weight of two axes"):
        draw("he_normal", (6,), 0, "conv1.bias")
