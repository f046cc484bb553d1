"""Tile sizes: what each kernel starts from, and the smaller ones it falls back to when a compiler spills.

A product starts from the largest tile of its type: 128x128x64 on 8 warps is what a Hopper MMA wants; fp32 products run
on the plain FMA units, where smaller tiles keep to the registers. How many of its rows one program takes, a model of
the time says (:func:`clocks`). Nothing is measured, so the same plan gives the same kernels, and the same bits, on
every machine. A tile that was measured to be faster for a problem comes first: tuned_files.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from .machines import CACHE_OVER_MEMORY, machine_of


@dataclass(frozen=True)
class Tile:
    m: int
    n: int
    k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Form:
    """How a function departs from the tile it was first given.
    It says how many times its tile was made smaller, because a compiler spilled it, and whether its loads may still be
    pipelined, which some versions of Triton do wrongly."""

    smaller: int = 0
    pipelined: bool = True


#: the numbers a shape may have, in the order they are written: sizes, stride, dilation, padding, groups, pooling
NUMBERS = (
    "N", "PIXELS", "C", "H", "W", "K", "R", "S", "P", "Q", "SH", "SW", "DH", "DW", "PT", "PB", "PL", "PR", "GROUPS",
    "WINDOW_H", "WINDOW_W", "SIZE", "INCLUDE_PAD",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What a tile is chosen for.
    It has the target, the kernel's kind (an operation's name), the dtype, and the numbers of its shape by name
    (:data:`NUMBERS`)."""

    target: str
    kind: str
    dtype: str
    shape: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, target: str, kind: str, dtype: str, sizes: Mapping[str, int]) -> Problem:
        """A problem; what is 0, such as no padding, is left out."""
        shape = tuple((name, int(sizes[name])) for name in sorted(sizes, key=NUMBERS.index) if sizes[name])
        return cls(target, kind, dtype, shape)

    @property
    def sizes(self) -> dict[str, int]:
        return dict(self.shape)

    @property
    def text(self) -> str:
        """The shape as one reads it: ``N256 C64 H56 W56 K64 R3 S3 P56 Q56 PT1 PL1``."""
        return " ".join(f"{name}{number}" for name, number in self.shape)

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype} {self.text}"


@dataclass(frozen=True)
class Choice:
    """The tile that a function of the emitted file was given."""

    function: str
    kernel: str
    problem: Problem
    tile: Tile


@dataclass(frozen=True)
class Style:
    """How tiles are chosen.
    It says how many of them are enough (None: as many as :func:`clocks` says), how many programs run at once (None: as
    many as the target has multiprocessors, or share them), how many elements a pointwise tile has, and the largest tile
    of a product where that does not depend on the type."""

    tiles: int | None
    programs: int | None
    elements: int
    product: tuple[int, int, int] | None = None


#: targets with bulk copies whose products are added up in registers
SUMS_IN_REGISTERS = ("sm_90", "sm_120")
#: types of 16 bits
NARROW = ("fp16", "bf16")
#: programs that share a multiprocessor
TOGETHER = 2
#: clocks from one step of a product's depth to the next, beside those for its operands, where a program is alone on its
#: multiprocessor: barriers, addresses, and matrix instructions one after another. Simulated products of 32x32 tiles
#: take 541, 731 and 1,104 for steps of 64, 128 and 256
STEP = 350
#: clocks of a step of the depth beside its products, in channels (by simulation)
BESIDE_STEP = 8
#: what narrower tiles of columns may multiply at most of what wide ones do, to be taken
FOR_NOTHING = 0.85
#: how many tiles of 256 rows each multiprocessor computes at least where they are taken
TALL = 4
#: pixels of a tile of `conv2d_rows`, the fewest rows of tiles that a run of it has, and bytes beside its tiles
ROW, LONG, SCRATCH = 64, 16, 256
#: channels of the groups that it multiplies together
PACKED = 32
#: filters of a warp's block in `conv2d_wgrad_packs`, and the most sums of all taps that one of its threads has
BLOCK_OF_FILTERS, MOST_SUMS = 16, 144
#: programs of `conv2d_packs` that share a multiprocessor
PACKS_TOGETHER = 3
#: the longest step that a descriptor's box can have, and how many of them lie in shared memory at once
LONGEST, COPIES = 256, 3
GPU = Style(None, None, 1024)
#: Triton's interpreter runs one program after another, each operation at much the same cost whatever its size. A few
#: large tiles cost least; two of each kind still show what goes wrong between tiles.
INTERPRETER = Style(2, 4, 2048, (512, 128, 64))

