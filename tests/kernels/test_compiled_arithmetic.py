"""What a GPU computes where Triton's interpreter computes something else: docs/numerics.md, row by row.

Every function of Triton that kernels use is in that table. Its machine code (PTX for sm_90, run by ptx.py) and the
interpreter get every pair of special values. They must differ just where the table says so: a new version of Triton
that changes either side, or a kernel that uses a function nobody has looked at, fails here.
"""

import ast
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import triton

from tests.ir.samples import ENV, Sample, batched
from tests.kernels.ptx import Threads, instructions
from tests.kernels.test_pool import by_pytorch, special_windows
from tricnn.build.build import spec as build_spec
from tricnn.build.compile import CompiledKernel, KernelSpec, compile_kernels
from tricnn.compiler.fusion.fuser import fuse
from tricnn.ir import OPS, Kind
from tricnn.kernels.numerics import INTERPRETED
from tricnn.lower.lower import lower
from tricnn.lower.templates import module_text

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="of Triton's interpreter")

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "numerics.md").read_text()
VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
F32, I32 = np.float32, np.int32
NUMBERS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -0.3, 88.0, -104.0, 3.4e38, -3.4e38, 1e-38, 1e-40, -1e-40,
     65504, 65520, 1.00390625, 3.3895314e38, 6e-8, 123456.789, -130.0], F32,
)  # fmt: skip
NUMBERS = np.append(NUMBERS, np.array(0xFFC00000, np.uint32).view(F32))  # a negative NaN
#: a NaN that is infinity if its last bits are cut off; arithmetic makes none
SIGNALLING = np.array([0x7F800001, 0xFF80FFFF], np.uint32).view(F32)
INTEGERS = np.array([0, 1, -1, 2, 3, -3, 7, -7, 8, 255, 256, -256, 2**31 - 1, -(2**31), 65537, 10], I32)

Where = Callable[[np.ndarray, np.ndarray], np.ndarray]


def nowhere(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.zeros(a.shape, bool)


def one_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isnan(a) ^ np.isnan(b)


def zeros(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == 0) & (b == 0)


def subnormal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.abs(a) < 2.0**-126) & (a != 0)


@dataclass(frozen=True)
class Row:
    """A function of a and b; the instructions of sm_90; by how many units in the last place the two may differ, and
    where they differ otherwise. ``sign``: the sign of a 0 is not looked at."""

    expression: str
    code: str
    differ: Where = nowhere
    units: int = 0
    sign: bool = True
    integers: bool = False


#: where the interpreter's two plain maxima differ: nowhere since Triton 3.8
KEPT = one_nan if VERSION < (3, 8) else nowhere

