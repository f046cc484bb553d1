"""Kernels compiled ahead, for a GPU that is not there: Triton finds each when it is launched, and none spills."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tricnn.build import compile_ahead, worker_pool
from tricnn.build.compile import CompileError, CompilerFailed
from tricnn.build.compile_ahead import Ready, compiled_ahead, settled_for_launch
from tricnn.build.settle import settle
from tricnn.compiler import pipeline
from tricnn.compiler.plan import Plan
from tricnn.emit.emit import emit
from tricnn.graphs import lenet
from tricnn.ir import GraphBuilder
from tricnn.lower.lower import lower
from tricnn.lower.program import Function, Program
from tricnn.run import model

BATCH, TARGET = 48, "sm_90"

# Launches every kernel of an emitted file as far as that goes without a GPU: Triton's driver only says which one it is.
LAUNCHED = """
import importlib.util, json, sys, torch, triton
from triton.backends.compiler import GPUTarget
from tricnn.build.emitted_module import make_keys

class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
spec = importlib.util.spec_from_file_location("emitted_elsewhere", sys.argv[1])
module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module
spec.loader.exec_module(module)
make_keys(module)
t = module.allocate(48, device="cpu")
for name, arguments, options in json.loads(sys.argv[2]):
    values = [t[a] if a in t else 48 for a in arguments]
    getattr(module, name).warmup(*values, grid=(1, 1, 1), **options)
"""


def planned(mode: str) -> Plan:
    """A convolution by boxes, one that pools, and a dense layer."""
    b = GraphBuilder("small")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (8, 12, 12)), 16, 3, padding=1, name="first")))
    x = b.max_pool2d(b.conv2d(x, 32, 1, name="second"), 2)
    return pipeline.planned(b.build(b.linear(b.flatten(x), 10, name="fc")), mode, "all")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned("train")


@pytest.mark.slow
def test_triton_finds_what_was_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key: nothing is compiled when the kernels are launched, from another file with the same text."""
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    program = settled_for_launch(planned("infer"), "bf16", BATCH, TARGET)
    compiled = sorted(os.listdir(tmp_path / "triton"))
    assert len(compiled) >= len(program.functions)
    (tmp_path / "elsewhere.py").write_text(emit(program))
    functions = {f.name: f for f in program.functions}
    launches = [
        [x.function, [str(a) for a in x.arguments], {"num_warps": f.num_warps, "num_stages": f.num_stages}]
        for x in program.launches if (f := functions[x.function])
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", LAUNCHED, str(tmp_path / "elsewhere.py"), json.dumps(launches)],
        check=True, env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path / "triton")) == compiled


def test_a_kernel_that_spills_gets_smaller_tiles_and_that_is_remembered(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path))
    first = lower(plan, "bf16", BATCH, TARGET)
    spilling = next(f for f in first.functions if "conv2d_dgrad" in f.text or "matmul_boxes" in f.text)
    calls: list[tuple[int, bool]] = []

    def compiled(program: Program, functions: list, target: str, anew: bool = False) -> list[Ready | CompileError]:
        calls.append((len(functions), anew))
        return [Ready(64 if f == spilling else 0, 0, 4) for f in functions]

    monkeypatch.setattr(compile_ahead, "compiled_ahead", compiled)
    settled = settled_for_launch(plan, "bf16", BATCH, TARGET)
    assert spilling not in settled.functions and len(settled.functions) == len(first.functions)
    everything = len(first.functions)
    assert calls[0] == (everything, True) and calls[-1] == (everything, False)
    assert all(count < everything for count, anew in calls[1:-1])
    calls.clear()
    assert settled_for_launch(plan, "bf16", BATCH, TARGET).functions == settled.functions
    assert calls == [(everything, False)]


def test_a_kernel_on_whose_loop_tritons_compiler_fails_is_not_pipelined(plan: Plan, tmp_path: Path) -> None:
    """Triton 3.6.0 fails so for sm_100 in its pipeliner; what fails in any form, or died, is told in its own words."""
    first = lower(plan, "bf16", BATCH, TARGET)
    failing = next(f for f in first.functions if f.num_stages > 1)

    def settled(fails: Callable[[Function], bool], error: type[CompileError]) -> Program:
        def compiled(program: Program, functions: list[Function]) -> list[Ready | CompileError]:
            return [error(f.name, TARGET, "in a pass", "words") if fails(f) else Ready(0, 0, 4) for f in functions]

        return settle(plan, "bf16", BATCH, TARGET, compiled, tmp_path / error.__name__)[0]

    changed = [f for f in settled(lambda f: f == failing, CompilerFailed).functions if f not in first.functions]
    assert [(f.name, f.num_stages) for f in changed] == [(failing.name, 1)]
    with pytest.raises(CompileError, match=f"{failing.name} does not compile for {TARGET}: in a pass"):
        settled(lambda f: f.name == failing.name, CompilerFailed)
    with pytest.raises(CompileError, match="in a pass"):
        settled(lambda f: f == failing, CompileError)


def test_build_and_launch_settle_alike(plan: Plan, tmp_path: Path) -> None:
    """Whoever comes first, the tiles are the same: both go by `settle`, which begins with what is remembered."""
    spilling = lower(plan, "bf16", BATCH, TARGET).functions[0]

    def compiled(program: Program, functions: list) -> list[Ready | CompileError]:
        return [Ready(64 if f == spilling else 0, 0, 4) for f in functions]

    settled, _ = settle(plan, "bf16", BATCH, TARGET, compiled, tmp_path)
    again, _ = settle(
        plan, "bf16", BATCH, TARGET, lambda program, functions: [Ready(0, 0, 4)] * len(functions), tmp_path
    )
    assert again.functions == settled.functions != lower(plan, "bf16", BATCH, TARGET).functions


def test_a_compiler_that_dies_leaves_its_kernels_to_triton(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = tmp_path / "dies.py"
    dies.write_text("import sys; sys.exit('error: out of luck')")
    monkeypatch.setattr(worker_pool, "WORKER", dies)
    worker_pool.POOL.close()  # those that wait for jobs would not die
    program = lower(plan, "bf16", BATCH, TARGET)
    monkeypatch.setattr(compile_ahead, "may_refill_early", lambda gpu: False)
    with pytest.warns(UserWarning, match="as they are launched: .*out of luck"):
        assert set(compiled_ahead(program, program.functions[:2], TARGET)) == {Ready(0, 0, 0)}
    # Where what Triton makes of them may be wrong, unseen machine code is not launched.
    monkeypatch.setattr(compile_ahead, "may_refill_early", lambda gpu: True)
    with pytest.warns(UserWarning, match="out of luck"):
        results = compiled_ahead(program, program.functions[:2], TARGET)
    assert all(isinstance(r, CompileError) and "could not be read" in r.reason for r in results)


def test_models_on_a_gpu_are_settled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those for another GPU's tiles, and none where Triton interprets."""
    settled = []
    graph = lenet(width=1 / 2)

    def settle(plan: Plan, dtype: str, batch: int, target: str) -> Program:
        settled.append(target)
        return lower(plan, dtype, batch, target)

    monkeypatch.setattr(model, "settled_for_launch", settle)
    model.compile(graph, executor="triton")
    assert settled == []
    monkeypatch.setattr(model, "pick_device", lambda: "cuda")
    model.compile(graph, executor="triton")
    model.compile(graph, executor="triton", target="sm_80")
    model.compile(graph, executor="numpy")
    assert settled == ["sm_90"]
