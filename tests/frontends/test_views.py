"""What reshapes and permutations come to, against NumPy's."""

import numpy as np
import pytest

from tricnn.frontends.views import View

BASE = (7, 12, 4, 5)


def numbers(view: View) -> np.ndarray:
    """The view's elements, by the definition: the index along an axis is the sum of (factor's index * step)."""
    x = np.arange(np.prod(view.base)).reshape(view.base)
    factors = [f for dim in view.dims for f in dim]
    grid = np.indices([f.extent for f in factors]) if factors else []
    index = [sum((g * f.step for f, g in zip(factors, grid) if f.axis == axis), np.array(0)) for axis in range(x.ndim)]
    return x[tuple(index)].reshape(view.shape)


def test_shuffles_transpositions_and_flattening_are_numpys() -> None:
    x = np.arange(np.prod(BASE)).reshape(BASE)
    rng = np.random.default_rng(0)
    view, right, moves = View.of(BASE), x, 0
    shapes = [(7, 3, 4, 4, 5), (7, 12, 20), BASE, (7, 240), (7, 12, 2, 2, 5, 1), (1, 7, 12, 4, 5), (28, 3, 20)]
    for _ in range(300):
        if rng.random() < 0.5:
            order = rng.permutation(right.ndim)
            view, right = view.permuted(order), right.transpose(order)
        else:
            shape = shapes[rng.integers(len(shapes))]
            reshaped = view.reshaped(shape)
            if reshaped is None:
                view, right = View.of(BASE), x
                continue
            view, right = reshaped, right.reshape(shape)
            moves += 1
        assert view.shape == right.shape
        np.testing.assert_array_equal(numbers(view), right)
        assert view.plain == (right.shape == x.shape and np.array_equal(right, x))
        assert view.in_order == np.array_equal(right.ravel(), x.ravel())
    assert moves > 50


def test_a_dimension_that_would_begin_within_a_factor_is_refused() -> None:
    assert View.of((6,)).reshaped((4, 3)) is None
    assert View.of((4, 6)).permuted((1, 0)).reshaped((4, 6)) is None
    assert View.of((6, 4)).reshaped((4, 6)) is None  # 4 of 6 rows is no factor
    assert View.of((6,)).reshaped((7,)) is None


@pytest.mark.parametrize(("dims", "axes"), [((2,), {2}), ((1, 2), {1, 2}), ((0, 1), None)])
def test_which_whole_axes_some_dimensions_are(dims: tuple[int, ...], axes: set[int] | None) -> None:
    view = View.of((7, 6, 4)) if axes else View.of((7, 6, 4)).reshaped((7, 2, 12))
    assert view is not None
    assert view.axes(dims) == (frozenset(axes) if axes else None)
