"""``tricnn.to_onnx``: onnx's reference evaluator, and onnxruntime where it is installed, compute what we compute, and
the file comes back as it went."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import tricnn
from tests.frontends import modules, modules_by_hand
from tests.frontends.judge import lively


def network(name: str) -> tuple[tricnn.Graph, tricnn.Model]:
    """A network with weights drawn, its running statistics away from 0 and 1."""
    if name in tricnn.graphs.ARCHITECTURES:
        graph = tricnn.graphs.ARCHITECTURES[name](**tricnn.graphs.SMALL[name])
        m = tricnn.compile(graph, batch=2)
        rng = np.random.default_rng(0)
        drawn = {n: x if x.ndim > 1 else rng.uniform(0.5, 1.5, x.shape) for n, x in m.state_dict().items()}
        m.load_state_dict(drawn)
        return graph, m
    shape = {"Mobile": (3, 10, 10), "Arithmetic": (2, 7, 7), "Many": (2, 6, 6)}.get(name, (3, 6, 5))
    graph, state = tricnn.from_torch(lively(CLASSES[name]()), (2, *shape), cache=False)
    m = tricnn.compile(graph, batch=2)
    m.load_state_dict(state)
    return graph, m


NAMES = ["lenet", "resnet18"]
CLASSES = vars(modules) | vars(modules_by_hand)
SLOW = ["ChannelMasks", "Mobile", "Arithmetic", "Many", "Standardized"]
SLOW += [n for n in tricnn.graphs.ARCHITECTURES if n not in NAMES]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_the_same_logits_there_and_back(name: str) -> None:
    graph, m = network(name)
    x = np.random.default_rng(1).normal(size=(2, *graph.types[graph.inputs[0].name].per_image)).astype(np.float32)
    y = m(x)
    right = list(y.values()) if isinstance(y, dict) else [y]
    for fold in (False, True):
        model = tricnn.to_onnx(graph, m.state_dict(), fold=fold)
        kinds = {node.op_type for node in model.graph.node}
        if name in ("resnet18", "vgg11_bn", "googlenet_bn"):
            assert ("BatchNormalization" in kinds) == (not fold)
        back, state = tricnn.from_onnx(model)
        again = tricnn.compile(back, batch=2)
        again.load_state_dict(state)
        found = again(x)
        evaluated = ReferenceEvaluator(model).run(None, {graph.inputs[0].name: x})
        others = [evaluated]
        if find_spec("onnxruntime"):
            from onnxruntime import InferenceSession

            session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            others.append(session.run(None, {graph.inputs[0].name: x}))
        for by in (list(found.values()) if isinstance(found, dict) else [found], *others):
            for one, other in zip(by, right, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(np.abs(other).max()))


def test_a_file_and_what_does_not_fit(tmp_path: Path) -> None:
    graph, m = network("lenet")
    tricnn.to_onnx(graph, m.state_dict(), tmp_path / "lenet.onnx")
    back, state = tricnn.from_onnx(tmp_path / "lenet.onnx")
    assert back.num_parameters == graph.num_parameters
    assert set(state) == set(m.state_dict())
    with pytest.raises(tricnn.TricnnError, match=r"weights do not fit lenet: missing conv1\.weight"):
        tricnn.to_onnx(graph, {})
    b = tricnn.GraphBuilder("odd")
    x = b.input("x", (4, 5, 5))
    x = b.local_response_norm(b.adaptive_avg_pool2d(x, 3), 2)
    with pytest.raises(tricnn.TricnnError, match=r"2 layers not in operator set 17: .*5x5 to 3x3.*; .*of size 2"):
        tricnn.to_onnx(b.build(x), {})


def test_sums_means_and_maxima_over_channels() -> None:
    b = tricnn.GraphBuilder("masks")
    x = b.input("x", (5, 3, 4))
    b.output(b.concat([b.mean_channels(x), b.max_channels(x), b.add("sum_channels", x)]), "y")
    model = tricnn.to_onnx(b.build(), {})
    assert {"ReduceMean", "ReduceMax", "ReduceSum"} <= {node.op_type for node in model.graph.node}
    images = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    right = np.stack([images.mean(1), images.max(1), images.sum(1)], 1)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": images})[0], right, rtol=1e-5, atol=1e-6)
    again = tricnn.compile(tricnn.from_onnx(model)[0], batch=2, executor="numpy")
    np.testing.assert_allclose(again(images), right, rtol=1e-5, atol=1e-6)
