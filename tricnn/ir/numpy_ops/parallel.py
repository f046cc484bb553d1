"""Elementwise work on all cores.
Matrix products are threaded by the BLAS itself and do not come through here."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from ...system.cores import usable_cores

_cores = lru_cache(usable_cores)
_WORTH_A_THREAD = 1 << 17  # elements; less than this takes no longer than waking a thread
_TILE = 1 << 18  # elements of the largest array that a tile reads or writes: temporaries stay in cache


def for_tiles(work: Callable[[slice], None], count: int, elements_each: int) -> None:
    """Call work(slice) for slices that cover range(count), on all cores, a cache-sized tile at a time.

    `work` must compute each item (an image, mostly) by itself: the result may not depend on how items are divided.
    """
    size = max(1, _TILE // max(1, elements_each))

    def run(start: int, stop: int) -> None:
        for i in range(start, stop, size):
            work(slice(i, min(stop, i + size)))

    workers = min(_cores(), count) if count * elements_each >= _WORTH_A_THREAD else 1
    shares = [(count * i // workers, count * (i + 1) // workers) for i in range(workers)]
    others = [_pool().submit(run, *share) for share in shares[1:]]
    try:
        run(*shares[0])
    finally:
        for other in others:
            other.result()


@lru_cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _cores() - 1), thread_name_prefix="tricnn-numpy")


if hasattr(os, "register_at_fork"):  # a forked child inherits the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
