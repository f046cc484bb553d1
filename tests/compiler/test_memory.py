"""The arena: buffers alive together never share memory, and not much memory is wasted.

Two buffers on one place is the worst kind of wrong: right for one batch size, garbage for another.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from tricnn.compiler.memory import share

ALIGNMENT = 256


def lives(max_size: int = 60):
    sizes = st.one_of(st.integers(0, 3 * ALIGNMENT), st.sampled_from([1, 255, 256, 257, 4096, 10**9]))
    one = st.tuples(sizes, st.integers(0, 12), st.integers(0, 6))
    return st.lists(one, max_size=max_size).map(
        lambda items: {f"b{i}": (size, first, first + more) for i, (size, first, more) in enumerate(items)}
    )


def alive_bytes(items: dict[str, tuple[int, int, int]], step: int) -> int:
    """Aligned bytes that must exist at one step."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size, first, last in items.values() if first <= step <= last)


def check(items: dict[str, tuple[int, int, int]], starts: dict[str, int], total: int) -> None:
    assert set(starts) == set(items)
    for name, (size, _, _) in items.items():
        assert starts[name] >= 0 and starts[name] % ALIGNMENT == 0
        assert starts[name] + size <= total
    for a, (size, first, last) in items.items():
        for b, (other, begin, end) in items.items():
            if a != b and first <= end and begin <= last and size and other:
                assert starts[a] + size <= starts[b] or starts[b] + other <= starts[a], (a, b)
    least = max((alive_bytes(items, step) for step in range(20)), default=0)
    assert least <= total <= sum(-(-size // ALIGNMENT) * ALIGNMENT for size, _, _ in items.values())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(lives())
def test_buffers_alive_together_do_not_meet(items):
    starts, total = share(items)
    check(items, starts, total)
    again = share(dict(reversed(items.items())))
    assert again == (starts, total), "the plan must not depend on the order it is asked in"


def test_a_chain_of_equal_buffers_needs_two():
    """x1 -> x2 -> ... -> x9, each read by the next step only: ping and pong."""
    assert share({f"x{i}": (1000, i, i + 1) for i in range(9)})[1] == 2 * 1024


def test_what_lives_throughout_shares_with_nobody():
    starts, total = share({"weights": (300, 0, 9), **{f"x{i}": (100, i, i) for i in range(10)}})
    assert total == 512 + 256
    assert len({starts[f"x{i}"] for i in range(10)}) == 1


def test_a_buffer_lives_to_the_end_of_its_last_step():
    """What a kernel reads must not lie where the same kernel writes."""
    starts, _ = share({"read": (256, 0, 1), "written": (256, 1, 2)})
    assert starts["read"] != starts["written"]


def test_nothing_needs_nothing():
    assert share({}) == ({}, 0)
    assert share({"empty": (0, 0, 3)})[1] == 0
