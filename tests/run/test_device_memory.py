"""What a compiled model holds on its device is what it states, and nothing is held twice."""

import numpy as np
import pytest

import tricnn
from tests.lower.test_emit import residual
from tricnn.compiler.pipeline import planned
from tricnn.graphs import resnet18
from tricnn.lower.lower import lower


@pytest.mark.parametrize("mode, dtype", [("infer", "fp32"), ("infer", "bf16"), ("train", "fp32"), ("train", "bf16")])
def test_a_model_holds_what_it_states(mode: str, dtype: str) -> None:
    model = tricnn.compile(residual(), mode, 4, dtype, "triton")
    held = {}
    for x in (*model.executor.bind(4).values(), *model.executor.persistent.values()):
        if hasattr(x, "untyped_storage"):  # not a descriptor
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    assert sum(held.values()) == model.program.peak_memory_bytes(4)


def test_another_batch_has_the_same_parameters() -> None:
    model = tricnn.compile(residual(), "train", 4, "bf16", "triton")
    first, second = model.executor.bind(4), model.executor.bind(2)
    assert model.program.parameters
    for name in model.program.parameters:
        assert first[name].data_ptr() == second[name].data_ptr(), name


def test_folded_inference_of_resnet18_holds_its_folded_weights_only() -> None:
    """Of 20 convolutions a weight and a bias each, and the dense layer: batch norm's four vectors are gone."""
    graph = resnet18()
    program = lower(planned(graph, "infer", "all"), "fp32", 1)
    shapes = {n.name: graph.types[n.name].per_image for n in graph.parameters}
    weights = [shape for shape in shapes.values() if len(shape) == 4]
    folded = sum(int(np.prod(shape)) + shape[0] for shape in weights) + 512 * 1000 + 1000
    assert len(weights) == 20
    assert sum(program.buffers[name].bytes(1) for name in program.parameters) == 4 * folded


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_was_loaded_is_given_back_although_it_was_folded(dtype: str) -> None:
    model = tricnn.compile(residual(), "infer", 2, dtype, "triton")
    reference = tricnn.compile(residual(), "infer", 2, "fp32", "numpy", seed=3)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    assert not np.allclose(model(x), reference(x), rtol=0.05, atol=0.02)
    model.load_state_dict(reference.state_dict())
    for name, want in reference.state_dict().items():
        assert model.state_dict()[name].tobytes() == want.tobytes(), name
    np.testing.assert_allclose(model(x), reference(x), rtol=0.05, atol=1e-5 if dtype == "fp32" else 0.02)
