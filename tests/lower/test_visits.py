"""How often a window visits a pixel, by its definition, and soon for windows of any size."""

import random

import pytest

from tricnn.lower.convolution import Axis
from tricnn.lower.traffic import normalised_channels


@pytest.mark.parametrize("seed", range(40))
def test_visits_are_counted_as_they_are_defined(seed):
    draw = random.Random(seed).randint
    ends = {"size": 9, "outputs": 9, "kernel": 7, "stride": 4, "before": 8, "dilation": 4}
    axis = Axis(**{name: draw(name != "before", end) for name, end in ends.items()})
    starts = [p * axis.stride - axis.before for p in range(axis.outputs)]
    places = [[start + r * axis.dilation for r in range(axis.kernel)] for start in starts]
    assert axis.taps() == tuple(sum(row.count(at) for row in places) for at in range(axis.size))
    assert axis.covers() == tuple(sum(0 <= at < axis.size for at in row) for row in places)


@pytest.mark.parametrize("channels, size", [(1, 1), (5, 2), (5, 5), (4, 9), (12, 4)])
def test_channels_of_a_normalisation_are_counted_as_they_are_defined(channels, size):
    """Of channel c, c - size//2 to c + (size - 1)//2; the gradient of c reads dy of every j whose window has c, and the
    windows of those."""
    windows = [[j for j in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= j < channels] for c in range(channels)]
    own = sum(len(w) + 1 for w in windows)
    assert normalised_channels(channels, size, gradient=False) == {"x": own}
    readers = [[j for j in range(channels) if c in windows[j]] for c in range(channels)]
    assert normalised_channels(channels, size, gradient=True) == {
        "dy": sum(len(r) + 1 for r in readers),
        "x": own + sum(len(windows[j]) + 1 for r in readers for j in r),
    }


def test_the_widest_windows_take_no_time():
    widest = Axis(1 << 16, 1 << 16, 1 << 16, 1, 1 << 15)
    assert sum(widest.taps()) > 1 << 31
    assert sum(widest.covers()) > 1 << 31
    assert normalised_channels(1 << 16, 1 << 16, gradient=True)["x"] > 1 << 47
