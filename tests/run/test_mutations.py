"""A check that passes whatever kernels do is worth nothing: each of these wrong ones must be caught, in each type."""

import re

import pytest

from tests.run.mutations import (
    CASES,
    PAGE,
    RESULTS,
    SOURCES,
    Mistake,
    limited,
    results,
    seen,
)
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="the kernels are those of Triton's interpreter")

EVERY = [(name, dtype) for name, case in CASES.items() for dtype in case.dtypes]
QUICK = [
    ("products", "fp32"),
    ("deep", "tf32"),
    ("norms", "bf16"),
    ("pools", "fp16"),
    ("heads, unfused", "bf16"),
    ("resized", "bf16"),
    ("boxes", "fp16"),
]
#: templates without a mistake of their own, and what else holds them
ELSEWHERE = {
    "conv2d_streams": "tests/kernels/test_conv2d_streams.py",
    "conv2d_windows": "tests/lower/test_first_layers.py",
    "conv2d_windows_wgrad": "tests/lower/test_first_layers.py",
    "conv2d_wgrad_boxes": "tests/kernels/test_conv2d_wgrad_boxes.py",
    "conv2d_packs": "tests/kernels/test_conv2d_packs.py",
    "conv2d_wgrad_packs": "tests/kernels/test_conv2d_packs.py",
    "packed_images": "tests/lower/test_byte_images.py",
}
MISTAKES = [(mistake, dtype) for mistake in SOURCES for dtype in mistake.dtypes]
#: one for each kind of kernel and most kinds of mistakes, alternately in fp32 and bf16
QUICK_MISTAKES = [
    "conv2d_fprop drops a tap", "conv2d_dgrad keeps its sum in bf16", "conv2d_wgrad shifts a pixel",
    "conv2d_boxes drops a tap", "pointwise eps of 1e-3", "pointwise wrong mask of relu",
    "max_pool2d the last of equals", "avg_pool2d counts the padding", "conv2d_fprop momentum of 0.101",
    "conv2d_fprop running variance is biased", "cross_entropy divides by N + 1", "local_response_norm beta of 0.751",
    "resample places half a unit off", "soft_cross_entropy a target too small",
    "depthwise is off by a factor of 1.001 before it rounds", "depthwise_wgrad takes rows of the next segment, too",
    "conv2d_rows is off by a factor of 1.001 before it rounds",
]  # fmt: skip


def named(mistake: Mistake) -> str:
    return f"{mistake.kind} {mistake.what}"


def caught(case: str, dtype: str) -> None:
    missed = {}
    for (kind, name), shares in results(CASES[case], dtype).items():
        if name == "none":
            assert max(shares) <= 1, f"{kind} is right"
        elif min(shares) <= 1 and not limited(kind, name, dtype):
            missed[kind, name] = shares
    assert missed == {}


@pytest.mark.parametrize(("case", "dtype"), QUICK)
def test_what_a_launch_wrote_is_caught_if_it_is_changed(case: str, dtype: str) -> None:
    caught(case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "dtype"), [each for each in EVERY if each not in QUICK])
def test_it_is_in_every_type(case: str, dtype: str) -> None:
    caught(case, dtype)


@pytest.mark.parametrize("name", QUICK_MISTAKES)
def test_a_mistake_in_the_source_is_caught(name: str) -> None:
    mistake = next(m for m in SOURCES if named(m) == name)
    dtype = mistake.dtypes[-1] if QUICK_MISTAKES.index(name) % 2 else mistake.dtypes[0]
    assert seen(mistake, dtype) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "dtype"), MISTAKES, ids=lambda x: named(x) if isinstance(x, Mistake) else x)
def test_every_mistake_is_caught_or_its_limit_is_stated(mistake: Mistake, dtype: str) -> None:
    assert (seen(mistake, dtype) > 1) == (dtype not in mistake.limit)


def test_every_template_has_a_mistake() -> None:
    """But for those of the optimisers, which verification does not run, and those that are held elsewhere."""
    table = (PAGE.parents[1] / "kernels" / "__init__.py").read_text()
    named = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    templates = {name for names in named for name in names} - {"store_tile_stats"}
    optimisers = {"update_of_many", "sums_of_many", "moments_of_many"}
    assert templates - optimisers - {m.kind for m in SOURCES} == set(ELSEWHERE)


def test_the_lines_of_every_mistake_are_in_what_is_emitted() -> None:
    """A mistake in a line that no kernel has any more would be found by the slow tests only."""
    emitted = {
        (name, dtype): case.model(dtype).source
        for name, case in CASES.items()
        for dtype in {case.dtypes[0], case.dtypes[-1]}  # of 32 bits, if there is one, and of 16
    }
    of = {m: [text for (name, dtype), text in emitted.items() if name == m.case and dtype in m.dtypes] for m in SOURCES}
    assert [
        named(m) for m, texts in of.items() if any(m.right not in t or f"    {m.kind}(" not in t for t in texts)
    ] == []


def test_the_page_lists_every_mutation() -> None:
    page = PAGE.read_text()
    assert all(f"| `{m.kind}` | {m.what} |" in page for m in SOURCES) and all(
        f"*{name}*" in " ".join(page.split()) for name in RESULTS
    )
