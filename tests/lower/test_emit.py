"""The emitted file: what a person reads, and what must stay true of it whatever the network is called."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit
from tricnn.graphs import lenet, resnet50
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.lower import lower

GOLDEN = Path(__file__).parent / "golden"


def emitted(graph: Graph, mode: str = "train", dtype: str = "bf16", batch: int = 256) -> str:
    return emit(lower(planned(graph, mode, "all"), dtype, batch))


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_golden(mode: str) -> None:
    """The text people read. UPDATE_GOLDEN=1 rewrites it; read the difference before you commit it."""
    path = GOLDEN / f"lenet_{mode}_bf16.py.txt"
    text = emitted(lenet(), mode)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_imports_only_triton_and_torch_and_fits_the_page() -> None:
    """LeNet; and ResNet-50, which has the longest lines: convolutions that are one, residual joins."""
    text = emitted(lenet())
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        assert not isinstance(node, ast.ImportFrom)
    assert names == {"torch", "triton"}
    code = [line for line in emitted(resnet50()).splitlines() if not line.startswith('        "')]  # not lists of names
    assert max(map(len, [*text.splitlines(), *code])) <= 120


def test_names_that_mean_something_to_python_or_triton_are_only_names() -> None:
    b = GraphBuilder("class")
    x = b.input("tl", (3, 6, 6))
    x = b.relu(b.conv2d(x, 4, 3, name="N"), name="import")
    x = b.relu(b.conv2d(x, 4, 3, name="args.acc-mask"), name="triton")
    graph = b.build(b.linear(x, 2, name="lambda"))
    assert all(c.ok for c in verify(graph, mode="train", batch=1))


MEMORY = """
import sys, importlib.util, torch
path, batch = sys.argv[1], int(sys.argv[2])
spec = importlib.util.spec_from_file_location("emitted_alone", path)
module = importlib.util.module_from_spec(spec); sys.modules["emitted_alone"] = module
spec.loader.exec_module(module)

made, empty = [], torch.empty
def counted(*arguments, **options):
    made.append(empty(*arguments, **options))
    return made[-1]
torch.empty = counted
t = module.allocate(batch, device="cpu")
torch.empty = empty
held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in t.values() if torch.is_tensor(x)}
assert sum(held.values()) == sum(x.nbytes for x in made), "nothing but what t holds is made"
for x in t.values():
    x.zero_() if torch.is_tensor(x) else None
if hasattr(module, "point"):
    module.point(t)
module.step(t, batch)
print(sum(held.values()))
"""


def memory_of(source: str, batch: int, folder: Path) -> int:
    """Bytes that the emitted file really holds for a batch, in a process that has never heard of tricnn."""
    path = folder / "emitted.py"
    path.write_text(source)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", MEMORY, str(path), str(batch)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def residual(classes: int = 5) -> Graph:
    """Two batch norms, running statistics, a join: many tensors that live for a while."""
    b = GraphBuilder("residual")
    x = y = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 8, 8)), 8, 3, padding=1, bias=False)))
    for _ in range(2):
        y = b.relu(b.batch_norm(b.conv2d(y, 8, 3, padding=1, bias=False)))
    return b.build(b.linear(b.global_avg_pool(b.relu(b.add("add", x, y))), classes))


@pytest.mark.parametrize("mode, dtype", [pytest.param("infer", "fp32", marks=pytest.mark.slow), ("train", "bf16")])
def test_the_file_alone_needs_the_memory_that_is_stated(mode: str, dtype: str, tmp_path: Path) -> None:
    """peak_memory_bytes is what a user of the file gets, also at another batch than it was compiled for."""
    program = lower(planned(residual(), mode, "all"), dtype, 4)
    assert memory_of(emit(program), 2, tmp_path) == program.peak_memory_bytes(2)


SCRIPT = """
import sys, importlib.util, torch
spec = importlib.util.spec_from_file_location("kernels_of_lenet", sys.argv[1])
module = importlib.util.module_from_spec(spec); sys.modules["kernels_of_lenet"] = module
spec.loader.exec_module(module)
t = module.allocate(1, device="cpu")
for x in t.values():
    x.fill_(0)
t["fc3.bias"].copy_(torch.arange(10.0))
module.step(t, 1)
assert t["fc3"].tolist() == list(range(10)), t["fc3"]
assert not any(name.startswith("tricnn") for name in sys.modules)
"""


def test_the_file_runs_alone(tmp_path: Path) -> None:
    """allocate() and step() in a process that has never heard of tricnn."""
    path = tmp_path / "lenet.py"
    path.write_text(emitted(lenet(), "infer", "fp32", 1))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], env=env, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
