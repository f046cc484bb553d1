"""The tiles that tuning tries for a problem, and all that a file of tuned tiles may name.

Both are short explicit lists, so that every tile that may ever be chosen can be, and is, checked under Triton's
interpreter (tests/lower/test_tuning.py): what a kernel computes depends on its blocks; warps and stages change only
how the compiler arranges the same arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.table import OPS
from .targets import parse_target
from .tiles import Problem, Tile, power_of_two

#: the kinds that multiply, by what product a row of the table is; all others are passes over [pixels, channels]. A
#: dense layer is the convolution of one pixel with one pixel.
KIND_OF = {row.product: op for op, row in OPS.items() if row.product and row.over_images}
CONTRACTIONS = tuple(KIND_OF.values())
#: passes that leave sums over the pixels of each tile
WITH_SUMS = ("batch_stats", "pointwise_with_sums", "avg_pool2d_grad_with_sums")
PASSES = (
    "channel_sum", "normalize_grad_sums", "max_pool2d", "max_pool2d_index", "avg_pool2d", "global_avg_pool",
    "max_pool2d_grad", "avg_pool2d_grad", "local_response_norm", "local_response_norm_grad", "concat",
    "slice_channels", "pad_channels", "stack", "flatten", "unflatten", "pointwise",
)  # fmt: skip
KINDS = (*CONTRACTIONS, *WITH_SUMS, *PASSES)

#: (m, n, k, warps, stages) for 16-bit products on tensor cores
NARROW = (
    (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 64, 8, 4), (128, 128, 32, 8, 4), (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3), (256, 64, 64, 8, 3), (64, 256, 64, 8, 3), (128, 64, 64, 4, 3), (128, 64, 64, 8, 4),
    (64, 128, 64, 4, 3), (64, 128, 64, 4, 4), (64, 64, 64, 4, 3), (64, 64, 64, 4, 4), (64, 64, 128, 4, 3),
    (128, 32, 64, 4, 4), (64, 32, 64, 4, 4), (32, 128, 64, 4, 4), (32, 64, 64, 4, 4), (32, 32, 128, 4, 3),
    (16, 64, 128, 4, 3), (16, 128, 64, 4, 4),
)  # fmt: skip
#: the same for tf32 products, whose operands are twice as wide
TF32 = (
    (64, 64, 32, 4, 2), (64, 64, 32, 4, 3), (128, 64, 32, 4, 3), (64, 128, 32, 4, 3), (128, 128, 32, 8, 3),
    (128, 128, 32, 4, 2), (128, 32, 32, 4, 3), (64, 32, 32, 4, 3), (32, 64, 32, 4, 3), (32, 32, 64, 4, 3),
)  # fmt: skip
#: and for IEEE products, on the plain FMA units
IEEE = (
    (64, 64, 16, 4, 2), (64, 64, 32, 4, 2), (128, 64, 16, 8, 2), (64, 128, 16, 8, 2), (128, 128, 16, 8, 2),
    (128, 32, 16, 4, 2), (64, 32, 16, 4, 2), (32, 64, 16, 4, 2), (32, 32, 32, 4, 2), (16, 32, 32, 4, 2),
)  # fmt: skip
#: (elements of a tile, warps) of a pass, and (pixels, channels, warps) of one that leaves sums
ELEMENTS = ((512, 4), (1024, 4), (1024, 8), (2048, 4), (2048, 8), (4096, 8))
SUMS = ((32, 64, 4), (64, 64, 4), (64, 64, 8), (128, 64, 4), (128, 64, 8), (128, 32, 4), (64, 128, 8))

#: what a tuned tile of a product may be: powers of two within these limits, and no more elements than these
BLOCKS = {"m": (16, 256), "n": (16, 256), "k": (16, 128)}
LARGEST_PRODUCT = 32768
WARPS, STAGES = (1, 2, 4, 8), (1, 2, 3, 4, 5)


def extent(problem: Problem) -> tuple[int, int, int]:
    """Rows, columns and depth of the matrix product that a contraction is; one block can run over all of the depth."""
    size = {"GROUPS": 1, "SH": 1, "SW": 1, "WINDOW_H": 1, "WINDOW_W": 1, **problem.sizes}
    n, groups, taps = size["N"], size["GROUPS"], size["R"] * size["S"]
    c, k = size["C"] // groups, size["K"] // groups
    product = OPS[problem.kind].product
    if product == "by_weight":
        return k, taps * c, n * size["P"] * size["Q"]
    if product == "by_input":
        return n * -(-size["H"] // size["SH"]) * -(-size["W"] // size["SW"]), c, k
    high, wide = size["WINDOW_H"], size["WINDOW_W"]
    return n * (size["P"] // high * high) * (size["Q"] // wide * wide), k, taps * c


def candidates(problem: Problem) -> list[Tile]:
    """The tiles worth timing for a problem, each once.
    None is larger than the problem needs, or has operands that cannot lie in the target's shared memory."""
    if problem.kind not in CONTRACTIONS:
        return _passes(problem)
    narrow = problem.dtype in ("fp16", "bf16")
    rows, columns, depth = (max(power_of_two(size), 16) for size in extent(problem))
    room, width = parse_target(problem.target).shared_limit, 2 if narrow else 4
    found = []
    for m, n, k, warps, stages in NARROW if narrow else TF32 if problem.dtype == "tf32" else IEEE:
        tile = Tile(min(m, rows), min(n, columns), min(k, depth), warps, stages)
        if tile.m * tile.n <= 2048:  # eight warps would have too little to do
            tile = replace(tile, warps=min(warps, 4))
        if (tile.m + tile.n) * tile.k * width * stages <= room:
            found.append(tile)
    return list(dict.fromkeys(found))


def _passes(problem: Problem) -> list[Tile]:
    channels = power_of_two(problem.sizes["C"])
    if problem.kind in WITH_SUMS:
        found = [Tile(m, min(n, channels), 1, warps, 1) for m, n, warps in SUMS]
    else:
        n = min(channels, 256)
        found = [Tile(max(1, elements // n), n, 1, warps, 1) for elements, warps in ELEMENTS]
    return list(dict.fromkeys(found))


def blocks(kind: str) -> list[tuple[int, int, int]]:
    """Every (m, n, k) that a tuned tile of this kind may have."""
    if kind in CONTRACTIONS:
        m, n, k = ([1 << i for i in range(low.bit_length() - 1, high.bit_length())] for low, high in BLOCKS.values())
        return [(a, b, c) for a in m for b in n for c in k if a * b <= LARGEST_PRODUCT]
    narrower = [1 << i for i in range(9)]
    if kind in WITH_SUMS:
        return sorted({(m, min(n, most), 1) for m, n, _ in SUMS for most in narrower})
    return sorted({(max(1, elements // n), n, 1) for elements, _ in ELEMENTS for n in narrower})


def verified(kind: str, tile: Tile) -> bool:
    """Is this one of the tiles that the tests check?"""
    return (tile.m, tile.n, tile.k) in blocks(kind) and tile.warps in WARPS and tile.stages in STAGES