ROWS = {
    "tl.maximum": Row("tl.maximum(a, b)", "max.f32", KEPT, sign=False),
    "tl.PropagateNan": Row("tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)", "max.NaN.f32", sign=False),
    "tl.minimum": Row("tl.minimum(a, b)", "min.f32", KEPT, sign=False),
    "tl.max": Row("tl.max(tl.join(a, b), axis=1)", "max.f32", sign=False),
    "tl.sum": Row("tl.sum(tl.join(a, b), axis=1)", "add.f32"),
    "tl.min": Row("tl.min(tl.join(a, b), axis=1)", "min.s32", integers=True),
    "tl.where": Row("tl.where(a > b, a, b)", "setp.gt.f32 selp.f32"),
    "<=": Row("tl.where(a <= 0.0, 0.0, b)", "setp.le.f32 selp.b32"),
    "==": Row("tl.where(a == a, b, 0.0)", "setp.num.f32 selp.b32"),
    "tl.abs": Row("tl.abs(a)", ""),
    "+": Row("a + b", "add.f32"),
    "a*b + c": Row("a * b + b", "fma.rn.f32", units=2**31),  # one rounding or two: any distance, if the sum cancels
    "/": Row("a / b", "div.full.f32", units=2),
    "tl.rsqrt": Row("tl.rsqrt(a)", "rsqrt.approx.ftz.f32", subnormal, units=2),
    "tl.sqrt_rn": Row("tl.sqrt_rn(a)", "sqrt.rn.f32"),
    "tl.exp": Row("tl.exp(a)", "mul.f32 ex2.approx.f32", units=64),
    "tl.exp2": Row("tl.exp2(a)", "ex2.approx.ftz.f32", lambda a, b: (a < -126) & (a > -149), units=2),
    "tl.sigmoid": Row(
        "tl.sigmoid(a)",
        "sub.f32 " * (VERSION < (3, 9)) + "mul.f32 ex2.approx.f32 add.f32 div.full.f32",  # 3.9 folds the minus
        units=64,
    ),
    "round_to bfloat16": Row(
        "round_to(a, tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.float32)", "cvt.rn.bf16.f32 cvt.rn.f32.u16"
    ),
    "bfloat16 to float32": Row(
        "(a.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True).to(tl.float32)",
        "cvt.f32.bf16",
        lambda a, b: subnormal(a, b) & (np.abs(a) > 2.0**-134),
    ),
    "round_to float16": Row("round_to(a, tl.float16).to(tl.float32)", "cvt.rn.f16.f32 cvt.f32.f16"),
    "round_to_tf32": Row("round_to_tf32(a)", "add.s32 setp.ne.f32 selp.b32"),
    "//": Row("a // b", "div.s32", integers=True),
    "%": Row("a % b", "rem.s32", integers=True),
    ">>": Row("(a.to(tl.uint32, bitcast=True) >> 16).to(tl.int32, bitcast=True)", "shr.u32", integers=True),
    "to uint8": Row("a.to(tl.uint8).to(tl.int32)", "", integers=True),
    "to int64": Row("a.to(tl.int64).to(tl.int32)", "", integers=True),
    "to float32": Row("a.to(tl.float32).to(tl.int32, bitcast=True)", "cvt.rn.f32.s32", integers=True),
}


def source(name: str, row: Row) -> str:
    return module_text(
        f"@triton.jit\ndef {name}(x, y, z):\n    i = tl.arange(0, 128)\n    a, b = tl.load(x + i), tl.load(y + i)\n"
        f"    tl.store(z + i, {row.expression})\n"
    )


def names() -> dict[str, str]:
    return {row: f"kernel{i}" for i, row in enumerate(ROWS)}


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, CompiledKernel]]:
    """Every row's kernel, for two makers' GPUs."""
    specs = []
    for row, name in names().items():
        kind = "*i32" if ROWS[row].integers else "*fp32"
        specs.append(KernelSpec(name, source(name, ROWS[row]), dict.fromkeys("xyz", kind), {}, 4, 1))
    return {t: dict(zip(ROWS, compile_kernels(specs, t))) for t in ("sm_90", "gfx942")}


