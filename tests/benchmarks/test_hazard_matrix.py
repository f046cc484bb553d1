"""The record of hazards over versions of Triton: what counts as right, and which functions are compiled for it."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from benchmarks import hazard_matrix
from tricnn.build.compile import KernelSpec, compile_kernels
from tricnn.build.inspect_binary import multiplies_beside_the_program
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered

DONE = {"functions": 5, "products": 3, "tensor_core": 3, "hazards": 0, "spill_bytes": 0}
TARGETS = ["sm_90", "sm_100"]
MATRIX = (hazard_matrix.DTYPES, hazard_matrix.NETWORKS, ("infer", "train"))
CASES = [(triton, "sm_90", "bf16", "lenet", mode) for triton in ("3.8.0", "3.9.0") for mode in ("infer", "train")]


def test_a_record_is_right_if_all_cases_are_there_without_a_hazard():
    rows, right = hazard_matrix.table(dict.fromkeys(CASES, DONE))
    assert right and rows[2:] == [
        "| 3.8.0 | sm_90 | bf16 | 2 of 2 | 10 | 6 | 0 | 0 |", "| 3.9.0 | sm_90 | bf16 | 2 of 2 | 10 | 6 | 0 | 0 |",
    ]  # fmt: skip


@pytest.mark.parametrize("case", [{**DONE, "hazards": 1}, {"error": "kernel k0 does not compile"}, None])
def test_a_hazard_an_error_and_a_missing_case_are_not_right(case):
    lines = dict.fromkeys(CASES, DONE)
    lines[CASES[0]] = case
    rows, right = hazard_matrix.table({key: value for key, value in lines.items() if value is not None})
    assert not right
    assert any("does not compile" in row for row in rows) == (case is not None and "error" in case)


def test_functions_with_a_product_are_those_that_multiply_matrices():
    program = lowered(ARCHITECTURES["lenet"](), "train", 8, "bf16", "sm_90", fuse="auto")
    products = {f.name for f in program.functions if hazard_matrix.has_product(f)}
    multiplies = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight", "linear", "linear_grad_input")
    kinds = {launch.function: launch.kind for launch in program.launches}
    for name, kind in kinds.items():
        main = next(k for k in kinds if name.startswith(k)) == name
        assert not main or (name in products) == kind.startswith(multiplies), (name, kind)


def test_a_case_that_the_file_has_is_not_computed_again(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(hazard_matrix, "of_network", lambda case, *_: done.append(case) or DONE)
    file = tmp_path / "hazards.jsonl"
    hazard_matrix.record(CASES[:1], file, 8, None, False, lambda text: None)
    hazard_matrix.record(CASES, file, 8, None, False, lambda text: None)
    assert done == CASES and set(hazard_matrix.read(file)) == set(CASES)


def test_the_committed_record_has_every_case_of_every_triton_and_no_hazard():
    lines = hazard_matrix.read(Path(hazard_matrix.__file__).with_name("hazards.jsonl"))
    assert {triton.rpartition(".")[0] for triton, *_ in lines} == {"3.6", "3.7", "3.8", "3.9"}
    assert {case[1:] for case in lines} == set(product(TARGETS, *MATRIX))
    _, right = hazard_matrix.table(lines)
    assert right


PRODUCTS = """
import triton
import triton.language as tl

@triton.jit
def kernel(x, y, out, computed: tl.constexpr):
    rows = tl.arange(0, 64)
    acc = tl.zeros((64, 64), tl.float32)
    for step in range(4):
        a = tl.load(x + rows[:, None] * 256 + step * 64 + rows[None, :])
        if computed:
            a = tl.maximum(a, 0.0)
        acc = tl.dot(a, tl.load(y + (step * 64 + rows[:, None]) * 64 + rows[None, :]), acc)
    tl.store(out + rows[:, None] * 64 + rows[None, :], acc)
"""


def test_where_a_left_operand_lies_is_the_same_by_tritons_form_and_by_the_machine_code(tmp_path):
    types = {"x": "*bf16", "y": "*bf16", "out": "*fp32"}
    specs = [KernelSpec("kernel", PRODUCTS, types, {"computed": computed}) for computed in (False, True)]
    by_code = [
        multiplies_beside_the_program(kernel.binary)
        for target in TARGETS for kernel in compile_kernels(specs, target, cache_dir=tmp_path)
    ]  # fmt: skip
    # Where Triton's interpreter is chosen, as in this process, there is no such form.
    asked = f"""
from benchmarks.hazard_matrix import gpu_form, multiplies_beside
from tricnn.build.compile import KernelSpec
print([multiplies_beside(gpu_form(one, target)) for target in {TARGETS} for one in {specs}])
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(by_code)
    assert by_code[:2] == [False, True]  # what is computed is in registers on sm_90


LEFT = "!ttg.memdesc<128x64xbf16, #shared, #smem, mutable>"
TENSOR_MEMORY = "!ttg.memdesc<128x64xbf16, #tmem1, #ttng.tensor_memory>"
REST = "!ttg.memdesc<64x16xbf16, #shared1, #smem>, !ttg.memdesc<128x16xf32, #tmem, #ttng.tensor_memory, mutable>"


@pytest.mark.parametrize("left, beside", [(LEFT, False), (TENSOR_MEMORY, True)])
def test_a_left_operand_in_tensor_memory_can_be_refilled(left, beside):
    form = f"ttng.tc_gen5_mma %a, %b, %c[%t], %true, %p {{is_async, loop.stage = 1 : i32}} : {left}, {REST} loc(#l1)"
    assert hazard_matrix.multiplies_beside(form) == beside


def test_a_function_in_which_no_known_product_is_found_is_not_taken_for_one_without_a_hazard():
    with pytest.raises(ValueError, match="no product"):
        hazard_matrix.multiplies_beside("ttng.tc_gen6_mma %a, %b, %c : !ttg.memdesc<64x64xbf16, #shared, #smem>")


def test_the_table_says_of_how_many_functions_the_spilled_bytes_are():
    rows, _ = hazard_matrix.table(dict.fromkeys(CASES[:1], DONE | {"compiled": 1}))
    assert rows[-1].endswith("| 3 | 0 | 0 in 1 |")
