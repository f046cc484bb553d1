"""What callers may hand to a model: the same numbers in any dress give the same results, and what will not do is said
in one line, by every executor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tricnn
from tests.run.networks import network
from tricnn.check.verify import verify
from tricnn.cli.arguments import UsageError
from tricnn.cli.train_data import fitted
from tricnn.ir import DataError, Graph, GraphBuilder
from tricnn.run.model import Model
from tricnn.training import Dataset

EXECUTORS = ("numpy", "eager", "triton")
X = np.random.default_rng(0).integers(0, 8, (4, 4, 9, 9)).astype(np.float32)  # exact in every type below
LABELS = np.array([2, 0, 1, 2])


def reversed_view(x: np.ndarray) -> np.ndarray:
    """The same numbers, with every stride negative."""
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


DRESSES: dict[str, Callable[[np.ndarray], Any]] = {
    "negative strides": reversed_view,
    "read-only": read_only,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "float16": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble),
    "uint16": lambda x: x.astype(np.uint16),
    "uint64": lambda x: x.astype(np.uint64),
    "tensor": torch.as_tensor,
    "bfloat16 tensor": lambda x: torch.as_tensor(x).bfloat16(),
    "float8 tensor": lambda x: torch.as_tensor(x).to(torch.float8_e4m3fn),
    "uint64 tensor": lambda x: torch.as_tensor(x).to(torch.uint64),
    "tensor with a gradient": lambda x: torch.as_tensor(x).requires_grad_(),
}


@pytest.fixture(scope="module", params=EXECUTORS)
def model(request: pytest.FixtureRequest) -> Model:
    return tricnn.compile(network("small"), "infer", batch=4, executor=request.param)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dress", DRESSES)
def test_the_same_images_in_another_dress(model: Model, dress: str) -> None:
    x = DRESSES[dress](X)
    y = model(x)
    assert isinstance(y, torch.Tensor) == isinstance(x, torch.Tensor)
    np.testing.assert_array_equal(np.asarray(y), model(X))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_labels_of_any_integer_type(executor: str) -> None:
    train = tricnn.compile(network("small"), "train", batch=4, executor=executor)
    losses = set()
    for dress in (np.int64, np.uint8, np.uint64, reversed_view, torch.as_tensor):
        train.step = 0  # the same dropout mask
        losses.add(train.loss_and_grads(X, dress(LABELS))[0])
    for kind in (torch.int32, torch.uint64):
        train.step = 0
        losses.add(train.loss_and_grads(torch.as_tensor(X), torch.as_tensor(LABELS).to(kind))[0])
    assert len(losses) == 1


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.as_tensor(X).to_sparse(), "input x: expected a dense tensor, got one that is torch.sparse_coo"),
        (torch.empty(X.shape, device="meta"), "input x: expected a dense tensor, got one that is on the meta device"),
        (X.astype(str), "input x: expected real numbers, got str"),
        (torch.as_tensor(X).to(torch.complex64), "input x: expected real numbers, got complex64"),
        (torch.full(X.shape, torch.inf).bfloat16(), "input x: it contains NaN or infinity"),
    ],
    ids=["sparse", "meta", "text", "complex", "infinite"],
)
def test_what_holds_no_real_numbers_is_refused(model: Model, x: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        model(x)


def two_outputs() -> Graph:
    b = GraphBuilder("two")
    pooled = b.global_avg_pool(b.input("x", (4, 9, 9)))
    b.output(b.linear(pooled, 4, name="small"), "small", loss_weight=0.3)
    return b.build(b.linear(pooled, 10, name="large"))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_labels_must_be_classes_of_every_output(executor: str) -> None:
    """A kernel that reads the logit of a class that is not there would return the loss of somebody else's."""
    train = tricnn.compile(two_outputs(), "train", batch=4, executor=executor)
    assert train.loss_and_grads(X, np.array([0, 1, 2, 3]))[0] > 0
    for wrong, bad in ((np.array([0, 1, 2, 7]), 7), (np.array([4, 0, 0, 0]), 4), (np.array([0, -1, 0, 0]), -1)):
        with pytest.raises(
            DataError, match=rf"^labels: {bad} is out of range; output small of two has classes 0 to 3$"
        ):
            train.loss_and_grads(X, wrong)


def test_whoever_draws_labels_draws_them_for_every_output() -> None:
    """Verification, and a data set with more classes than the second output has."""
    graph = two_outputs()
    for batch in (8, 16):  # of ten classes, some are not among four
        assert all(c.ok for c in verify(graph, mode="train", batch=batch))
    images = np.zeros((4, 4, 9, 9), np.uint8)
    digits = Dataset("digits", images, np.arange(4), images, np.arange(4), 10)
    with pytest.raises(UsageError, match=r"^two has 4 classes, digits has 10$"):
        fitted(digits, graph)


@pytest.mark.parametrize("dtype", ("fp32", "fp16", "bf16", "fp64"))
@pytest.mark.parametrize("executor", EXECUTORS)
def test_results_have_one_type_whatever_is_stored(executor: str, dtype: str) -> None:
    """float32, which every executor's numbers fit; float64 for fp64, whose digits float32 would cut."""
    if dtype == "fp64" and executor == "triton":
        return  # refused by name: test_model.py
    wide = "float64" if dtype == "fp64" else "float32"
    graph = network("small")
    infer = tricnn.compile(graph, "infer", batch=4, dtype=dtype, executor=executor)
    train = tricnn.compile(graph, "train", batch=4, dtype=dtype, executor=executor)
    for x, labels in ((X, LABELS), (torch.as_tensor(X), torch.as_tensor(LABELS))):
        gradients = train.loss_and_grads(x, labels)[1]
        assert {str(r.dtype).removeprefix("torch.") for r in (infer(x), *gradients.values())} == {wide}
    if dtype == "fp64":
        np.testing.assert_allclose(infer(X), tricnn.compile(graph, "infer", dtype="fp64")(X), rtol=1e-12, atol=1e-13)
