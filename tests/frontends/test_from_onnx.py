"""``tricnn.from_onnx`` against onnx's own reference evaluator."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import tricnn
from tricnn.cli import main

RNG = np.random.default_rng(0)
SHAPE = (4, 8, 8)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def model(nodes: list[Any], constants: dict[str, Any], *, opset: int = 20, shape: tuple[int, ...] = SHAPE,
          batch: Any = "batch", outputs: tuple[str, ...] = ("y",)) -> Any:  # fmt: skip
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check(proto: Any, shape: tuple[int, ...] = SHAPE, batch: int = 3) -> tricnn.Graph:
    graph, state = tricnn.from_onnx(proto)
    m = tricnn.compile(graph, batch=batch)
    m.load_state_dict(state)
    x = RNG.normal(size=(batch, *shape)).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, {"x": x})
    found = m(x)
    found = list(found.values()) if isinstance(found, dict) else [found]
    for y, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(right).max())))
    return graph


def one(op: str, *constants: Any, **attributes: Any) -> Any:
    """A model of one operator on x."""
    names = [f"c{i}" for i in range(len(constants))]
    inputs = ["x", *(n if c is not None else "" for n, c in zip(names, constants))]
    known = {n: c for n, c in zip(names, constants) if c is not None}
    return model([helper.make_node(op, inputs, ["y"], **attributes)], known)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


F32 = np.float32
node = helper.make_node


def gather_of_exporters() -> Any:
    """A mean over pixels as PyTorch's exporter writes ConvNeXt's, by places that are counted from the open batch."""
    nodes = [
        node("ReduceMean", ["x", "pixels"], ["m"]), node("Reshape", ["m", "row"], ["r"]), node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]), node("Range", ["zero", "n", "one"], ["images"]),
        node("Mul", ["images", "four"], ["starts"]), node("Reshape", ["starts", "column"], ["c"]),
        node("Add", ["c", "channels"], ["places"]), node("Gather", ["r", "places"], ["y"]),
    ]  # fmt: skip
    counted = {"zero": np.int64(0), "one": np.int64(1), "four": i64(4), "row": i64(-1), "column": i64(-1, 1, 1, 1)}
    return model(nodes, {**counted, "pixels": i64(2, 3), "channels": np.arange(4).reshape(1, 4, 1, 1)})


def group_norm_of_exporters() -> Any:
    """Group norm as PyTorch's exporter writes it up to operator set 20."""
    nodes = [
        node("Reshape", ["x", "groups"], ["r"]), node("InstanceNormalization", ["r", "ones", "zeros"], ["n"]),
        node("Shape", ["x"], ["s"]), node("Reshape", ["n", "s"], ["z"]), node("Mul", ["z", "g"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]  # fmt: skip
    return model(nodes, {"groups": i64(0, 2, -1), "ones": np.ones(2, F32), "zeros": np.zeros(2, F32),
                         "g": weights(4, 1, 1), "b": weights(4, 1, 1)})  # fmt: skip


ALIKE = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Neg", "Abs", "Exp"]
CASES: dict[str, Any] = {
    "Conv": lambda: one("Conv", weights(6, 2, 3, 3), weights(6), group=2, strides=[2, 1], pads=[0, 1, 2, 1]),
    "Conv SAME_UPPER": lambda: one("Conv", weights(6, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv SAME_LOWER": lambda: one("Conv", weights(6, 4, 4, 2), auto_pad="SAME_LOWER", strides=[1, 1]),
    "Conv VALID": lambda: one("Conv", weights(6, 4, 3, 3), auto_pad="VALID", dilations=[2, 1]),
    "ConvTranspose": lambda: one("ConvTranspose", weights(4, 3, 3, 3), weights(3), strides=[2, 2], pads=[1, 1, 1, 1],
                                 output_padding=[1, 1]),
    "MaxPool": lambda: one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
    "AveragePool": lambda: one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool counted": lambda: one("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1),
    "GlobalAveragePool": lambda: one("GlobalAveragePool"),
    "GlobalMaxPool": lambda: one("GlobalMaxPool"),
    "ReduceMean": lambda: one("ReduceMean", i64(2, 3), keepdims=0),
    "ReduceMax": lambda: one("ReduceMax", i64(-1, -2)),
    "ReduceSum": lambda: one("ReduceSum", i64(2, 3)),
    "BatchNormalization": lambda: one("BatchNormalization", weights(4), weights(4), weights(4), positive(4),
                                      epsilon=1e-3),
    "Clip": lambda: one("Clip", F32(-0.5), F32(0.7)),
    "Clip at 6": lambda: one("Clip", F32(0), F32(6)),
    "HardSigmoid": lambda: one("HardSigmoid", alpha=0.3, beta=0.4),
    "HardSigmoid of PyTorch": lambda: one("HardSigmoid", alpha=1 / 6),
    "Elu": lambda: one("Elu", alpha=1.3),
    "Selu": lambda: one("Selu"),
    "LeakyRelu": lambda: one("LeakyRelu", alpha=0.2),
    "PRelu": lambda: one("PRelu", positive(4, 1, 1)),
    "PRelu of one": lambda: one("PRelu", positive(1)),
    "Gelu": lambda: one("Gelu"),
    "Gelu tanh": lambda: one("Gelu", approximate="tanh"),
    "Add by channel": lambda: one("Add", weights(4, 1, 1)),
    "Sub by channel": lambda: one("Sub", weights(1, 4, 1, 1)),
    "Mul by number": lambda: one("Mul", F32(3.0)),
    "Div by number": lambda: one("Div", F32(3.0)),
    "Pow": lambda: one("Pow", F32(2.0)),
    "Max": lambda: model([node("Neg", ["x"], ["n"]), node("Max", ["x", "n"], ["y"])], {}),
    "Pad": lambda: one("Pad", i64(0, 0, 1, 0, 0, 0, 2, 1)),
    "Pad reflect": lambda: one("Pad", i64(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    "Pad edge": lambda: one("Pad", i64(0, 0, 1, 0, 0, 0, 2, 3), mode="edge"),
    "Pad wrap": lambda: one("Pad", i64(0, 0, 1, 8, 0, 0, 2, 0), mode="wrap"),
    "Pad by axes": lambda: one("Pad", i64(1, 2), None, i64(3)),
    "Slice": lambda: one("Slice", i64(1, 2), i64(3, 100), i64(1, 3)),
    "Slice by steps": lambda: one("Slice", i64(1, 0), i64(8, 8), i64(2, 3), i64(2, 3)),
    "Gather of one": lambda: model(
        [node("Gather", ["x", "i"], ["g"], axis=1), node("Unsqueeze", ["g", "axis"], ["y"])],
        {"i": np.int64(-2), "axis": i64(1)}),
    "Gather of some": lambda: one("Gather", i64(2, 0, -1), axis=1),
    "Gather of rows": lambda: one("Gather", i64(1, 3, 5), axis=2),
    "Gather of channels": lambda: one("Gather", i64(1, 2), axis=1),
    "Gather of exporters": lambda: gather_of_exporters(),
    "Flatten": lambda: one("Flatten"),
    "Reshape": lambda: one("Reshape", i64(0, -1)),
    "Shuffle": lambda: model(
        [node("Reshape", ["x", "a"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
         node("Reshape", ["t", "b"], ["y"])], {"a": i64(-1, 2, 2, 8, 8), "b": i64(-1, 4, 8, 8)}),
    "Split and Concat": lambda: model(
        [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "x", "a"], ["y"], axis=1)],
        {"s": i64(1, 3)}),
    "Transpose back": lambda: model(
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Mul", ["t", "g"], ["m"]),
         node("Transpose", ["m"], ["y"], perm=[0, 3, 1, 2])], {"g": weights(4)}),
    "Resize nearest": lambda: one("Resize", None, np.array([1, 1, 2, 3], F32), nearest_mode="floor",
                                  coordinate_transformation_mode="asymmetric"),
    "Resize linear": lambda: one("Resize", None, np.array([1, 1, 2, 2], F32), mode="linear"),
    "Resize corners": lambda: one("Resize", None, np.array([1, 1, 2, 2], F32), mode="linear",
                                  coordinate_transformation_mode="align_corners"),
    "DepthToSpace": lambda: one("DepthToSpace", blocksize=2, mode="CRD"),
    "DepthToSpace DCR": lambda: one("DepthToSpace", blocksize=2),
    "SpaceToDepth": lambda: one("SpaceToDepth", blocksize=2),
    "SiLU": lambda: model([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {}),
    "a gate": lambda: model([node("GlobalAveragePool", ["x"], ["g"]), node("Mul", ["x", "g"], ["y"])],
                            {}),
    "InstanceNormalization": lambda: one("InstanceNormalization", positive(4), weights(4), epsilon=1e-2),
    "GroupNormalization": lambda: one("GroupNormalization", positive(2), weights(2), num_groups=2),
    "group norm of exporters": lambda: group_norm_of_exporters(),
    "RMSNormalization": lambda: model(
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("RMSNormalization", ["t", "g"], ["m"]),
         node("Transpose", ["m"], ["y"], perm=[0, 3, 1, 2])], {"g": weights(4)}, opset=23),
    "Softmax": lambda: one("Softmax", axis=1),
    "LogSoftmax": lambda: one("LogSoftmax", axis=-3),
    "LogSoftmax of features": lambda: model(
        [node("Flatten", ["x"], ["f"]), node("LogSoftmax", ["f"], ["y"])], {}),
    "Max of a number": lambda: one("Max", F32(0.3)),
    "ConvTranspose SAME_UPPER": lambda: one("ConvTranspose", weights(4, 3, 4, 3), auto_pad="SAME_UPPER",
                                            strides=[3, 2]),
    "ConvTranspose output_shape": lambda: one("ConvTranspose", weights(4, 3, 3, 3), strides=[3, 2],
                                              output_shape=[25, 17]),
    "ReduceSum of nothing": lambda: one("ReduceSum", i64(), noop_with_empty_axes=1),
    **{op: (lambda op=op: one(op)) for op in ALIKE},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    check(CASES[name]())


SIGNAL = (4, 9)
SIGNALS: dict[str, Any] = {
    "Conv": lambda: [node("Conv", ["x", "w"], ["y"], pads=[1, 2], strides=[2], auto_pad="NOTSET")],
    "ConvTranspose": lambda: [node("ConvTranspose", ["x", "u"], ["y"], strides=[2], output_padding=[1])],
    "MaxPool": lambda: [node("MaxPool", ["x"], ["y"], kernel_shape=[3], pads=[1, 1], strides=[2])],
    "GlobalAveragePool": lambda: [node("GlobalAveragePool", ["x"], ["y"])],
    "BatchNormalization": lambda: [node("BatchNormalization", ["x", "p", "p", "p", "p"], ["y"])],
    "Mul": lambda: [node("Mul", ["x", "column"], ["y"])],
    "Softmax": lambda: [node("Softmax", ["x"], ["y"], axis=2)],
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_images_of_one_column(name: str) -> None:
    constants = {"w": weights(6, 4, 3), "u": weights(4, 6, 3), "p": positive(4), "column": weights(4, 1)}
    proto = model(SIGNALS[name](), constants, shape=SIGNAL)
    graph, state = tricnn.from_onnx(proto)
    m = tricnn.compile(graph, batch=3)
    m.load_state_dict(state)
    x = RNG.normal(size=(3, *SIGNAL)).astype(np.float32)
    (right,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(m(x[..., None]), right.reshape(3, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: one("Cast", to=TensorProto.INT32), "a cast to INT32; supported are FLOAT, FLOAT16, DOUBLE, BFLOAT16"),
        (lambda: one("CastLike", i64(1)), "a cast to INT64"),
        (lambda: one("ReduceMean", i64()), "a reduction over everything"),
        (lambda: one("Pow", F32(5)), "a power of 5; supported are powers of 1/4, 1/2, 1, 2, 3, 4"),
    ],
)
def test_what_would_give_other_numbers_is_refused(make: Any, says: str) -> None:
    with pytest.raises(tricnn.TricnnError) as caught:
        tricnn.from_onnx(make())
    assert says in str(caught.value)


def test_lrn_is_pytorchs() -> None:
    """onnx's reference evaluator normalises as many channels as there are images."""
    graph, _ = tricnn.from_onnx(one("LRN", size=3, alpha=0.1, beta=0.6, bias=1.5))
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    right = torch.nn.functional.local_response_norm(torch.from_numpy(x), 3, 0.1, 0.6, 1.5)
    np.testing.assert_allclose(tricnn.compile(graph)(x), right, rtol=1e-5)


def test_softmax_before_operator_set_13_is_of_all_axes_from_one_on() -> None:
    """Which onnx's reference evaluator does not know."""
    graph, _ = tricnn.from_onnx(model([node("Softmax", ["x"], ["y"], axis=2)], {}, opset=11))
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    right = torch.from_numpy(x).flatten(2).softmax(2).view(x.shape)
    np.testing.assert_allclose(tricnn.compile(graph)(x), right, rtol=1e-5)


def erf_gelu(first: str) -> Any:
    """The two ways that exporters write gelu in."""
    end = [("Mul", ["x", "a"], "m"), ("Mul", ["m", "half"], "y")] if first == "x" else [
        ("Mul", ["x", "half"], "m"), ("Mul", ["m", "a"], "y")]  # fmt: skip
    steps = [("Div", ["x", "root"], "d"), ("Erf", ["d"], "e"), ("Add", ["e", "one"], "a"), *end]
    constants = {"root": F32(np.sqrt(2)), "one": F32(1), "half": F32(0.5)}
    return model([node(op, ins, [out]) for op, ins, out in steps], constants)


@pytest.mark.parametrize("first", ["x", "half"])
def test_patterns_are_one_layer(first: str) -> None:
    assert [n.op for n in check(erf_gelu(first)).nodes if n.inputs] == ["gelu"]
    assert [n.op for n in check(CASES["SiLU"]()).nodes if n.inputs] == ["silu"]


def network(opset: int = 20, batch: Any = "batch") -> Any:
    """A small classifier with shape arithmetic in PyTorch's old manner, and two ways to a dense layer."""
    norm = [f"bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        node("Conv", ["x", "conv1.weight"], ["z"], "/conv1/Conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["z", *norm], ["b"], "/bn1/BatchNormalization"),
        node("Relu", ["b"], ["r"], "/act/Relu"),
        node("MaxPool", ["r"], ["p"], "/pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Dropout", ["p"], ["q"], "/drop/Dropout"),
        node("Shape", ["q"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["q", "t"], ["f"], "/Reshape"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["g"], "/fc/Gemm", transB=1, alpha=0.5, beta=2.0),
        node("MatMul", ["g", "last"], ["m"], "/last/MatMul"),
        node("Add", ["m", "last_bias"], ["y"], "/last/Add"),
    ]  # fmt: skip
    return model(nodes, {
        "conv1.weight": weights(6, 4, 3, 3), "bn1.weight": positive(6), "bn1.bias": weights(6),
        "bn1.running_mean": weights(6), "bn1.running_var": positive(6), "zero": i64(0), "rest": i64(-1),
        "fc.weight": weights(5, 96), "fc.bias": weights(5), "last": weights(5, 3), "last_bias": weights(3),
    }, opset=opset, batch=batch)  # fmt: skip


@pytest.mark.parametrize("batch", ["batch", 1, None])
def test_a_network_with_shape_arithmetic(batch: Any) -> None:
    graph = check(network(batch=batch))
    layers = [n.name for n in graph.nodes if n.inputs]
    assert layers[:5] == ["conv1", "bn1", "act.Relu", "pool.MaxPool", "drop.Dropout"]
    assert "fc" in layers


def test_what_came_in_can_be_trained() -> None:
    graph, state = tricnn.from_onnx(network())
    m = tricnn.compile(graph, "train", batch=4, dtype="fp64", executor="numpy")
    m.load_state_dict(state)
    loss, grads = m.loss_and_grads(RNG.normal(size=(4, *SHAPE)), np.array([0, 1, 2, 0]))
    assert np.isfinite(loss)
    assert "conv1.weight" in grads


def test_files(tmp_path: Path, capsys: Any) -> None:
    """A file by itself, one with its weights beside it, and the command line."""
    proto = network()
    whole, parted = tmp_path / "whole.onnx", tmp_path / "parted.onnx"
    onnx.save(proto, whole)
    onnx.save_model(proto, parted, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (graph, state), (other, beside) = (tricnn.from_onnx(path) for path in (whole, parted))
    assert graph.nodes == other.nodes
    assert all(np.array_equal(state[name], x) for name, x in beside.items())
    assert main(["show", str(whole), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == graph.num_parameters


def test_everything_unknown_is_said_at_once() -> None:
    nodes = [node("CumSum", ["x", "axis"], ["a"], "/first"), node("Erf", ["a"], ["b"]),
             node("Det", ["x"], ["c"]), node("Selu", ["x"], ["y"])]  # fmt: skip
    with pytest.raises(tricnn.TricnnError) as caught:
        tricnn.from_onnx(model(nodes, {"axis": np.int64(1)}))
    assert str(caught.value).startswith(
        "net cannot be imported, 2 problems: CumSum (in first): not supported | Det: not"
    )


@pytest.mark.parametrize(
    ("pads", "mode", "says"),
    [
        ((0, 1, 0, 0, 0, 0, 0, 0), "edge", "replicate padding by [0, 0, 0, 0, 1, 0, 0, 0]; supported is "),
        ((0, 0, 8, 0, 0, 0, 0, 0), "reflect", "accepted are 0 to 7 rows and 7 columns"),
        ((0, 0, 0, 9, 0, 0, 0, 0), "wrap", "accepted are 0 to 8 rows and 8 columns"),
    ],
)
def test_borders_that_an_image_cannot_give_are_refused(pads: tuple[int, ...], mode: str, says: str) -> None:
    with pytest.raises(tricnn.TricnnError) as caught:
        tricnn.from_onnx(one("Pad", i64(*pads), mode=mode))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "absent.onnx", "there is no such file"),
        (lambda p: p, "it is a folder"),
        (lambda p: 3, "from_onnx takes a path or an onnx.ModelProto, not int"),
        (
            lambda p: model([node("Relu", ["x"], ["y"])], {}, opset=6),
            "operator set 6; supported are 7 to 28",
        ),
        (
            lambda p: model([node("Relu", ["x"], ["y"])], {}, shape=("c", 8, 8)),
            "give its (C, H, W) as input_sh",
        ),
        (lambda p: p.joinpath("bad.onnx").write_bytes(b"no model") and p / "bad.onnx", "not an ONNX model, or damaged"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(tmp_path: Path, make: Any, says: str) -> None:
    with pytest.raises(tricnn.TricnnError) as caught:
        tricnn.from_onnx(make(tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


#: parameters as they are published: Krizhevsky et al., Szegedy et al. (without the heads of training), He et al.,
#: Iandola et al. (version 1.1), Simonyan and Zisserman
PUBLISHED = {
    "bvlc_alexnet": 60_965_224, "inception_v1": 6_998_552, "resnet50": 25_557_032, "squeezenet": 1_235_496,
    "vgg19": 143_667_240, "densenet121": None, "inception_v2": None, "shufflenet": None, "zfnet512": None,
}  # fmt: skip


def light(name: str) -> Any:
    """A model that comes with onnx, without its last softmax, and with random weights in the place of those that it
    fills with one number, which give every class of every image the same."""
    proto = onnx.load(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    rng, graph = np.random.default_rng(0), proto.graph
    shapes = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    normalised = any(n.op_type == "BatchNormalization" for n in graph.node)
    for n in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        shape = tuple(shapes[n.input[0]])
        if len(shape) > 1:
            drawn = rng.normal(scale=np.sqrt(2 / np.prod(shape[1:])), size=shape)
        else:
            drawn = rng.uniform(0.5, 1.5, shape) if normalised else rng.normal(scale=0.1, size=shape)
        graph.node.remove(n)
        graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), n.output[0]))
    if (last := graph.node[-1]).op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.node.remove(last)
    return proto


class LRN(OpRun):
    """PyTorch's, for onnx's reference evaluator normalises as many channels as there are images."""

    def _run(self, x: Any, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        return (torch.nn.functional.local_response_norm(torch.from_numpy(x), size, alpha, beta, bias).numpy(),)


def judged(proto: Any, x: np.ndarray) -> np.ndarray:
    """The model's output by onnxruntime, or by onnx's reference evaluator where that is not installed."""
    stored = {t.name for t in proto.graph.initializer}
    name = next(v.name for v in proto.graph.input if v.name not in stored)
    if find_spec("onnxruntime"):
        from onnxruntime import InferenceSession

        session = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {name: x})[0]
    return ReferenceEvaluator(proto, new_ops=[LRN]).run(None, {name: x})[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_onnx_own_light_models(name: str) -> None:
    """Operator set 9, not simplified, at their own size: the logits are those of another runtime."""
    proto = light(name)
    graph, state = tricnn.from_onnx(proto)
    assert PUBLISHED[name] in (None, graph.num_parameters)
    assert set(state) == {n.name for n in (*graph.parameters, *graph.buffers)}
    m = tricnn.compile(graph, batch=1)
    m.load_state_dict(state)
    x = RNG.normal(size=(1, 3, 224, 224)).astype(np.float32)
    y, right = m(x), judged(proto, x)
    assert right.size == 1000
    assert right.std() > 0.01 * np.abs(right).max()
    np.testing.assert_allclose(y.reshape(right.shape), right, rtol=0, atol=1e-4 * float(np.abs(right).max()))
