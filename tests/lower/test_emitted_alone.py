"""What ``compile --out`` writes runs by itself: weights in by PyTorch's names, results out in its shapes, in the memory
that was stated, in a process that cannot import tricnn."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import tricnn
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit
from tricnn.ir import Graph, GraphBuilder
from tricnn.ir.table import OPS
from tricnn.lower.lower import lower
from tricnn.lower.program import Program

BATCH = 3
SCRIPT = """
import contextlib, importlib.util, io, sys, torch
sys.modules["tricnn"] = None  # importing it fails

def module_of(name):
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def held(t):
    tensors = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in t.values() if torch.is_tensor(x)}
    return sum(tensors.values())

def filled(module, given):
    t = module.allocate(N, "cpu", module.load(given["state"], "cpu"))
    for name, view in module.inputs(t, N).items():
        view.copy_(given[name])
    return t

given, N = torch.load("given.pt"), int(sys.argv[1])
infer, train = module_of("infer"), module_of("train")
t = filled(infer, given)
infer.step(t, N)
found = {"outputs": {k: y.clone() for k, y in infer.results(t, N).items()}, "memory": {"infer": held(t)}}
t = filled(train, given)
train.step(t, N)
found["loss"] = train.results(t, N)["loss"].item()
found["gradients"] = {k: g.clone() for k, g in train.gradients(t).items()}
train.sgd(t, 0.5)
found["state"], found["memory"]["train"] = train.state_dict(t), held(t)

state = {k: x for k, x in given["state"].items() if k != "fc.bias"} | {"head.weight": torch.ones(2)}
state["fc.weight"] = state["fc.weight"].T
try:
    infer.load(state, "cpu")
except ValueError as error:
    found["problems"] = str(error)

said = io.StringIO()
with contextlib.redirect_stdout(said):
    module_of("tiny_infer").main("tiny.pth", "5")
    train = module_of("tiny_train")
    train.main()
found["said"] = said.getvalue()
train.triton.knobs.runtime.interpret = False
torch.cuda.is_available = lambda: False
try:
    train.main()
except SystemExit as error:
    found["without"] = str(error)
torch.save(found, "found.pt")
"""


def network() -> Graph:
    """Convolutions that become one with their batch norms, one of another, two of the same image, a dense layer that
    reads an image, a standardised weight, one slope for all channels; two outputs, one of them within a larger tensor;
    a head that only training has."""
    b = GraphBuilder("alone")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 4, 4)), 4, 3, padding=1, bias=False, name="stem"), name="bn"))
    branches = [b.batch_norm(b.conv2d(x, 4, k, padding=k // 2, bias=False)) for k in (3, 1)]
    x = b.relu(b.add_(b.add_(*branches), b.batch_norm(x)))
    w = b.add("standardize_filters", b.parameter("std.weight", (4, 4, 3, 3), "he_normal"))
    w = b.add("scale_filters", w, b.parameter("std.gain", (4,), "constant(1)"))
    x = b.add("conv2d", x, w, padding=1, name="std")
    x = b.add("prelu", x, b.add("repeat_number", b.parameter("act.weight", (1,), "constant(0.25)"), channels=4))
    left, right = (b.relu(b.batch_norm(b.conv2d(x, k, 1))) for k in (3, 5))
    x = b.concat([left, right])
    b.output(b.linear(b.flatten(b.global_avg_pool(x)), 2, name="aux"), "aux", loss_weight=0.5, training_only=True)
    b.output(b.linear(b.flatten(b.max_pool2d(x, 2)), 4, name="fc"), "logits")
    return b.build()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the emitted files found, in one process for both; beside it what they were given, and their programs."""
    folder, graph = tmp_path_factory.mktemp("alone"), network()
    programs = {mode: lower(planned(graph, mode, "all"), "fp32", 8) for mode in ("infer", "train")}
    for mode, program in programs.items():
        (folder / f"{mode}.py").write_text(emit(program))
    b = GraphBuilder("tiny")
    tiny = b.build(b.linear(b.input("x", (4,)), 2, name="fc"))
    for mode in programs:
        plan = planned(tiny, mode, "all", loss=tricnn.Loss(scaled=True))  # of training: of a loss that is scaled
        (folder / f"tiny_{mode}.py").write_text(emit(lower(plan, "fp32", 8)))
    torch.save({"fc.weight": torch.zeros(2, 4), "fc.bias": torch.ones(2)}, folder / "tiny.pth")
    generator = torch.Generator().manual_seed(0)
    shapes = {n.name: graph.types[n.name].per_image for n in (*graph.parameters, *graph.buffers)}
    state = {name: torch.rand(shape, generator=generator) - 0.5 * (len(shape) > 1) for name, shape in shapes.items()}
    state["bn.num_batches_tracked"] = torch.tensor(7)
    given = {
        "state": state,
        "x": torch.randn((BATCH, 3, 4, 4), generator=generator),
        "labels": torch.tensor([0, 1, 1]),
    }
    torch.save(given, folder / "given.pt")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SCRIPT, str(BATCH)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {**given, "graph": graph, "programs": programs, "found": torch.load(folder / "found.pt")}


