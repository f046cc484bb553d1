"""Synchronised batch norm: a user would lose that a small share of a batch trains as the whole batch does.

Two and four processes, connected by gloo, against one with the whole batch: losses, gradients, running statistics.
"""

import numpy as np
import pytest

from tests.training.in_processes import in_processes
from tests.training.synchronised import SETTINGS, main, model, network, runs, steps

#: of float64 the last digits may differ, for sums are in another order; of fp32 its own
TOLERANCES = {"fp64": (1e-9, 1e-12), "fp32": (2e-3, 2e-6)}


@pytest.fixture(
    scope="module",
    params=[
        ("numpy", "fp64", 2),
        ("numpy", "fp64", 4),
        pytest.param(("eager", "fp64", 2), marks=pytest.mark.slow),
        pytest.param(("triton", "fp32", 2), marks=pytest.mark.slow),
        pytest.param(("triton", "fp32", 4), marks=pytest.mark.slow),
    ],
    ids=str,
)
def together(request, tmp_path_factory):
    """(executor, dtype, what each process found)."""
    executor, dtype, world = request.param
    folder = tmp_path_factory.mktemp("together")
    return executor, dtype, in_processes(main, [(executor, dtype, rank, world, str(folder)) for rank in range(world)])


def test_steps_are_those_of_one_process_with_the_whole_batch(together):
    executor, dtype, found = together
    rtol, atol = TOLERANCES[dtype]
    whole = steps(executor, dtype)
    for rank, (shared, _) in enumerate(found):
        for (loss, gradients, state), (wanted, expected, after) in zip(shared, whole, strict=True):
            assert loss == pytest.approx(wanted, rel=rtol)
            for name, gradient in expected.items():
                np.testing.assert_allclose(
                    gradients[name], gradient, rtol=rtol, atol=atol * np.abs(gradient).max() + atol, err_msg=name
                )
            for name, x in after.items():
                np.testing.assert_allclose(state[name], x, rtol=rtol, atol=atol, err_msg=f"{name} of process {rank}")


def test_all_processes_have_the_same_bits(together):
    _, _, found = together
    first = found[0][0][-1]
    for shared, _ in found[1:]:
        for mine, theirs in zip(first[1:], shared[-1][1:], strict=True):
            for name, x in mine.items():
                assert x.tobytes() == theirs[name].tobytes(), name


def test_runs_with_lamb_lars_clipping_and_a_running_average_are_those_of_one_process(together):
    found = [rank for _, rank in together[2]]
    if not any(found):
        return  # of two processes and float64 only
    for number, whole in enumerate(runs()):
        for rank in found:
            for mine, theirs in zip(rank[number][:2], whole[:2], strict=True):
                for name, x in theirs.items():
                    np.testing.assert_allclose(
                        mine[name], x, rtol=1e-6, atol=1e-9, err_msg=f"{name}, {SETTINGS[number]}"
                    )
            assert rank[number][2] == pytest.approx(whole[2], rel=1e-9)


def test_without_it_the_processes_statistics_are_their_own():
    """What the other tests compare would differ: the merged statistics of a batch are not the mean of its parts'."""
    x = np.concatenate([np.zeros((2, 3, 8, 8)), np.ones((2, 3, 8, 8))])
    whole = model("numpy", "fp64")
    whole.loss_and_grads(x, np.array([0, 1, 2, 0]))
    part = model("numpy", "fp64")
    part.loss_and_grads(x[:2], np.array([0, 1]))
    name = next(n.name for n in network().buffers if "var" in n.name)
    assert np.abs(whole.state_dict()[name] - part.state_dict()[name]).max() > 1e-3
