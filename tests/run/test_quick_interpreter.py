"""The executor and verification interpret kernels with less overhead; they must compute what Triton's own interpreter
computes."""

from contextlib import nullcontext

import numpy as np
import pytest
from triton.runtime import interpreter

from tests.run.networks import network
from tricnn.check.verify import compiled
from tricnn.run.quick_interpreter import quick_interpreter
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="of Triton's interpreter")


def results(dtype: str) -> dict[str, np.ndarray]:
    model = compiled(network("residual"), mode="train", batch=2, dtype=dtype)
    rng = np.random.default_rng(0)
    image, labels = model.plan.graph.inputs
    x = rng.standard_normal(model.plan.type(image.name).at(2), dtype=np.float32)
    given = {image.name: x, labels.name: rng.integers(0, 3, 2)}
    results = model.executor.run(given, 2, 1, 0)
    return {name: np.asarray(x.detach().float()) for name, x in results.items()}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_computes_the_same_bits(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = results(dtype)
    monkeypatch.setattr("tricnn.run.triton_executor.launching", nullcontext)
    expected = results(dtype)
    assert len(expected) > 3
    for name, x in expected.items():
        np.testing.assert_array_equal(computed[name], x, err_msg=name)


def test_every_saving_fits_this_triton_and_ends_with_the_block() -> None:
    """Where a name has gone, verification of the deep networks takes minutes; and nothing may stay behind."""

    def state() -> list[object]:
        tl, semantic = interpreter.tl, type(interpreter.interpreter_semantic)
        return [
            interpreter._patch_lang, interpreter._get_np_dtype, interpreter.interpreter_builder.options,
            tl.block_type.__init__, tl.tensor.__init__, semantic.binary_op_type_checking_impl,
            semantic.broadcast_impl_value,
        ]  # fmt: skip

    before, adding = state(), interpreter.tl.tensor.__add__
    with quick_interpreter():
        with quick_interpreter():
            pass  # changes nothing, and ends nothing
        assert all(inside is not outside for inside, outside in zip(state(), before))
        assert interpreter.tl.tensor.__add__ is not adding
    assert all(after is outside for after, outside in zip(state(), before))
    assert interpreter.tl.tensor.__add__ is adding