_style = ContextVar("style", default=GPU)


def multiprocessors(target: str) -> int:
    """How many programs a target runs at once if each has a multiprocessor for itself."""
    return _style.get().programs or machine_of(target).multiprocessors


def programs(target: str) -> int:
    """How many programs a target runs at once: no more are launched where each computes tile after tile."""
    return _style.get().programs or TOGETHER * machine_of(target).multiprocessors


def passing(target: str) -> int:
    """How many programs of a pass over an image are launched, if each computes tile after tile.
    They are 4 warps, and wait for memory: so twice as many as of those that multiply."""
    return _style.get().programs or 2 * TOGETHER * machine_of(target).multiprocessors


def share(shared: int, target: str) -> bool:
    """Whether a multiprocessor has room for all programs that should share it, each with so much shared memory.
    A GPU takes one KB for itself for each of them."""
    return TOGETHER * (shared + 1024) <= machine_of(target).shared * 1024


def for_a_gpu() -> bool:
    """Are tiles chosen for a GPU, so that what was measured on one counts?"""
    return _style.get() is GPU


@contextmanager
def chosen_for(style: Style) -> Iterator[None]:
    """Kernels lowered inside have tiles that are chosen in this way."""
    token = _style.set(style)
    try:
        yield
    finally:
        _style.reset(token)


