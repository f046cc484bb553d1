"""A mask may be of numbers that all lanes share: what the first column of programs stores, no other does.
Without it a network whose 1x1 convolutions host values could not be verified where they have several columns."""

import pytest
import torch
import triton
import triton.language as tl

from tricnn.run.quick_interpreter import quick_interpreter
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="of Triton's interpreter")


@triton.jit
def _store_of_the_first(out, programs):
    lane = tl.arange(0, 8)
    place = tl.program_id(0) * 8 + lane
    tl.store(out + place, lane + 1, mask=(lane < 6) & (tl.program_id(0) // programs == 0))


def test_a_comparison_of_two_numbers_masks_a_block() -> None:
    out = torch.zeros(24, dtype=torch.int32)
    with quick_interpreter():
        _store_of_the_first[(3,)](out, 2)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 0, 0] * 2 + [0] * 8
