"""Sizes in the batch are whole numbers: whatever is computed with them is what Python computes at each batch size."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricnn.lower.size import N, Size, at_most, cdiv

#: a size, and the function of the batch that it must be
Pair = tuple[Size, Callable[[int], int]]

NUMBERS = st.integers(0, 1000)
DIVISORS = st.integers(1, 300)
BATCHES = st.integers(0, 4096)


def grown(smaller: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    """Sizes made of smaller ones."""

    def plus(a: Pair, b: Pair) -> Pair:
        return a[0] + b[0], lambda n: a[1](n) + b[1](n)

    def times(a: Pair, number: int) -> Pair:
        return a[0] * number, lambda n: a[1](n) * number

    def over(a: Pair, by: int) -> Pair:
        return cdiv(a[0], by), lambda n: (a[1](n) + by - 1) // by

    def limited(a: Pair, most: int) -> Pair:
        return at_most(a[0], most), lambda n: min(a[1](n), most)

    return st.one_of(
        st.builds(plus, smaller, smaller),
        st.builds(times, smaller, NUMBERS),
        st.builds(over, smaller, DIVISORS),
        st.builds(limited, smaller, NUMBERS),
    )


def constant(number: int) -> Pair:
    return Size.of(number), lambda n: number


BATCH: Pair = (N, lambda n: n)
SIZES = st.recursive(st.one_of(st.just(BATCH), NUMBERS.map(constant)), grown, max_leaves=8)


@given(SIZES, BATCHES)
def test_a_size_is_the_number_and_prints_as_python_that_computes_it(pair: Pair, batch: int) -> None:
    size, number = pair
    assert size.at(batch) == number(batch)
    names = {"N": batch, "cdiv": lambda a, b: (a + b - 1) // b, "min": min, "__builtins__": {}}
    assert eval(str(size), dict(names)) == number(batch)
    assert size.text("triton.cdiv") == str(size).replace("cdiv", "triton.cdiv")


@given(SIZES, SIZES, SIZES, NUMBERS)
def test_the_order_in_which_a_size_was_made_does_not_matter(a: Pair, b: Pair, c: Pair, number: int) -> None:
    x, y, z = a[0], b[0], c[0]
    for left, right in (
        (x + y, y + x),
        ((x + y) + z, x + (y + z)),
        ((x + y) * number, number * y + x * number),
        (x * 6, x * 2 * 3),
        (x + x, x * 2),
        (x + 0, x),
        (x * 1, x),
        (x * 0, Size()),
    ):
        assert left == right and hash(left) == hash(right)


@given(SIZES, BATCHES, BATCHES)
def test_what_is_fixed_is_the_same_for_every_batch(pair: Pair, one: int, other: int) -> None:
    size, number = pair
    if size.fixed is not None:
        assert size.fixed == number(one) == number(other)
    assert (size == number(one)) <= (number(one) == number(other))


def test_what_people_read() -> None:
    """In the emitted file: nothing that is multiplied by 1, and factors as they came."""
    rows = cdiv(N * 49, 128)
    assert str(rows) == "cdiv(N * 49, 128)" and str(rows * 1 * 4) == "cdiv(N * 49, 128) * 4"
    assert str(cdiv(N, 2) * 16 * 192) == "cdiv(N, 2) * 16 * 192"
    assert str(at_most(cdiv(N * 1, 128) * 4, 264)) == "min(cdiv(N, 128) * 4, 264)"
    assert at_most(rows, 264).limited and not rows.limited
    assert [str(s) for s in (Size(), Size.of(3) * 4, cdiv(Size.of(49), 8), cdiv(N, 1))] == ["0", "12", "7", "N"]
    assert Size.of(1) != N and N * 2 != N and rows != cdiv(N * 49, 64)


def test_only_one_factor_may_depend_on_the_batch() -> None:
    assert N * Size.of(3) == Size.of(3) * N == N * 3
    with pytest.raises(ValueError, match=r"\(N \* 2\) \* \(cdiv\(N, 4\)\) is not linear in the batch"):
        N * 2 * cdiv(N, 4)
