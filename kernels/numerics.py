"""The places where number formats matter: the tensor-core product, and rounding to the types it takes."""

import triton
import triton.language as tl

# Triton's CPU interpreter differs from a GPU in how it treats bfloat16 (see `dot` and `round_to`). A jitted function
# is interpreted or compiled according to this same setting, read at the same moment: when its module is imported.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# How fp32 operands are multiplied unless a call says otherwise. (Triton 3.6 wants a default string wrapped like this.)
IEEE = tl.constexpr("ieee")


@triton.jit
def existing(index, exists):
    """index where it exists, 0 elsewhere: an index whose address may be read whatever the mask of the load says.

    Loads in the loop of a product become asynchronous copies, and ptxas as it comes with Triton 3.7.1 lets a masked one
    of them read its address all the same on sm_100 (pytorch pull request 187222). Along the axis that lies contiguously
    in memory take `index % length` instead: Triton sees that neighbours stay neighbours.
    """
    return tl.where(exists, index, 0)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, accumulated in fp32.

    a: [M, K] and b: [K, N] of one element type, acc: [M, N] fp32; M, N, K >= 16. PRECISION says how fp32 operands are
    multiplied, "ieee" or "tf32"; narrower operands are always multiplied exactly. Put the operand that was computed on
    load (the activation) on the left: Hopper's MMA can take only the left one from registers.
    """
    if INTERPRETED:
        # The interpreter would multiply the raw bits of bf16 operands. The products are exact in fp32 either way.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """x in the type dtype, rounded to nearest, ties to even, on every executor.

    The interpreter truncates fp32 to bf16, so there the rounding is done by hand: adding 0x7fff, and one more where the
    last bit kept is odd, carries into the upper 16 bits exactly when the value must go up.
    """
    if dtype == tl.bfloat16 and INTERPRETED:
        x = x.to(tl.float32)
        bits = x.to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nearest = tl.where(x == x, nearest, 0x7FFF)  # the NaN that a GPU makes of all
        return nearest.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def round_to_tf32(x):
    """fp32 x with 10 bits of fraction, rounded to nearest, ties away from zero (as PTX's cvt.rna.tf32 does).

    Tensor cores would drop the other 13 bits. Adding half of what the last one of the 10 is worth carries into it when
    the value must go up.
    """
    bits = x.to(tl.uint32, bitcast=True)
    nearest = ((bits + 0x1000) & 0xFFFFE000).to(tl.uint32)
    return tl.where(tl.abs(x) < float("inf"), nearest.to(tl.float32, bitcast=True), x)  # a NaN stays one
