"""A model that threads share, and copies of a model: everybody gets the results of their own images and weights."""

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tricnn
from tests.run.networks import network
from tricnn.run.model import Model

EXECUTORS = ("numpy", "eager", "triton")


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads that take turns at every opportunity."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(*works: Callable[[], None]) -> None:
    """Run them side by side; the first error is the caller's."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 4, 9, 9), dtype=np.float32)


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_threads_that_share_a_model_get_their_own_logits(executor: str) -> None:
    model = tricnn.compile(network("small"), "infer", batch=2, executor=executor)
    wanted = [model(images(seed)) for seed in range(3)]

    def ask(seed: int) -> None:
        for _ in range(3):
            np.testing.assert_array_equal(model(images(seed)), wanted[seed])

    in_threads(*[lambda seed=seed: ask(seed) for seed in range(3)])


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_models_of_their_own_in_threads_of_their_own(executor: str) -> None:
    """Also under Triton's interpreter, which has one place for the number of the program that runs."""
    models = [tricnn.compile(network("small"), "infer", batch=2, executor=executor, seed=seed) for seed in (0, 1)]
    wanted = [model(images(1)) for model in models]

    def ask(number: int) -> None:
        for _ in range(3):
            np.testing.assert_array_equal(models[number](images(1)), wanted[number])

    in_threads(*[lambda number=number: ask(number) for number in range(2)])


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_steps_of_several_threads_are_all_taken_and_none_twice(executor: str) -> None:
    """The running statistics after four steps on the same images are those of four steps, whoever took them."""
    labels = np.array([0, 1])
    one, shared = (tricnn.compile(network("small"), "train", batch=2, executor=executor) for _ in range(2))
    for _ in range(4):
        one.loss_and_grads(images(0), labels)

    def steps() -> None:
        for _ in range(2):
            shared.loss_and_grads(images(0), labels)

    in_threads(steps, steps)
    assert shared.step == one.step == 4
    for name, x in one.state_dict().items():
        np.testing.assert_array_equal(shared.state_dict()[name], x, err_msg=name)


COPIES: dict[str, Callable[[Model], Model]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_copy_goes_on_to_the_same_bits_and_by_itself(executor: str, way: str) -> None:
    x, labels = images(0), np.array([0, 1])
    model = tricnn.compile(network("small"), "train", batch=2, executor=executor, seed=3)
    model.loss_and_grads(x, labels)
    other = COPIES[way](model)
    assert (other.step, other.seed, other.mode, other.dtype) == (1, 3, "train", "fp32")
    assert str(other.plan) == str(model.plan)
    loss, gradients = model.loss_and_grads(x, labels)  # with the second step's dropout mask
    other_loss, other_gradients = other.loss_and_grads(x, labels)
    assert other_loss == loss
    for name, g in gradients.items():
        np.testing.assert_array_equal(other_gradients[name], g, err_msg=name)
    before = other.state_dict()
    model.loss_and_grads(2 * x, labels)
    model.load_state_dict({name: 2 * v for name, v in model.state_dict().items()})
    for name, v in other.state_dict().items():
        np.testing.assert_array_equal(v, before[name], err_msg=name)


@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_copy_for_inference_has_the_weights_that_were_loaded(executor: str, dtype: str) -> None:
    """Folded and rounded anew, from float64 weights too: to the same bits."""
    model = tricnn.compile(network("small"), "infer", batch=2, dtype=dtype, executor=executor)
    rng = np.random.default_rng(5)
    state = {name: 0.1 * rng.standard_normal(x.shape) for name, x in model.state_dict().items()}
    state |= {name: 1 + abs(x) for name, x in state.items() if name in ("b1.weight", "b1.running_var")}
    model.load_state_dict(state)
    x = rng.standard_normal((8, 4, 9, 9), dtype=np.float32)
    y = model(x)
    for way in COPIES.values():
        np.testing.assert_array_equal(way(model)(x), y)
