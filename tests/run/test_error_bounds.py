"""The bounds of `tricnn verify`: too small, and right kernels fail; too large, and wrong ones pass."""

import numpy as np
import pytest

from tests.ir.samples import ENV, SAMPLES, Sample
from tricnn.check.error_bounds import TINY, beyond_rounding, bounding, exact, moved
from tricnn.compiler.pipeline import planned
from tricnn.ir import OPS, GraphBuilder, Kind

OTHERS = [s for s in SAMPLES if OPS[s.op].kind not in (Kind.SOURCE, Kind.CONTRACTION) and s.op != "max_pool2d_index"]


@pytest.mark.parametrize("sample", OTHERS, ids=str)
def test_no_errors_of_operands_move_a_result_farther_than_is_said(sample: Sample) -> None:
    """For random signs of each element's error, in float64; and some go more than a tenth of the way (of one number,
    that a hundred rows are added up to, a twentieth: their signs are seldom alike)."""
    rng = np.random.default_rng(5)
    values = [operand.draw(rng) for operand in sample.operands]
    reals = [np.issubdtype(v.dtype, np.floating) for v in values]
    node = sample.node()

    def computed(operands: list[np.ndarray]) -> np.ndarray:
        return np.asarray(OPS[sample.op].numpy(ENV, node.attrs, *operands))

    y = computed(values)
    errors = [1e-7 * rng.uniform(0, 1, v.shape) * (np.abs(v) + 0.1) * real for v, real in zip(values, reals)]
    bound = moved(node, values, errors, y, ENV)
    farthest = 0.0
    for _ in range(40):
        signs = [rng.choice([-1.0, 1.0], v.shape) for v in values]
        steps = [v + s * e if real else v for v, s, e, real in zip(values, signs, errors, reals)]
        distance = np.abs(computed(steps) - y)
        assert np.all(distance <= bound * (1 + 1e-4) + 1e-14)
        farthest = max(farthest, float(np.max(distance / np.maximum(bound, 1e-30))))
    assert farthest > (0.1 if y.shape else 0.05) or not bound.any()


@pytest.mark.parametrize(("stored", "dtype"), [("fp16", np.float16), ("fp32", np.float32)])
def test_what_rounds_to_a_number_is_no_error_and_what_does_not_is(stored: str, dtype: type) -> None:
    """Of every magnitude, NumPy's rounding as the judge; 0 and the numbers near it among them."""
    rng = np.random.default_rng(0)
    want = rng.standard_normal(20_000) * 2.0 ** rng.integers(-30 if stored == "fp16" else -150, 4, 20_000)
    got = want.astype(dtype)
    assert not beyond_rounding(got.astype(np.float64), want, stored).any()
    wrong = np.nextafter(got, dtype(np.inf)).astype(np.float64)
    half = np.abs(wrong - got.astype(np.float64)) / 2
    assert np.all((beyond_rounding(wrong, want, stored) > 0) | (np.abs(wrong - want) <= half))


def test_what_exp_gives_may_be_flushed_to_zero_before_it_is_multiplied() -> None:
    """silu(-88) = -88 * 6e-39, and a GPU has 0 for 6e-39, and for every number below 2^-126; -80 is far from that."""
    b = GraphBuilder("silu")
    plan = planned(b.build(b.add("silu", b.input("x", (2,)))), "infer")
    x = np.array([[-88.0, -80.0]])
    found = bounding(plan, plan.kernels[0], "fp32")(plan.kernels[0].anchor, [exact(x)], ENV)
    assert abs(found.value[0, 0]) <= found.error[0, 0] <= 89 * TINY
    assert found.error[0, 1] < 1e-3 * abs(found.value[0, 1])