def power_of_two(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def largest(rows: int, columns: int, depth: int, dtype: str, tap: int = 0) -> tuple[int, int, int]:
    """(m, n, k) of the largest tile of a type for a product of [rows, depth] by [depth, columns].
    If each ``tap`` columns belong to one tap of a filter, a tile does not reach into the next one, where it is large
    enough then."""
    m, n, k = (128, 128, 64) if dtype in NARROW else (64, 64, 32) if dtype == "tf32" else (64, 64, 16)
    m, n, k = _style.get().product or (m, n, k)
    m, n, k = (min(most, max(power_of_two(size), 16)) for most, size in ((m, rows), (n, columns), (k, depth)))
    return m, min(n, tap & -tap) if tap & -tap >= 32 else n, k


def contraction(
    rows: int, columns: int, depth: int, dtype: str, target: str, attempt: int = 0, *, tap: int = 0, beside: int = 1,
    narrow: bool = False,
) -> Tile:  # fmt: skip
    """The tile for a product of [rows, depth] by [depth, columns] (rows at the batch size compiled for).
    Each ``tap`` steps of the depth belong to one tap of a filter, if it has several: no tile reaches into the next.
    A launch computes so many products of this kind ``beside`` one another, for groups or residue classes. With
    ``narrow``, tiles of fewer columns are taken where they multiply less for nothing (:func:`halved`)."""
    style = _style.get()
    m, n, k = largest(rows, columns, depth, dtype)
    if narrow and style.tiles is None and dtype in NARROW:
        n = halved(columns, n)
    some = [m >> i for i in range(9) if m >> i >= min(m, 32)]
    if style.tiles is None:
        m = min(some, key=lambda m: clocks(rows, columns, m, n, dtype, target, dense=tap == 0))
        if dtype in NARROW and -(-rows // m) * -(-columns // n) * beside <= multiprocessors(target):
            m, n, k = few(rows, columns, depth, tap or depth, dtype, target, beside)
    else:
        m = next((m for m in some if -(-rows // m) * -(-columns // n) >= style.tiles), some[-1])
    return product_tile(m, n, k, dtype, target, attempt)


def few(rows: int, columns: int, depth: int, tap: int, dtype: str, target: str, beside: int) -> tuple[int, int, int]:
    """(m, n, k) of the tile of a :func:`contraction` that is so small that not every multiprocessor has a program.

        clocks = waves * ceil(depth / k) * (STEP + together * k * load)

    with load the clocks of :func:`clocks` for each step of the depth, and ``together`` programs on a multiprocessor.
    Nobody else multiplies while a program waits for its next operands, so what counts is how many steps follow one
    another: they are long, and tiles so narrow that the copies of a long one fit."""
    machine, size = machine_of(target), 2 if dtype in NARROW else 4
    each = machine.multiprocessors
    most = [max(power_of_two(extent), 16) for extent in (rows, columns)]
    whole = tap & -tap if tap < depth and tap & -tap >= 32 else power_of_two(tap)  # a box has whole channels of a tap
    longest = min(LONGEST, max(whole, 16))

    def taken(tile: tuple[int, int, int]) -> Fraction:
        """The clocks that the product takes with a tile (m, n, k)."""
        m, n, k = tile
        tiles = -(-rows // m) * -(-columns // n) * beside
        together = min(TOGETHER, -(-tiles // each))
        waves = -(-tiles // (each * together))
        load = max(Fraction(2 * m * n, machine.products_a_clock(dtype)), size * (m + n) / machine.cache_bytes_a_clock)
        return waves * -(-depth // k) * (STEP + together * k * load)

    sides = [[1 << i for i in range(4, 8) if 1 << i <= extent] for extent in most]
    fitting = [
        (m, n, k)
        for m in sides[0] for n in sides[1] for k in (1 << i for i in range(4, 9)) if k <= longest
        and share(COPIES * size * (m + n) * k, target)
    ]  # fmt: skip
    return min(fitting, key=lambda tile: (taken(tile), -tile[0], -tile[1]))


def streamed(
    rows: int, columns: int, depth: int, dtype: str, target: str, attempt: int = 0, *, formed: bool = False,
    beside: int = 0,
) -> Tile:  # fmt: skip
    """The tile of a product whose programs compute tile of rows after tile of rows (`matmul_boxes`).

    It has 64 rows at most, on 4 warps, so that two programs fit a multiprocessor whatever they compute and sum up
    beside the product. Where that does not fit their registers, first the epilogue takes half of the columns at a time
    (:func:`pieces`), then fewer steps of the depth are formed at once, then there are fewer columns.

    Such tiles load filters for every 64 rows. Where that takes the last cache longer than the memory takes for what is
    read and written once (rows of the operand, of the result, and of so many images ``beside`` it), a product that is
    not ``formed`` in registers has the tile that tensor cores want, on a multiprocessor of its own. Its columns are
    stored in halves, too, before the tile is smaller."""
    tile = contraction(rows, columns, depth, dtype, target)
    low = min(tile.m, 64)
    from_cache = Fraction(depth * columns * (low + tile.n), low * tile.n)  # numbers for each row
    if not formed and from_cache > CACHE_OVER_MEMORY * (depth + columns * (1 + beside)):
        return ahead(contraction(rows, columns, depth, dtype, target, max(attempt - 1, 0)))
    m = min(tile.m, 64) if _style.get().tiles is None else tile.m
    if formed and m < tile.m and tile.n < 128:  # each tile of columns forms its rows anew
        tile = replace(tile, n=min(tile.n * (tile.m // m), max(power_of_two(columns), tile.n)))
    shorter = min(tile.k, max(tile.k // 2, 32))
    smaller = ((tile.n, tile.k), (tile.n, shorter), (min(tile.n, 64), tile.k), (min(tile.n, 64), shorter))
    n, k = smaller[min(attempt, 3)]
    tile = product_tile(m, n, k, dtype, target, max(attempt - 3, 0))
    return replace(tile, warps=4)


def step(depth: int, most: int) -> int:
    """How many channels of a tap a box has, up to ``most``, of ``depth`` that are padded with zeros to whole boxes.
    A step of the depth takes as long as its products and those of so many channels more (:data:`BESIDE_STEP`)."""
    some = [most >> i for i in range(9) if most >> i >= min(most, 16)]
    return min(some, key=lambda k: (-(-depth // k) * (k + BESIDE_STEP), -k))


def halved(columns: int, n: int) -> int:
    """The columns of a tile: ``n``, or half of them where so much less is multiplied for nothing (:data:`FOR_NOTHING`).
    Filters of 144 to 192 take two tiles of 128 columns, or three of 64."""
    half = n // 2
    return half if n == 128 and -(-columns // half) * half <= FOR_NOTHING * (-(-columns // n) * n) else n


def boxed(
    rows: int, columns: int, depth: int, dtype: str, target: str, attempt: int = 0, *, alone: bool = False,
    low: bool = False, tap: int = 0, beside: int = 1,
) -> Tile:  # fmt: skip
    """The tile of a convolution whose programs compute tile after tile and leave sums (`conv2d_streams`).

    With 128 columns it takes 8 warps, of which two programs fit a multiprocessor if the epilogue loads nothing; else
    the program is ``alone``. Where registers are too few, the columns are stored in halves (:func:`pieces`), then the
    tile is smaller. With up to 64 columns it has 256 rows on 8 warps, as long as there are many tiles: so it loads
    least for what it multiplies (by simulation: 428 us, and 516 with 128 rows on 4 warps, of which two programs fit
    whatever the epilogue loads). It has 64 rows where that loads by addresses (``low``), or registers are too few."""
    first, *smaller = (
        contraction(rows, columns, depth, dtype, target, i, tap=tap, beside=beside, narrow=True)
        for i in (0, max(attempt - 1, 0), max(attempt - 2, 0))
    )
    if first.n > 64:
        return ahead(smaller[0]) if alone else shorter(smaller[0])
    most = 64 if alone and columns > 64 and (low or attempt > 1) else first.m
    enough = TALL * multiprocessors(target) <= rows // 256 * -(-columns // 64)
    if attempt == 0 and not low and enough and (first.m, first.n) == (128, 64) and for_a_gpu():
        high = replace(first, m=256)
        return ahead(high) if alone else shorter(high)
    return replace(smaller[1], m=min(smaller[1].m, most), warps=4)


def tall(
    rows: int, columns: int, depth: int, dtype: str, target: str, attempt: int = 0, *, tap: int = 0, beside: int = 1,
) -> Tile:  # fmt: skip
    """The tile of a convolution of several taps in boxes that leaves no sums (`conv2d_boxes`).
    The last cache is its limit. Where 64 columns are all there are, or multiply less for nothing than 128
    (:func:`halved`), it has 256 rows on 4 warps if there are enough of them: it loads little more than one of 128x128
    for what it multiplies, and two programs fit a multiprocessor's registers."""
    tile = contraction(rows, columns, depth, dtype, target, max(attempt - 1, 0), tap=tap, beside=beside)
    high = 2 * tile.m
    enough = -(-rows // high) * -(-columns // 64) >= programs(target)
    whole = attempt == 0 and tile.m == 128 and tile.k >= 32 and _style.get().tiles is None and dtype in NARROW
    narrow = tile.n == 64 or (tile.n == 128 and halved(columns, 128) == 64)
    return Tile(high, 64, tile.k, 4, tile.stages) if whole and narrow and enough else tile


def pack(groups: int, width: int) -> int:
    """How many of a convolution's groups, so many channels wide, are multiplied together (`conv2d_rows`).
    They are as many as have PACKED channels. A product of 32 channels takes tensor cores as long as two of 16 do, and
    half as long as one of 64 that has twice as many zeros."""
    return min(groups, max(1, PACKED // width)) if groups > 1 else 1


def by_rows(
    rows: int, columns: int, depth: int, taps: tuple[int, int], beside: int, target: str, packed: bool = False
) -> Tile | None:
    """The tile of a convolution whose programs go down an image row by row (`conv2d_rows`), of so many tiles of a row.

    Of up to 64 columns the sums of a filter's three rows fit the registers of 4 warps, beside sums over pixels, and two
    programs a multiprocessor if its filters, a box for each column of taps, what is stored and the tiles ``beside`` it
    fit the shared memory. Such programs load a third of what those do that compute tap by tap, where the last cache is
    the limit. None where there is more, or runs of rows would be so short that what two of them load counts. On
    Blackwell's larger GPUs sums of products lie in a memory of their own, which they would leave and enter for every
    row.

    Groups that are ``packed`` have no other template that takes boxes, so that runs may be short. Their tiles are so
    small that four programs share a multiprocessor; they wait for one another less than two of twice as many pixels
    do (by simulation: 70 us and 87)."""
    n, (high, wide) = max(power_of_two(columns), 16), taps
    depth = power_of_two(depth)
    registers = high * ROW * n // 128
    held = high * wide * n * depth + wide * ROW * depth + (1 + beside) * ROW * n
    few_rows = not packed and _style.get().tiles is None and rows < LONG * programs(target)
    if high == 1 or depth not in (32, 64) or registers > 96 or few_rows or target not in SUMS_IN_REGISTERS:
        return None
    return Tile(ROW, n, depth, 4, 2) if share(2 * held + SCRATCH, target) else None


def packs(channels: int, width: int, taps: int, target: str) -> Tile | None:
    """The tile of a grouped convolution with a stride, or of its gradient by the input (`conv2d_packs`).
    Each warp has 16 columns, made of the 16 channels of whole groups, and the filters of all ``taps`` in registers.
    None where they do not fit, or groups, so many channels wide, do not divide 16 channels: as blocks of 32 by 16
    groups of 32 take longer than as tiles (by simulation: 82 us and 75 forward, 210 and 137 by the input)."""
    k = BLOCK_OF_FILTERS
    if k % width or channels <= 32 or taps * k * k > 32 * MOST_SUMS // 2 or target not in SUMS_IN_REGISTERS:
        return None
    return Tile(32, 64, k, 4, 3)


def packed_sums(channels: int, width: int, taps: int, strided: bool, target: str) -> Tile | None:
    """The tile of a weight gradient whose groups, ``width`` of all ``channels`` wide, are multiplied together.

    Each warp has a block of 16 filters by 16 channels, or by 32 of wider groups, and 64 pixels a step: instructions of
    a warp (mma.sync) do six tenths of what those of four warps do, which have 64 rows by 64 channels, and multiply a
    quarter as many zeros. Three stages are two boxes of each operand, and two programs a multiprocessor; a strided
    gradient's boxes are more, and two stages leave it three programs. None where blocks do not divide into groups, or
    sums do not fit the registers."""
    n = next((n for n in (BLOCK_OF_FILTERS, 2 * BLOCK_OF_FILTERS) if n % width == 0), None)
    if n is None or channels < 32 or taps * BLOCK_OF_FILTERS * n > 32 * MOST_SUMS or target not in SUMS_IN_REGISTERS:
        return None
    m = 64 if channels > 32 else 32
    return Tile(m, n, 64, m // BLOCK_OF_FILTERS, 2 if strided else 3)


def ahead(tile: Tile) -> Tile:
    """The tile with one stage of copies more, if its programs have a multiprocessor for themselves (:func:`alone`).
    Nobody else multiplies there while they wait."""
    return replace(tile, stages=tile.stages + 1) if tile.warps > 4 and tile.stages > 2 else tile


def rows_at_once(tile: Tile) -> int:
    """How many rows of a tile its threads load or store at once, 16 bytes of 16-bit numbers each."""
    return 32 * tile.warps * 8 // tile.n


def shorter(tile: Tile) -> Tile:
    """The tile with shorter steps and one stage more, which take less shared memory, if it is one of 8 warps.
    So two programs fit a multiprocessor, beside what each stores."""
    return replace(tile, k=32, stages=4) if tile.warps > 4 and tile.k == 64 and tile.stages == 3 else tile


def alone(tile: Tile) -> bool:
    """Whether a tile is that of programs that have a multiprocessor for themselves (:func:`ahead`).
    As many are launched as there are multiprocessors: a second one would begin when the first has ended."""
    return tile.warps > 4 and tile.stages > 3


def pieces(columns: int, attempt: int) -> int:
    """In how many pieces the columns of a :func:`streamed` tile are stored, one after another.
    They are two halves, once a compiler has spilled it: so what the epilogue holds in registers beside the product is
    half as much."""
    return 2 if attempt > 0 and columns >= 128 else 1


def product_tile(m: int, n: int, k: int, dtype: str, target: str, attempt: int = 0) -> Tile:
    """The tile with so many rows, columns and steps of the depth, made smaller so many times; its warps and stages."""
    narrow = dtype in NARROW
    stages = 3 if narrow and target.startswith("sm_") else 2
    for step in range(attempt):
        if step % 3 == 0 and stages > 1 and (m * n <= 4096 or k > 32):
            stages -= 1
        elif step % 3 == 1 and k > 16:
            k //= 2
        elif m >= n and m > 16:
            m //= 2
        elif n > 16:
            n //= 2
    return Tile(m, n, k, 8 if m * n >= (8192 if narrow else 16384) else 4, stages)


def clocks(rows: int, columns: int, m: int, n: int, dtype: str, target: str, *, dense: bool = False) -> Fraction:
    """Clocks for each step of a product's depth, in tiles of m by n:

        waves * max(2mn / products, size * (m + n) / bytes),   waves = ceil(tiles / programs at once)

    where a multiprocessor of the target does so many operations of products, and gets so many bytes from the last
    cache, each clock (machines.py). So a small product takes smaller tiles, until they fill the GPU; but these load
    more for what they multiply, and one tile more than fits at once takes a wave of its own. Exact, so that equals
    are equal: then the larger tile is taken. Where the tiles of a ``dense`` product, without taps, all run at once,
    what counts is how many of them a multiprocessor has: half a wave is one each. (With taps that was worse as often as
    not, by simulation.)
    """
    machine = machine_of(target)
    tiles, each = -(-rows // m) * -(-columns // n), machine.multiprocessors
    waves = Fraction(-(-tiles // (TOGETHER * each)))
    if dense and tiles <= TOGETHER * each:
        waves = Fraction(-(-tiles // each), TOGETHER)
    size = 2 if dtype in NARROW else 4
    multiply, load = Fraction(2 * m * n, machine.products_a_clock(dtype)), size * (m + n) / machine.cache_bytes_a_clock
    return waves * max(multiply, load)


def elementwise(channels: int, attempt: int = 0) -> Tile:
    """The tile of a pass over [pixels, channels]: about 1024 elements on a GPU."""
    n = min(power_of_two(channels), 256)
    return Tile(max(1, (_style.get().elements >> attempt) // n), n, 1, 4, 1)


def in_blocks(channels: int, attempt: int = 0) -> Tile:
    """[blocks, channels] in tiles of 256 elements on a GPU, of which a thread has two, each with a block of results."""
    n = min(power_of_two(channels), 64)
    return Tile(max(1, (_style.get().elements // 4 >> attempt) // n), n, 1, 4, 1)


def whole(channels: int, pixels: int, images: int, target: str, attempt: int = 0) -> Tile:
    """The tile for a program that sums all pixels of an image: as many at once as a thread can load.
    A program has up to 64 channels, and fewer where there would not be one for each multiprocessor."""
    n = min(power_of_two(channels), 64)
    while n > 16 and images * -(-channels // n) < machine_of(target).multiprocessors:
        n //= 2
    return Tile(min(power_of_two(pixels), max(1, (4 * _style.get().elements >> attempt) // n)), n, 1, 4, 1)


def packed(pitch: int, attempt: int = 0) -> Tile:
    """The tile for images amid zeros in rows of ``pitch`` elements: its rows share what is computed for a column."""
    tile = elementwise(pitch, attempt)
    return replace(tile, m=4 * tile.m)


def with_sums(channels: int, attempt: int = 0) -> Tile:
    """The tile of a pass that leaves sums over each tile's pixels: enough of them that the sums are few."""
    return Tile(64 >> attempt, min(power_of_two(channels), 64), 1, 4, 1)


def box(rows: int, images: int, height: int, width: int, *, of_images: bool = False) -> tuple[int, int, int] | None:
    """(images, rows, columns) of boxes of so many pixels that cover ``images`` images with the least waste.
    Of equals it is the widest; or that ``of_images``, of most of them: one pixel of each is a matrix as it lies. None
    if more than a quarter of all they cover would be waste: gathering costs more."""
    shapes = [(rows >> i >> j, 1 << i, 1 << j) for j in range(9) for i in range(9) if rows >> i >> j]
    covered = {
        b: prod(-(-size // of) * of for size, of in zip((images, height, width), b, strict=True)) for b in shapes
    }
    best = min(shapes, key=lambda b: (covered[b], -b[0] * of_images, -b[2], -b[1]))
    return best if best[0] <= 256 and covered[best] * 3 <= images * height * width * 4 else None
