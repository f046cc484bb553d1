"""Layers may be called as they like: no name of theirs is one of the emitter's own, of Triton's or of Python's."""

import ast
import builtins
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tricnn
from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit
from tricnn.ir import OPS, Graph, GraphBuilder
from tricnn.ir.graph import NAME
from tricnn.ir.ops.pointwise import pointwise
from tricnn.ir.scalar import Value
from tricnn.lower.lower import lower
from tricnn.lower.names import SUM_TABLE, Scope, StepNumber, copy_name, descriptor_name, workspace_name
from tricnn.lower.program import Program
from tricnn.lower.templates import library

GOLDEN = Path(__file__).parent / "golden" / "lenet_train_bf16.py.txt"


def own_words() -> list[str]:
    """Every name and text of an emitted file's code that could be a layer's name, Python's keywords and built-in names,
    and what buffers of the emitter's own were called when they had names of that form."""
    text = GOLDEN.read_text()
    texts = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    words = {
        *(word for kind, word, *_ in tokenize.generate_tokens(io.StringIO(text).readline) if kind == tokenize.NAME),
        *texts,
        *keyword.kwlist,
        *keyword.softkwlist,
        *filter(str.islower, dir(builtins)),
    }
    words |= {"weight_sums.table", "k00_conv.partial", "k00_conv.groups", *(s.value for s in StepNumber)}
    return sorted(w for w in words if NAME.fullmatch(w) and not re.search(r"\.(weight|bias)|grad|labels|loss", w))


def chain(names: Sequence[str]) -> Graph:
    b = GraphBuilder("chain")
    x = b.input("zz", (2, 4, 4))
    for i, name in enumerate(names):  # a pass has two kernels, a convolution five
        if i % 9 == 0:
            x = b.conv2d(x, 2, 1, name=name)
        else:
            x = b.dropout(x, 0.1, name=name) if i % 9 == 4 else b.tanh(x, name=name)
    return b.build(b.linear(x, 2, name="last_layer"))


def lowered(graph: Graph) -> Program:
    plan = planned(graph, "train", "none")
    return lower(plan, "bf16", 2)


def shape_of(program: Program) -> tuple[list[str], list[tuple[object, ...]]]:
    """The functions and launches of a program, kernels and buffers numbered as they come."""
    numbers: dict[str, int] = {}
    functions = [" ".join(f.text.replace(f.name, "@").split()) for f in program.functions]
    names = {f.name: i for i, f in enumerate(program.functions)}
    launches = []
    for launch in program.launches:
        given = [a if isinstance(a, StepNumber) else numbers.setdefault(a, len(numbers)) for a in launch.arguments]
        launches.append((names[launch.function], *given, *launch.grid))
    return functions, launches


def test_no_word_of_an_emitted_file_is_in_a_layers_way() -> None:
    """The step is the one of the same network under names that nobody else has, but for the names."""
    words = own_words()
    assert {"step", "N", "seed_lo", "t", "triton", "while", "point", "SUMS"} <= set(words)
    own, plain = (lowered(chain(names)) for names in (words, [f"zz{i}" for i in range(len(words))]))
    assert shape_of(own) == shape_of(plain)
    assert len(own.buffers) == len(plain.buffers)
    text = emit(own)
    made = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    assert len(made) == len(set(made))
    for name in own.buffers:
        assert f'"{name}": ' in text


@pytest.mark.parametrize("mode", ("infer", "train"))
def test_layers_called_as_the_launches_numbers(mode: str) -> None:
    b = GraphBuilder("step")
    x = b.input("N", (2, 5, 5))
    x = b.batch_norm(b.conv2d(x, 4, 3, padding=1, name="step"), name="seed_lo")
    x = b.dropout(b.conv2d(b.relu(x, name="0"), 4, 3, name="seed_hi"), 0.2, name="weight_sums.table")
    graph = b.build(b.linear(x, 3, name="class"))
    assert all(c.ok for c in verify(graph, mode=mode, batch=2))


