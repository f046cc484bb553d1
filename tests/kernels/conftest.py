"""Templates run under Triton's interpreter made quick, as in the executor (tests/run/test_quick_interpreter.py holds it
to Triton's own)."""

from contextlib import nullcontext

import pytest

from tricnn.kernels.numerics import INTERPRETED
from tricnn.run.quick_interpreter import quick_interpreter


@pytest.fixture(scope="module", autouse=True)
def interpreted_quickly():
    with quick_interpreter() if INTERPRETED else nullcontext():
        yield
