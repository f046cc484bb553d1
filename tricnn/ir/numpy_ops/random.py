"""Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""

import numpy as np
import numpy.typing as npt

from tricnn.ir.numpy_ops.parallel import for_tiles

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox_4x32(
    counter0: npt.ArrayLike,
    counter1: npt.ArrayLike,
    counter2: npt.ArrayLike,
    counter3: npt.ArrayLike,
    key0: int,
    key1: int,
) -> tuple[np.ndarray, ...]:
    """Ten rounds of Philox-4x32: four uint32 arrays from four uint32 counters (which broadcast) and a 2x32-bit key.

    Each round, with hi and lo the halves of the 64-bit product:
    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)), then the key advances.
    """
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint32) for c in (counter0, counter1, counter2, counter3))
    for round_number in range(_ROUNDS):
        k0 = np.uint32((key0 + round_number * _WEYL_0) & 0xFFFFFFFF)
        k1 = np.uint32((key1 + round_number * _WEYL_1) & 0xFFFFFFFF)
        hi0, lo0 = _multiply(c0, _MULTIPLIER_0)
        hi1, lo1 = _multiply(c2, _MULTIPLIER_1)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
    return c0, c1, c2, c3


def keep_mask(shape: tuple[int, ...], *, p: float, seed: int, layer: int, step: int) -> np.ndarray:
    """True where dropout with probability p keeps an element; a bool array of `shape`.

    Element i (the logical row-major index, modulo 2^32, whatever the strides) is kept if the first word of
    philox_4x32(i, layer, step, 0, key=seed) is at least round(p * 2^32). A 4-D result is channels-last in memory.
    """
    threshold = round(p * 2**32)
    element = np.zeros((1,) * len(shape), dtype=np.uint32)
    scale = 1
    for axis in reversed(range(len(shape))):
        along = (np.arange(shape[axis], dtype=np.uint64) * np.uint64(scale % 2**32)).astype(np.uint32)
        element = element + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        scale *= shape[axis]
    if len(shape) == 4:
        element = element.transpose(0, 2, 3, 1)
    memory_shape = element.shape
    element = np.ascontiguousarray(element).reshape(-1)
    keep = np.empty(element.size, dtype=bool)
    if threshold > 0xFFFFFFFF:
        keep[:] = False
    else:
        key0, key1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF

        def work(part: slice) -> None:
            word = philox_4x32(element[part], layer & 0xFFFFFFFF, step & 0xFFFFFFFF, 0, key0, key1)[0]
            np.greater_equal(word, np.uint32(threshold), out=keep[part])

        for_tiles(work, element.size, 4)
    keep = keep.reshape(memory_shape)
    return keep.transpose(0, 3, 1, 2) if len(shape) == 4 else keep


def _multiply(c: np.ndarray, multiplier: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    product = c.astype(np.uint64) * multiplier
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)
