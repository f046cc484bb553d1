"""How many results of a pooling one thread computes, which share what they load and compare."""

#: results of a block, down and across, where windows overlap (`pool_blocks`): the first at a stride of 1, where 7
#: divides the rows of the result, as it does in most networks' late layers
BLOCKS = (7, 2), (4, 2)
#: taps of the largest window that is unrolled for blocks
MOST_TAPS = 25


def block(window: tuple[int, int], stride: tuple[int, int], rows: int, gradient: bool = False) -> tuple[int, int]:
    """How many results, down and across, a block of a pooling has of so many rows: one where windows do not overlap.
    Of windows that do, results share what they load and compare. Of a gradient's pixels a block has as many strides;
    those of one stride share enough."""
    if gradient and stride != (1, 1):
        return 1, 1
    if stride[0] >= window[0] or stride[1] >= window[1] or window[0] * window[1] > MOST_TAPS:
        return 1, 1
    return BLOCKS[0] if stride == (1, 1) and rows % BLOCKS[0][0] == 0 else BLOCKS[1]
