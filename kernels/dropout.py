"""Dropout's random mask: a pure function of seed, layer, step and element, so that no executor has to store it."""

import triton
import triton.language as tl


@triton.jit
def nchw_element(pixel, channel, C: tl.constexpr, PIXELS: tl.constexpr):
    """The logical NCHW index of an element that lies at [pixel, channel], channels last; PIXELS = H*W."""
    return (pixel // PIXELS * C + channel) * PIXELS + pixel % PIXELS


@triton.jit
def keep_mask(element, seed_lo, seed_hi, layer, step, threshold):
    """Is the element kept? The first word of Philox-4x32-10 at least threshold = round(p * 2^32), as unsigned.

    Key (seed_lo, seed_hi), counter (element, layer, step, 0), each taken modulo 2^32. Salmon et al., "Parallel random
    numbers: as easy as 1, 2, 3" (2011); Triton's philox is the same generator, word for word.
    """
    c0 = element.to(tl.uint32)
    zero = c0 * 0
    word, _, _, _ = tl.philox_impl(
        c0, zero + tl.cast(layer, tl.uint32), zero + tl.cast(step, tl.uint32), zero,
        zero + tl.cast(seed_lo, tl.uint32), zero + tl.cast(seed_hi, tl.uint32),
    )  # fmt: skip
    return word >= tl.cast(threshold, tl.uint32)
