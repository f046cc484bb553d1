"""Maxima over channels where several are equal, or one is not finite: each executor does what PyTorch does."""

import numpy as np
import pytest
import torch

import tricnn

BY_PYTORCH = {"first": lambda x: torch.max(x, 1, keepdim=True)[0], "shared": lambda x: torch.amax(x, 1, keepdim=True)}


def images() -> tuple[np.ndarray, np.ndarray]:
    """Small whole numbers, which are often equal, with pixels of one number only; and divisors, some of which are 0."""
    x = np.random.default_rng(0).integers(0, 3, (2, 6, 3, 4)).astype(np.float32)
    divisors = np.ones_like(x)
    x[0, :, 0, 0], x[0, :, 0, 1], divisors[0, :, 0, 1] = 2.0, -1.0, 0.0
    x[0, [1, 3], 0, 2], divisors[0, [1, 3], 0, 2] = 1.0, 0.0
    x[1, [2, 4], 1, 1], divisors[1, [2, 4], 1, 1] = 0.0, 0.0
    x[1, 5, 2, 2] = divisors[1, 5, 2, 2] = 0.0
    return x, divisors


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
@pytest.mark.parametrize("ties", ["first", "shared"])
def test_equal_channels_and_numbers_that_are_not_finite(ties: str, executor: str) -> None:
    b = tricnn.GraphBuilder("maxima")
    parts, divisors, dy = b.split(b.input("images", (13, 3, 4)), [6, 6, 1])
    x = b.add("div", parts, divisors)
    b.output(b.max_channels(x, ties=ties), "y")
    b.output(b.add("max_channels_grad", dy, x, ties=ties), "dx")
    given = images()
    gradient = np.random.default_rng(1).normal(size=(2, 1, 3, 4)).astype(np.float32)
    model = tricnn.compile(b.build(), batch=2, dtype="fp32", executor=executor)
    with np.errstate(all="ignore"):
        found = model(np.concatenate([*given, gradient], axis=1))
        values = torch.tensor(given[0] / given[1], requires_grad=True)
    assert values.isnan().sum() == 3 and values.isinf().sum() == 8
    right = BY_PYTORCH[ties](values)
    right.backward(torch.from_numpy(gradient))
    np.testing.assert_array_equal(found["y"], right.detach())
    np.testing.assert_allclose(found["dx"], values.grad, rtol=1e-6)
