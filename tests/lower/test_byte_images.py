"""Images of bytes on the device: a convolution forms them as it loads them, or one kernel does, amid zeros.

Without these a network on bytes could be wrong at an edge, where padding is 0 only after normalisation, or move other
bytes than it states.
"""

import numpy as np
import pytest
import torch

import tricnn
from tricnn.check.counting import BytesCounted
from tricnn.check.races import RacesFound
from tricnn.check.verify import both, compiled, verify_model
from tricnn.emit.emit import emit
from tricnn.ir import GraphBuilder, of_bytes
from tricnn.lower.from_graph import lowered
from tricnn.run.triton_executor import launching

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def declared(height, width, filters, kernel, padding, pooled):
    b = GraphBuilder("stem")
    x = b.input("x", (3, height, width))
    x = b.conv2d(x, filters, kernel, stride=2, padding=padding, bias=False, name="conv1")
    x = b.relu(b.batch_norm(x, name="bn1"))
    x = b.max_pool2d(x, 3, 2, padding=1) if pooled else x
    return of_bytes(b.build(b.linear(b.global_avg_pool(x), 5, name="fc")), MEAN, STD)


SMALL = declared(15, 30, 16, (5, 3), (2, 1), pooled=False)


def windows(program):
    """Which functions of a program read windows."""
    return [f.name for f in program.functions if "conv2d_windows" in f.call]


@pytest.fixture(scope="module", params=["on load", "formed once"])
def model(request):
    fuse = "all" if request.param == "on load" else "none"
    return compiled(SMALL, mode="train", batch=2, dtype="bf16", fuse=fuse)


def test_every_value_is_right_every_byte_counted_and_no_element_shared(model):
    counted, races = BytesCounted(model, 2), RacesFound(model, 2)
    assert all(check.ok for check in verify_model(model, 2, watch=both(counted, races)))
    assert [x.launch.function for x in counted.launches if not x.ok] == []
    assert races.races == []


def test_who_reads_the_bytes_reads_one_for_each_value(model):
    program, whole = model.program, np.prod(model.plan.type("x").at(2))
    reading = [launch for launch in program.launches if "x" in launch.reads]
    if model.plan.policy == "all":  # the convolution and its gradient by the weights
        assert len(reading) == 2 and windows(program) == []
        assert all(0.9 * whole < program.moved(launch, 2)["x"].read <= whole for launch in reading)
    else:
        (forming,) = reading
        packed = program.buffers["x.normalised"]
        assert len(windows(program)) == 2 and packed.packing.left >= 3  # a column of padding
        assert program.moved(forming, 2)["x"].read == whole
        assert program.moved(forming, 2)["x.normalised"].written == 2 * 2 * packed.packing.elements  # the zeros, too


@pytest.mark.parametrize(("fuse", "kernels"), [("auto", 1), ("all", 0)])
def test_it_is_formed_once_where_time_says_so(fuse, kernels):
    """At the size of a real batch each pixel would be formed 49/4 times, and again for the gradient."""
    program = lowered(declared(224, 224, 64, 7, 3, pooled=True), "train", 256, "bf16", "sm_90", fuse=fuse)
    assert sum("x" in launch.reads and launch.kind == "pointwise" for launch in program.launches) == kernels
    assert len(windows(program)) == 2 * kernels
    assert program.buffers["x"].bytes(256) == 256 * 3 * 224 * 224
    assert '"x": torch.empty(N * 150528, dtype=torch.uint8, device=device)' in emit(program)


def test_the_emitted_file_takes_bytes_where_its_inputs_say(model):
    """Its ``inputs``, ``step`` and ``main`` alone, beside the NumPy executor."""
    module, images = model.executor.module, np.random.default_rng(3).integers(0, 256, (2, 3, 15, 30), dtype=np.uint8)
    tensors = module.allocate(2, "cpu", module.load(model.state_dict(), "cpu"))
    views = module.inputs(tensors, 2)
    assert views["x"].dtype == torch.uint8 and tuple(views["x"].shape) == (2, 3, 15, 30)
    views["x"].copy_(torch.from_numpy(images))
    views["labels"].copy_(torch.tensor([1, 4]))
    with launching():
        module.step(tensors, 2)
    wanted = tricnn.compile(SMALL, "train", 2, executor="numpy")
    wanted.load_state_dict(model.state_dict())
    loss, _ = wanted.loss_and_grads(images, np.array([1, 4]))
    assert float(module.results(tensors, 2)["loss"]) == pytest.approx(loss, rel=0.02)
    assert "view.copy_(torch.randint(256, view.shape))" in model.source