def test_layers_whose_functions_would_have_one_name() -> None:
    """Python has no dots in its names: ``a.b`` and ``a_b``, and what one convolution leaves for the norms behind it."""
    b = GraphBuilder("dots")
    z = b.conv2d(b.input("x", (4, 6, 6)), 8, 3, padding=1, bias=False, name="c")
    one, two, three = (b.relu(b.batch_norm(z, name=name)) for name in ("a.b", "a_b", "a-b"))
    x = b.add("add", b.add("add", one, two, name="c.add"), three)
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, name="c_add"), name="c-add"))
    graph = b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))
    assert all(c.ok for c in verify(graph, mode="train", batch=2))


def test_the_emitters_own_names_are_no_layers() -> None:
    """Tensors have a colon, descriptors brackets; functions of no layer do not begin as those of one."""
    for own in (SUM_TABLE, workspace_name("k00_conv", "partial"), copy_name("conv.weight", "bf16")):
        assert not NAME.fullmatch(own)
    assert not NAME.fullmatch(descriptor_name("conv", (64, 32))) and not NAME.fullmatch(str(StepNumber.STEP))
    made = [*library(), "step", "allocate", "parameters", "point", "round_weights", "sum_weight_gradients"]
    assert [name for name in made if re.match(r"k\d", name)] == []


def test_the_state_of_a_sequential_fits() -> None:
    """PyTorch names the layers of nn.Sequential 0, 1, 2."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    b = GraphBuilder("sequential")
    x = b.batch_norm(b.conv2d(b.input("x", (2, 8, 8)), 4, 3, name="0"), name="1")
    graph = b.build(b.linear(b.flatten(b.relu(x, name="2"), name="3"), 3, name="4"))
    images = np.random.default_rng(0).standard_normal((2, 2, 8, 8), dtype=np.float32)
    with torch.no_grad():
        wanted = net(torch.as_tensor(images)).numpy()
    for executor in ("numpy", "eager", "triton"):
        model = tricnn.compile(graph, "infer", batch=2, executor=executor)
        model.load_state_dict(net.state_dict())
        np.testing.assert_allclose(model(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def operations() -> Iterator[None]:
    """An operation and its operand called as Python's keywords, and another's as what every function has."""
    before = dict(OPS)
    pointwise("not", "lambda", 2.0 * Value("lambda"), "y = 2 a")
    pointwise("args", "pixel tl", 3.0 * Value("pixel") - Value("tl"), "y = 3 a - b")
    yield
    for name in [name for name in OPS if name not in before]:
        del OPS[name]


def test_operations_called_as_keywords_and_as_what_a_function_has(operations: None) -> None:
    """Variables are called by operations and operands, but never so that Python, or the function, means something else.
    Both operands of one are results of the other: the second of these has its own name. ``tl`` is read from memory."""
    b = GraphBuilder("called")
    x = b.input("x", (4, 4, 4))
    y = b.conv2d(x, 4, 1, name="c1")
    y = b.add("args", b.add("args", b.add("not", y), b.add("not", b.relu(y))), x)
    graph = b.build(b.linear(b.flatten(y), 3, name="fc"))
    assert all(c.ok for c in verify(graph, mode="infer", batch=2))


def test_a_scope_gives_no_name_twice_and_none_that_is_taken() -> None:
    scope = Scope({"mask"})
    assert [scope.free(stem) for stem in ("mask", "is", "a.b", "a.b")] == ["mask2", "is2", "a_b", "a_b"]
    assert [scope.take(stem) for stem in ("a.b", "a_b", "a-b", "c2", "c", "c", "c")] == [
        "a_b", "a_b2", "a_b3", "c2", "c", "c3", "c4"]  # fmt: skip
    assert scope.free("a_b") == "a_b4" and "a_b4" not in scope
