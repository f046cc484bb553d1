"""Element by element over [pixels, C]: everything that is not a contraction, a window or a reduction."""

import triton
import triton.language as tl


@triton.jit
def pointwise(
    body: tl.constexpr, args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Call body(pixel, channel, mask, part, args) for each tile of [N*PIXELS, C].

    Grid: (cdiv(N*PIXELS, BLOCK_M), cdiv(C, BLOCK_N)). PIXELS = H*W of one image; pixel [BLOCK_M, 1], channel
    [1, BLOCK_N]; part is the number of the row tile. A copy into a slice of channels is a body with an offset.
    """
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    body(pixel, channel, (pixel < N * PIXELS) & (channel < C), tl.program_id(0), args)
