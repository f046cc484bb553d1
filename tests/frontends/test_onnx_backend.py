"""onnx's own interface: its tests of single operators, and its reference evaluator."""

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tricnn
from tricnn.frontends.onnx_backend import TricnnBackend
from tricnn.frontends.onnx_ops import ONNX

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)
WEIGHT = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
SIZES = np.array([2, 4, 12, 12], np.int64)

#: operator -> inputs after the image, attributes
NODES = {
    "Conv": ([WEIGHT], {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}),
    "MaxPool": ([], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "AveragePool": ([], {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 1}),
    "Resize": ([np.zeros(0, np.float32), np.zeros(0, np.float32), SIZES], {"mode": "linear"}),
    "DepthToSpace": ([], {"blocksize": 2}),
    "SpaceToDepth": ([], {"blocksize": 2}),
    "PRelu": ([np.array([0.3], np.float32)], {}),
    "HardSwish": ([], {}),
}


@pytest.mark.parametrize("op", NODES)
def test_an_operator_gives_what_onnx_says(op):
    constants, attributes = NODES[op]
    inputs = [IMAGE, *constants]
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(op, names, ["y"], **attributes)
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for n, x in zip(names, inputs)]  # fmt: skip
    model = helper.make_model(
        helper.make_graph([node], "node", given, [helper.make_tensor_value_info("y", 1, None)]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=10,
    )  # fmt: skip
    (expected,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))
    (found,) = TricnnBackend.run_node(node, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "op, attributes, says",
    [
        ("Resize", {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, "mode linear"),
        ("Resize", {"mode": "nearest", "nearest_mode": "ceil"}, "mode nearest with half_pixel, ceil"),
    ],
)
def test_a_rule_that_is_not_pytorchs_is_refused(op, attributes, says):
    sizes = np.array([2, 4, 1 if "linear" in says else 12, 12], np.int64)
    node = helper.make_node(op, ["x", "", "", "sizes"], ["y"], **attributes)
    with pytest.raises(tricnn.TricnnError, match=says):
        TricnnBackend.run_node(node, [IMAGE, sizes])


def test_inputs_of_any_rank_are_rows():
    cube = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    given = [helper.make_tensor_value_info("x", 1, [3, 4, 5])]
    results = [helper.make_tensor_value_info("y", 1, [3, 4, 5])]
    model = helper.make_model(helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", given, results))
    assert TricnnBackend.is_compatible(model) and TricnnBackend.supports_device("CPU")
    rep = TricnnBackend.prepare(model)
    np.testing.assert_allclose(rep.run([cube])[0], np.tanh(cube), rtol=1e-6)
    with pytest.raises(tricnn.TricnnError, match="its inputs are arrays"):
        rep.run([1.5])
    with pytest.raises(tricnn.TricnnError, match="2 inputs given, it takes x"):
        rep.run([cube, cube])


#: why a test is refused, as the page says it, and the words of the message
REASONS = {
    "numbers that are not real, or a cast to them": r"holds (U?INT|BOOL)|a cast to|must hold floating-point",
    "NaN or infinity among the inputs of `Cast`": "NaN or infinity",
    "the batch among other axes; axes that are mixed": "made of|batch|everything|dimensions? .?0|seen as",
    "two batches as inputs; a number for each element": "alone|two layers|arithmetic|a power of a tensor|slopes|a bias",
    "`Resize` by rules that PyTorch has not": "Resize",
    "norms over several axes, or the columns of images": "norm over",
    "results that are shapes, masks, statistics, places": "neither a layer|nothing computes",
    "three dimensions": r"applied to \[N(, \d+){4}",
    "products of what is neither features nor pixels": "dense layer",
    "a size that is left open": "'\\?'",
    "paddings, dilated poolings, others": "",
}


def numbers(x: object) -> object:
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


@pytest.mark.slow
def test_onnxs_tests_of_operators():
    """None gives another result; those that pass are as many as the page says, and the others have its reasons."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    known = {*ONNX, "Constant", "Shape"}
    drawn = re.compile("test_training_dropout(?!_zero)")  # what NumPy draws
    cases = [case for case in cases if {n.op_type for n in case.model.graph.node} <= known]
    cases = [case for case in cases if not drawn.match(case.name)]
    passed, wrong, refused = 0, [], Counter()
    for case in cases:
        sets = [[[numbers(x) for x in part] for part in parts] for parts in case.data_sets]
        try:
            rep = TricnnBackend.prepare(case.model)
            results = [(rep.run(inputs), outputs) for inputs, outputs in sets]
        except tricnn.TricnnError as error:
            refused[next(reason for reason, words in REASONS.items() if re.search(words, str(error)))] += 1
            continue
        fine = all(
            y.shape == np.shape(e)
            and np.allclose(y, e, rtol=max(case.rtol, 1e-4), atol=max(case.atol, 1e-5), equal_nan=True)
            for found, outputs in results
            for y, e in zip(found, outputs, strict=True)
        )
        passed += fine
        wrong += [] if fine else [case.name]
    assert wrong == []
    page = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()
    count, good = map(
        int, re.search(r"single operators,\s+(\d+) have.*?of these\s+(\d+)\s+give", page, re.DOTALL).groups()
    )
    table = {reason: int(n) for reason, n in re.findall(r"^\| (.*?) +\| +(\d+) \|$", page, re.MULTILINE)}
    if onnx.__version__.startswith("1.23"):
        assert (len(cases), passed, table) == (count, good, dict(refused))