def on_a_gpu(kernel: CompiledKernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The kernel's PTX, 128 elements at a time."""
    results = []
    for first in range(0, len(a), 128):
        memory = np.concatenate([a[first : first + 128], b[first : first + 128], np.zeros(128, a.dtype)]).view(np.uint8)
        Threads(kernel.assembly["ptx"], 128, [0, 512, 1024, 0, 0], memory)
        results.append(memory[1024:].view(a.dtype))
    return np.concatenate(results)


def interpreted(module: Path, name: str, row: Row, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    module.write_text(source(name, row))
    spec = importlib.util.spec_from_file_location(name, module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    result = torch.empty(len(a), dtype=torch.int32 if row.integers else torch.float32)
    with np.errstate(all="ignore"):
        for first in range(0, len(a), 128):
            x, y, z = (torch.from_numpy(v)[first:] for v in (a, b, result.numpy()))
            getattr(loaded, name)[1,](x, y, z)
    return result.numpy()


def ordered(x: np.ndarray) -> np.ndarray:
    """Integers in the order of the numbers, one for each."""
    bits = x.view(I32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@pytest.mark.parametrize("name", ROWS)
def test_the_interpreter_and_the_machine_code_differ_where_the_table_says(name, compiled, tmp_path):
    row = ROWS[name]
    values = INTEGERS if row.integers else NUMBERS
    values = np.append(values, SIGNALLING) if name.startswith("round_to") else values
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    if name in ("//", "%"):
        a, b = a[keep := (b != 0) & ~((a == a.min()) & (b == -1))], b[keep]  # undefined
    size = -(-len(a) // 128) * 128
    a, b = np.resize(a, size), np.resize(b, size)
    by_gpu = on_a_gpu(compiled["sm_90"][name], a, b)
    by_interpreter = interpreted(tmp_path / "kernel.py", names()[name], row, a, b)
    if row.integers:
        np.testing.assert_array_equal(by_gpu, by_interpreter)
        return
    one = by_gpu + F32(0) if not row.sign else by_gpu
    other = by_interpreter + F32(0) if not row.sign else by_interpreter
    same = (np.isnan(one) & np.isnan(other)) | (
        (np.isnan(one) == np.isnan(other)) & (np.abs(ordered(one) - ordered(other)) <= row.units)
    )
    wanted = ~row.differ(a, b)
    wrong = np.flatnonzero(same != wanted)
    assert not len(wrong), [(a[i], b[i], by_gpu[i], by_interpreter[i]) for i in wrong[:8]]


@pytest.mark.parametrize("name", ROWS)
def test_the_instructions_are_those_of_the_table(name, compiled):
    assert " ".join(instructions(compiled["sm_90"][name].assembly["ptx"])) == ROWS[name].code


WINDOWS = """
@triton.jit
def pool(x, y, index):
    row = tl.arange(0, 64)[:, None]
    window = tl.arange(0, 64 // AREA)[:, None]
    column = tl.arange(0, 32)[None, :]
    largest, position = max_over_window(tl.load(x + row * 32 + column), AREA)
    tl.store(y + window * 32 + column, largest)
    tl.store(index + window * 32 + column, position)
"""


@pytest.mark.parametrize("area", [2, 4])
def test_the_compiled_maximum_over_a_window_is_pytorchs(area):
    """Every window of NaNs, infinities, zeros of either sign and numbers: its maximum, and where that is."""
    spec = KernelSpec(
        "pool", module_text(WINDOWS.replace("AREA", f"{area}")), {"x": "*fp32", "y": "*fp32", "index": "*i32"}, {}, 1, 1
    )
    (kernel,) = compile_kernels([spec], "sm_90")
    (amd,) = compile_kernels([spec], "gfx942")
    assert re.search(r"v_cmp_[ou]_f32", amd.assembly["amdgcn"]), "a maximum that keeps a NaN there asks for one"
    windows = special_windows(area)
    expected, place = by_pytorch(windows)
    each = 64 // area * 32
    for first in range(0, len(windows), each):
        some = windows[first : first + each].numpy()
        known = len(some)
        tile = np.resize(some, (each, area)).reshape(64 // area, 32, area).transpose(0, 2, 1)
        memory = np.zeros(64 * 32 * 4 + 2 * each * 4, np.uint8)
        memory[: 64 * 32 * 4] = np.ascontiguousarray(tile, F32).view(np.uint8).ravel()
        Threads(kernel.assembly["ptx"], 32, [0, 64 * 32 * 4, 64 * 32 * 4 + each * 4, 0, 0], memory)
        y, index = np.split(memory[64 * 32 * 4 :], 2)
        np.testing.assert_array_equal(y.view(F32)[:known], expected[first : first + each].numpy())
        np.testing.assert_array_equal(index.view(I32)[:known], place[first : first + each].numpy())


def elementwise() -> list[str]:
    """Operations of values at one place of the network."""
    rows = {op: row for op, row in OPS.items() if row.kind is Kind.POINTWISE and {*row.inputs} <= {*"xyab", "dy"}}
    return [op for op, row in rows.items() if {*row.attrs} <= {"factor"} and op != "stack"]


@pytest.fixture(scope="module")
def emitted() -> dict[str, tuple[list[str], CompiledKernel]]:
    """What is emitted for each such operation alone, for four rows of 32 numbers: its arguments and its kernel."""
    specs, arguments = [], []
    for op in elementwise():
        attrs = {"factor": 0.5} if op == "scale" else {}
        plan = fuse(Sample(op, (batched(32),) * len(OPS[op].inputs), attrs).graph(), "infer")
        program = lower(plan, "fp32", 4, "sm_90")
        specs.append(build_spec(program.functions[0]))
        arguments.append(list(program.launches[0].arguments))
    return dict(zip(elementwise(), zip(arguments, compile_kernels(specs, "sm_90")), strict=True))


#: what log and erf, which flush subnormal numbers, make 0 of
FLUSHED = 2.0**-126


@pytest.mark.parametrize("op", elementwise())
def test_an_emitted_operation_is_numpys_of_what_is_not_finite(op, emitted):
    """The machine code of what the generator writes, with every pair (or triple) of special values: NaN and infinity
    where NumPy has them. Numbers are as far from NumPy's as rounding may take either of the two."""
    arguments, kernel = emitted[op]
    row, attrs = OPS[op], {"factor": 0.5} if op == "scale" else {}
    every = np.meshgrid(*[NUMBERS] * max(2, len(row.inputs)))
    size = -(-every[0].size // 128) * 128
    every = [np.resize(v.ravel(), size) for v in every]
    for first in range(0, size, 128):
        given = [x[first : first + 128].reshape(4, 32) for x in every][: len(row.inputs)]
        memory = np.concatenate([*(x.ravel() for x in given), np.zeros(128, F32)]).view(np.uint8)
        place = {f"x{i}": i * 512 for i in range(len(given))} | {"y": len(given) * 512}
        Threads(kernel.assembly["ptx"], 128, [*(place.get(x, 4) for x in arguments), 0, 0], memory)
        with np.errstate(all="ignore"):
            expected = np.asarray(row.numpy(ENV, attrs, *given))
            bound = 2 * row.rounding(attrs, *(x.astype(np.float64) for x in given)) + FLUSHED
        got = memory[-512:].view(F32).reshape(4, 32)
        numbers = np.isfinite(expected)
        np.testing.assert_array_equal(np.where(np.isfinite(got), 0, got), np.where(numbers, 0, expected))
        distance = np.abs(np.where(numbers, got, 0).astype(np.float64) - np.where(numbers, expected, 0))
        beyond = numbers & ~(distance <= bound)
        assert not beyond.any(), [*zip(*(x[beyond][:6] for x in (*given, got, expected, bound)))]


def table() -> dict[str, str]:
    """The rows of docs/numerics.md by every name in their first cell."""
    found = {}
    for line in TABLE.splitlines():
        if line.startswith("| `"):
            cell = line.removeprefix("| ").replace("\\|", "/or/").split(" |")[0].replace("/or/", "|")
            names = re.findall(r"`([^`]+)`", cell)
            found |= dict.fromkeys([cell.replace("`", "")] if " with " in cell else names, line)
    return found


@pytest.mark.parametrize("name", ROWS)
def test_the_table_has_every_row_and_its_instructions(name):
    assert [i for i in ROWS[name].code.split() if i not in table()[name]] == []


@pytest.mark.parametrize("name", ROWS)
def test_amd_s_instructions_are_those_of_the_table(name, compiled):
    wanted = re.findall(r"\bv_\w+", table()[name])
    assert [i for i in wanted if i not in compiled["gfx942"][name].assembly["amdgcn"]] == []


OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.RShift: ">>",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.Invert: "~", ast.USub: "-", ast.UAdd: "+", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
#: types, and what is decided when compiling
PLAIN = {"constexpr", "float32", "float16", "bfloat16", "int1", "int8", "uint8", "uint16", "int32", "uint32", "int64",
         "dtype", "element_ty", "shape", "ALL"}  # fmt: skip


def used() -> set[str]:
    """What of Triton, and which operators, the functions of kernels/ and the emitted files of the tests use; and what
    of Triton the code generator has in its texts."""
    sources = [*(ROOT / "tricnn" / "lower").glob("*.py"), ROOT / "tricnn" / "ir" / "scalar.py"]
    written = "\n".join(path.read_text() for path in sources)
    found = {f"tl.{name}" for name in re.findall(r"\btl\.([a-zA-Z_]\w*)", written)} - {"tl.float", "tl.int"}
    for path in [*(ROOT / "kernels").glob("*.py"), *(ROOT / "tests" / "lower" / "golden").iterdir()]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in function.decorator_list):
                for node in (node for line in function.body for node in ast.walk(line)):
                    if isinstance(node, ast.Attribute):
                        owner = ast.unparse(node.value)
                        found.add(f"{'tl' if owner == 'tl' else ''}.{node.attr}")
                    found |= {OPERATORS.get(type(op), "?") for op in operators(node)}
    return {name for name in found if name.removeprefix("tl").removeprefix(".") not in PLAIN}


def operators(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Compare):
        return [op for op in node.ops if not isinstance(op, ast.Is | ast.IsNot)]
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.UnaryOp) and not isinstance(node.op, ast.Not):
        return [node.op]
    return []


def test_everything_that_kernels_use_is_in_the_table():
    """A function that nobody has compared on both sides may hide a NaN on one of them."""
    known = {part for name in table() for part in name.split()}
    assert sorted(used() - known) == []


#: of integers (of places in an image, where nothing is NaN), and of counts
DROPPING = {
    "tl.maximum(count, 1.0)", "tl.maximum(count.to(tl.float32), 1.0)",
    "tl.maximum(total, 1.0)", "tl.maximum(count, 1)", "tl.maximum(start, 0)",
    "tl.minimum(start + KERNEL, SIZE)", "tl.minimum(start + KERNEL, SIZE + AFTER)", "tl.maximum(PT - p * SH, 0)",
    "tl.maximum(PL - q * SW, 0)", "tl.maximum(PT - (p + result // WIDE) * SH, 0)",
    "tl.maximum(PL - (q + result % WIDE) * SW, 0)",
    "tl.minimum(found, found ^ 2 * AREA - 1)", "tl.minimum(ROW_TILES - first, GROUP)",
    "tl.maximum((2 * p + 1) * IN - OUT, 0)", "tl.minimum(tl.maximum((2 * p + 1) * IN - OUT, 0), (IN - 1) * unit)",
    "tl.maximum(unit - tl.abs(place - i * unit), 0)", "tl.maximum(steps - tl.abs(p * (IN - 1) - i * steps), 0)",
    "tl.minimum(begin + chunk, pixels)", "tl.minimum(begin + chunk, boxes)",
    "tl.minimum(begin + chunk, N * PIXELS)", "tl.minimum(begin + chunk, parts)",
    "tl.minimum((Q - phase + PHASES - 1) // PHASES - first_q, BOX_Q)", "tl.minimum(N - first_n, BOX_N)",
    "tl.minimum((P - class_h + APART_H - 1) // APART_H - first_p, BOX_H)", "tl.minimum(P - first_p, BOX_P)",
    "tl.minimum((Q - class_w + APART_W - 1) // APART_W - first_q, BOX_W)", "tl.maximum(column - LEFT, 0)",
    "tl.minimum(first_strip + BLOCK_M, N * STRIPS)", "tl.minimum(strip % STRIPS * WIDE, WIDTH)",
    "tl.minimum(begin + ROWS, RESULT_H)", "tl.minimum(rows % streams, stream)", "tl.minimum(Q - first_q, BOX_W)",
    "tl.maximum(begin % P, PT)", "tl.maximum(begin // SH + AHEAD, 0)", "tl.maximum(begin, PT // SH)",
    "tl.minimum(final, P - 1 if GRADIENT else (H - 1 + PT) // SH)", "tl.maximum(first, last + 1)",
    "tl.minimum(first_column + PACK * GROUP_K, K)",
    "tl.maximum(begin, BEFORE)", "tl.minimum(begin + ROWS, P)", "tl.minimum(end + (RING - 2), LOWEST)",
    "tl.maximum(tl.minimum(end + (RING - 2), LOWEST), end - 1)",
}  # fmt: skip


def test_no_maximum_of_numbers_drops_a_nan():
    """Without propagate_nan a GPU's maximum of NaN and 0 is 0."""
    found = set()
    for path in (ROOT / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.maximum", "tl.minimum"):
                found.add(ast.unparse(node))
    assert {text for text in found if "propagate_nan" not in text} - DROPPING == set()