def test_outputs_loss_gradients_and_statistics_are_those_of_the_definition(alone: dict) -> None:
    """The NumPy executor's of the unfused graph, in float64; after a step of SGD at rate 0.5 the weights, too."""
    found, state = alone["found"], {k: x.double().numpy() for k, x in alone["state"].items()}
    infer, train = (tricnn.compile(alone["graph"], mode, BATCH, "fp64", "numpy", fuse=False) for mode in
                    ("infer", "train"))  # fmt: skip
    infer.load_state_dict(state)
    train.load_state_dict(state)
    x = alone["x"].double().numpy()
    assert set(found["outputs"]) == {"logits"}
    np.testing.assert_allclose(found["outputs"]["logits"], infer(x), rtol=1e-4, atol=1e-5)
    loss, gradients = train.loss_and_grads(x, alone["labels"].numpy())
    assert found["loss"] == pytest.approx(loss, rel=1e-5) and set(found["gradients"]) == set(gradients)
    after = train.state_dict()
    for name, wanted in gradients.items():
        np.testing.assert_allclose(found["gradients"][name], wanted, rtol=1e-3, atol=1e-5, err_msg=name)
        after[name] = after[name] - 0.5 * wanted
    assert set(found["state"]) == set(after)
    for name, wanted in after.items():
        np.testing.assert_allclose(found["state"][name], wanted, rtol=1e-3, atol=1e-5, err_msg=name)


def test_it_holds_the_memory_that_is_stated(alone: dict) -> None:
    """For another batch than it was compiled for."""
    for mode, program in alone["programs"].items():
        assert isinstance(program, Program)
        assert alone["found"]["memory"][mode] == program.peak_memory_bytes(BATCH) != program.peak_memory_bytes(8)


def test_weights_that_do_not_fit_are_all_named_at_once(alone: dict) -> None:
    problems = alone["found"]["problems"]
    assert problems.startswith("weights do not fit: ")
    for part in ("missing fc.bias", "unexpected head.weight", "fc.weight has shape (32, 4), needs (4, 32)"):
        assert part in problems
    assert "aux.weight" not in problems  # the head of training, which the state_dict has, and inference does not need


def test_run_as_a_program_it_says_what_it_computed_or_what_it_needs(alone: dict) -> None:
    found = alone["found"]
    lines = found["said"].splitlines()
    assert lines[0] == "logits [5, 2]: mean 1, deviation 0"  # weights 0 and biases 1 of the file that was named
    assert [line.split(":")[0] for line in lines[1:]] == ["step 0", "step 1", "step 2"]
    losses = [float(line.split()[-1]) for line in lines[1:]]
    assert losses[2] < losses[1] < losses[0]
    assert "needs a GPU" in found["without"] and "TRITON_INTERPRET=1" in found["without"]
    assert "\n" not in found["without"]


def test_every_operation_on_weights_alone_has_a_text(alone: dict) -> None:
    """What passes make of weights in inference; this network has all of them, so that they were computed above."""
    made = {node.op for node in alone["programs"]["infer"].plan.prepared}
    assert made >= {name for name, row in OPS.items() if row.prepared} | {"concat_filters", "concat", "add"}
    assert all(OPS[op].torch is not None or OPS[op].scalar is not None for op in made)
