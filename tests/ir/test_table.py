"""Every row of the table of operations, against PyTorch.

A row whose cells disagree breaks silently: the network trains with one executor and infers something else with
another. The NumPy cell is the definition, the ATen cell somebody else's code; they must agree in float64.
"""

import importlib
import pkgutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn.compiler
from tests.ir.samples import BATCH, ENV, GIVEN, SAMPLES, Sample, apart
from tricnn.compiler.expand import expand
from tricnn.ir import OPS, Environment, Kind, TensorType
from tricnn.run.interpreter import interpret

for module in pkgutil.iter_modules(tricnn.compiler.__path__):  # passes add rows of their own
    importlib.import_module(f"tricnn.compiler.{module.name}")


def by_str(samples):
    return pytest.mark.parametrize("sample", samples, ids=str)


def computed(sample: Sample, operands: list[np.ndarray], env: Environment = ENV) -> np.ndarray:
    return np.asarray(OPS[sample.op].numpy(env, sample.node().attrs, *operands))


def in_float32(operands: list[np.ndarray]) -> list[np.ndarray]:
    return [o.astype(np.float32) if o.dtype.kind == "f" else o for o in operands]


def lies_in(array: np.ndarray, order: str) -> np.ndarray:
    """The same array over memory in another order: contiguous, channels last, or with gaps."""
    if order == "nchw" or array.ndim < 2:
        return np.array(array, order="C")
    if order == "nhwc":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 99).astype(array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def test_every_row_has_a_sample():
    sampled = {sample.op for sample in SAMPLES} | set(GIVEN) | {"fill"}
    assert sorted(set(OPS) - sampled) == []
    assert sorted(sampled - set(OPS)) == []


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_cell_is_filled(name):
    row = OPS[name]
    assert row.name == name and isinstance(row.kind, Kind)
    for cell in (row.shape, row.numpy, row.macs, row.aten):
        assert callable(cell)
    assert callable(row.gradient) or (isinstance(row.gradient, str) and len(row.gradient) > 10)
    assert len(row.doc) > 5 and "\n" not in row.doc
    for attr in row.attrs.values():
        assert callable(attr.check) and attr.accepts


def test_a_source_is_never_computed():
    for name in GIVEN:
        with pytest.raises(AssertionError):
            OPS[name].numpy(ENV, {})
    assert float(OPS["fill"].numpy(ENV, {"value": 2.5})) == float(OPS["fill"].aten(ENV, {"value": 2.5})) == 2.5


def numpy_has_the_shape_and_type_that_the_shape_rule_promises(sample, operands, exact):
    promised: TensorType = sample.graph().types["y"]
    for dtype, result in ((np.float64, exact), (np.float32, computed(sample, in_float32(operands)))):
        assert result.shape == promised.at(BATCH)
        if promised.dtype == "uint8":
            assert result.dtype == np.uint8
        else:
            assert result.dtype == dtype, "arithmetic leaves the type it was asked for"


def numpy_equals_aten_in_float64(sample, operands, exact):
    expected = OPS[sample.op].aten(ENV, sample.node().attrs, *map(torch.from_numpy, operands))
    np.testing.assert_allclose(exact, expected.numpy(), rtol=1e-10, atol=1e-10)


def aten_in_float32_is_float64_rounded(sample, operands, exact):
    """The eager executor's type and memory order, for which PyTorch has other code than for float64."""
    given = [torch.from_numpy(lies_in(o, "nhwc")) for o in in_float32(operands)]
    result = OPS[sample.op].aten(ENV, sample.node().attrs, *given)
    assert result.dtype == (torch.uint8 if exact.dtype == np.uint8 else torch.float32)
    tolerance = 100 * np.finfo(np.float32).eps * max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(result.numpy(), exact, rtol=0, atol=tolerance)


def numpy_does_not_care_how_its_operands_lie_in_memory(sample, operands, exact):
    for order in ("nhwc", "gaps"):
        lying = [lies_in(o, order) for o in operands]
        np.testing.assert_allclose(computed(sample, lying), exact, rtol=1e-12, atol=1e-12)
        for operand, old in zip(lying, operands, strict=True):
            np.testing.assert_array_equal(operand, old)


def numpy_in_float32_is_float64_rounded(sample, operands, exact):
    """Relative to the largest result, sums of K <= 72 products lose at most a few K ulps."""
    result = computed(sample, in_float32(operands))
    if exact.dtype == np.uint8:
        np.testing.assert_array_equal(result, exact)
    else:
        tolerance = 100 * np.finfo(np.float32).eps * max(1.0, np.abs(exact).max())
        np.testing.assert_allclose(result, exact, rtol=0, atol=tolerance)


@by_str(SAMPLES)
def test_a_row_is_the_same_in_numpy_and_aten_in_every_type_and_order(sample):
    """And leaves its operands alone. One test of a sample, for what each check asks of it is computed once."""
    operands = sample.draw()
    exact = computed(sample, operands)
    for check in (
        numpy_has_the_shape_and_type_that_the_shape_rule_promises,
        numpy_equals_aten_in_float64,
        aten_in_float32_is_float64_rounded,
        numpy_does_not_care_how_its_operands_lie_in_memory,
        numpy_in_float32_is_float64_rounded,
    ):
        check(sample, operands, exact)
    for operand, old in zip(operands, sample.draw(), strict=True):
        np.testing.assert_array_equal(operand, old)


@by_str([s for s in SAMPLES if OPS[s.op].means])
def test_a_row_that_means_others_computes_what_they_do(sample):
    operands = sample.draw()
    graph = expand(sample.graph())
    assert all(node == sample.node() or OPS[node.op].means is None for node in graph.nodes)
    found = interpret(graph, {f"x{i}": x for i, x in enumerate(operands)})["result"]
    np.testing.assert_allclose(found, computed(sample, operands), rtol=1e-12, atol=1e-12)


@by_str([s for s in SAMPLES if s.op in ("avg_pool2d", "max_pool2d")])
def test_pooling_over_uneven_padding_equals_the_padded_plane(sample):
    """PyTorch pads both sides alike. Pad by hand and pool what is left of the plane, one window at a time."""
    (x,), a = sample.draw(), sample.node().attrs
    top, bottom, left, right = a["padding"]
    maximum = sample.op == "max_pool2d"
    plane = F.pad(torch.from_numpy(x), (left, right, top, bottom), value=-np.inf if maximum else 0.0).numpy()
    inside = F.pad(torch.ones(x.shape[2:]), (left, right, top, bottom)).numpy()
    result = computed(sample, [x])
    for p in range(result.shape[2]):
        for q in range(result.shape[3]):
            rows = slice(p * a["stride"][0], p * a["stride"][0] + a["kernel_size"][0])
            columns = slice(q * a["stride"][1], q * a["stride"][1] + a["kernel_size"][1])
            window = plane[:, :, rows, columns]
            if maximum:
                expected = window.max(axis=(2, 3))
            else:
                covered = inside[rows, columns]
                count = covered.size if a["count_include_pad"] else covered.sum()
                expected = window.sum(axis=(2, 3)) / count
            np.testing.assert_allclose(result[:, :, p, q], expected, rtol=1e-12)


def test_sigmoid_and_softmax_do_not_overflow():
    x = np.array([[-800.0, 0.0, 800.0]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(OPS["sigmoid"].numpy(ENV, {}, x), [[0.0, 0.5, 1.0]])
        np.testing.assert_array_equal(OPS["softmax"].numpy(ENV, {}, x), [[0.0, 0.0, 1.0]])
        loss = OPS["cross_entropy"].numpy(ENV, {"label_smoothing": 0.0, "weight": 1.0}, x, np.array([0]))
    assert float(loss) == 1600.0


def test_macs_of_a_row_are_the_sizes_of_its_loops():
    """Multiply-adds per image: K*C/g*R*S*P*Q, for each of the three convolutions alike; features x features."""
    for sample in SAMPLES:
        graph = sample.graph()
        macs = graph.node_macs(graph.by_name["y"])
        if sample.op == "conv2d":
            k, c, r, s = sample.operands[1].shape
            assert macs == k * c * r * s * graph.types["y"].shape[2] * graph.types["y"].shape[3]
        elif sample.op in ("conv2d_grad_input", "conv2d_grad_weight"):
            k, p, q = sample.operands[0].shape[1:]
            weight = sample.operands[1].shape if sample.op == "conv2d_grad_input" else graph.types["y"].shape
            assert macs == k * weight[1] * weight[2] * weight[3] * p * q
        elif sample.op == "conv_transpose2d":
            assert macs == np.prod(sample.operands[1].shape) * np.prod(sample.operands[0].shape[2:])
        elif sample.op.startswith("linear"):
            assert macs == 4 * 5
        else:
            assert macs == 0


def test_the_seed_the_layer_and_the_step_each_change_the_dropout_mask():
    row, x = OPS["dropout"], np.ones((4, 50))

    def kept(seed, layer, step):
        return row.numpy(Environment(seed, step), {"p": 0.5, "layer": layer}, x) != 0

    masks = [kept(*numbers) for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0))]
    for i, a in enumerate(masks):
        assert 0.3 < a.mean() < 0.7
        for b in masks[:i]:
            assert (a != b).mean() > 0.3


def test_stochastic_depth_keeps_an_image_or_drops_it():
    """A number for each image; the same one whatever the shape is, as a step's flatten must not change it."""
    x = np.ones((60, 3, 2, 2))
    y = OPS["stochastic_depth"].numpy(ENV, {"p": 0.25, "layer": 1}, x)
    kept = y[:, 0, 0, 0] != 0
    assert 30 < kept.sum() < 56  # four standard deviations from 45
    np.testing.assert_array_equal(y, np.where(kept, 1 / 0.75, 0.0)[:, None, None, None] * x)
    flat = OPS["stochastic_depth"].numpy(ENV, {"p": 0.25, "layer": 1}, x.reshape(60, 12))
    np.testing.assert_array_equal(flat, y.reshape(60, 12))


def test_dropout_of_channels_keeps_a_channel_of_an_image_or_drops_it():
    x = np.ones((20, 6, 2, 3))
    y = OPS["dropout2d"].numpy(ENV, {"p": 0.25, "layer": 1}, x)
    kept = y[:, :, 0, 0] != 0
    assert 71 < kept.sum() < 109  # four standard deviations from 90
    np.testing.assert_array_equal(y, np.where(kept, 1 / 0.75, 0.0)[:, :, None, None] * x)
    assert len(set(map(tuple, kept.tolist()))) > 10  # no image as another


def test_dropout_keeps_the_mean():
    x = apart(np.random.default_rng(0), (40, 100)) + 2
    y = OPS["dropout"].numpy(ENV, {"p": 0.3, "layer": 1}, x)
    assert abs(y.mean() - x.mean()) < 5 * x.mean() * np.sqrt(0.3 / 0.7 / x.size)  # five standard deviations
