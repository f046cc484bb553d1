"""Work that the last of several programs does, so that no launch of its own has to do it.

Programs that leave partial results count themselves at a counter in memory. The one that finds all others counted
already adds the results up, in their order: which program that is depends on chance, what it computes does not.
"""

import triton
import triton.language as tl


@triton.jit
def is_last(counter, programs):
    """Whether this program is the last of so many to come here.
    Then it may load what the others stored before they came.

    counter: a pointer to an int32 that is 0 before the first comes, and again after the last. All threads of a program
    have stored what they will (the first barrier), which the addition releases; what the others released it acquires,
    for all threads (the second barrier): PTX ISA 8.8, "Causality order".
    """
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.atomic_xchg(counter, 0, sem="relaxed", scope="gpu")
    tl.debug_barrier()
    return last
