"""The executor and verification interpret kernels with less overhead; they must compute what Triton's own interpreter
computes."""

import importlib.util
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
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
            semantic.broadcast_impl_value, interpreter.FunctionRewriter.rewrite_ast, interpreter._convert_float,
        ]  # fmt: skip

    before, adding = state(), interpreter.tl.tensor.__add__
    with quick_interpreter():
        with quick_interpreter():
            pass  # changes nothing, and ends nothing
        assert all(inside is not outside for inside, outside in zip(state(), before))
        assert interpreter.tl.tensor.__add__ is not adding
    assert all(after is outside for after, outside in zip(state(), before))
    assert interpreter.tl.tensor.__add__ is adding


@pytest.mark.parametrize("of, to", [("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")])
@pytest.mark.parametrize("mode", [None, "RTNE", "RTZ"])
def test_conversions_are_the_interpreters_own(of: str, to: str, mode: str | None) -> None:
    """Of normal and subnormal numbers, zeros, infinities and NaNs, one at a time and together, in any layout."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, (64, 64), dtype=np.uint32)
    bits[:8] &= 0x807FFFFF  # subnormal
    bits[9:] |= 0x00800000  # not subnormal
    bits[8] = np.resize(np.uint32([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0x3FFF8000]), 64)
    x = bits.view(np.float32) if of == "float32" else (bits >> 16).astype(np.uint16)
    types = getattr(interpreter.tl, of), getattr(interpreter.tl, to)
    mode = mode and getattr(interpreter._ir.ROUNDING_MODE, mode)
    parts = [x, x[9:], x[8:].T, x[9:, ::2], x[10, 3].reshape(()), np.broadcast_to(x[9, 3], (2, 4)), x[:0]]
    expected = [interpreter._convert_float(part, *types, mode) for part in parts]
    with quick_interpreter():
        for part, there in zip(parts, expected, strict=True):
            found = interpreter._convert_float(part, *types, mode)
            assert found.dtype == there.dtype
            np.testing.assert_array_equal(found, there)


SOURCE = """import triton
import triton.language as tl
{lines}

@triton.jit
def fill(x, VALUE: tl.constexpr = {value}):
    tl.store(x, VALUE)
    tl.store(x, {wrong})
"""


def loaded(folder: Path, name: str, **fields: object) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(SOURCE.format(**fields))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_function_in_another_file_has_its_own_default_lines_and_globals(tmp_path: Path) -> None:
    """What the interpreter made of a function is used again where the same one stands elsewhere."""
    x = torch.zeros(1)
    with quick_interpreter():
        for name, lines, value in (
            ("z", "\n" * 9, 3.0),
            ("a", "", 3.0),
            ("b", "", 4.0),
            ("c", "\n" * 5 + "missing = 5.0", 3.0),
        ):
            module = loaded(tmp_path, name, lines=lines, value=value, wrong="missing")
            if name == "c":
                module.fill[(1,)](x)
                assert x.item() == 5.0
                module.missing = None
            with pytest.raises(Exception) as caught:
                module.fill[(1,)](x)
            if name != "c":
                assert x.item() == value
            frames = []
            error = caught.value
            while error is not None:
                frames += traceback.extract_tb(error.__traceback__)
                error = error.__cause__
            line = module.__file__, SOURCE[: SOURCE.index("{wrong}")].count("\n") + 1 + lines.count("\n")
            assert line in [(frame.filename, frame.lineno) for frame in frames]
