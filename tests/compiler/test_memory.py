"""The arena: buffers alive together never share memory, and not much memory is wasted.

Two buffers on one place is the worst kind of wrong: right for one batch size, garbage for another.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from tricnn.compiler.memory import ALIGNMENT, Arena, Lifetime, plan_arena


def lifetimes(max_size: int = 60):
    sizes = st.one_of(st.integers(0, 3 * ALIGNMENT), st.sampled_from([1, 255, 256, 257, 4096, 10**9]))
    one = st.tuples(sizes, st.integers(0, 12), st.integers(0, 6))
    return st.lists(one, max_size=max_size).map(
        lambda items: [Lifetime(f"b{i}", size, first, first + more) for i, (size, first, more) in enumerate(items)]
    )


def alive_bytes(items: list[Lifetime], step: int) -> int:
    """Aligned bytes that must exist at one step."""
    return sum(-(-b.size // ALIGNMENT) * ALIGNMENT for b in items if b.first <= step <= b.last)


def check(items: list[Lifetime], arena: Arena) -> None:
    assert set(arena.offsets) == {b.name for b in items}
    for b in items:
        assert arena.offsets[b.name] >= 0 and arena.offsets[b.name] % ALIGNMENT == 0
        assert arena.offsets[b.name] + b.size <= arena.size
    for i, a in enumerate(items):
        for b in items[:i]:
            if a.first <= b.last and b.first <= a.last and a.size and b.size:
                start, other = arena.offsets[a.name], arena.offsets[b.name]
                assert start + a.size <= other or other + b.size <= start, (a, b)
    least = max((alive_bytes(items, step) for step in range(20)), default=0)
    assert least <= arena.size <= sum(-(-b.size // ALIGNMENT) * ALIGNMENT for b in items)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(lifetimes())
def test_buffers_alive_together_do_not_meet(items):
    arena = plan_arena(items)
    check(items, arena)
    assert plan_arena(list(reversed(items))) == arena, "the plan must not depend on the order it is asked in"


def test_a_chain_of_equal_buffers_needs_two():
    """x1 -> x2 -> ... -> x9, each read by the next step only: ping and pong."""
    items = [Lifetime(f"x{i}", 1000, i, i + 1) for i in range(9)]
    assert plan_arena(items).size == 2 * 1024


def test_what_lives_throughout_shares_with_nobody():
    items = [Lifetime("weights", 300, 0, 9), *(Lifetime(f"x{i}", 100, i, i) for i in range(10))]
    arena = plan_arena(items)
    assert arena.size == 512 + 256
    assert len({arena.offsets[f"x{i}"] for i in range(10)}) == 1


def test_a_buffer_lives_to_the_end_of_its_last_step():
    """What a kernel reads must not lie where the same kernel writes."""
    arena = plan_arena([Lifetime("read", 256, 0, 1), Lifetime("written", 256, 1, 2)])
    assert arena.offsets["read"] != arena.offsets["written"]


def test_nothing_needs_nothing():
    assert plan_arena([]) == Arena({}, 0)
    assert plan_arena([Lifetime("empty", 0, 0, 3)]).size == 0
