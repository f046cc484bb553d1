"""Gradients summed over processes while the rest of the backward pass runs.

Gradients are packed in buckets in the order in which a step finishes them. As soon as the last one of a bucket is
finished, its sum over all processes begins (an all-reduce that does not wait); when the step has ended, the sums are
waited for and take the gradients' place. (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training", VLDB 2020, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: bytes of gradients in a bucket: few enough that the last ones do not wait long, enough that a sum is not all latency
BUCKET_BYTES = 5 * 2**20


class GradientExchange:
    """The sum over processes of every gradient of a step, each times this process's ``share``:

        g = sum over ranks r of share_r * g_r

    With ``share_r`` = (images of rank r) / (images of all ranks), and each g_r of the mean loss of the rank's images,
    g is the gradient of the mean loss of all images. Pass ``watch`` to ``loss_and_storage_grads``, then call
    :meth:`finish`. The first step finds out in which order gradients are finished, and sums them at its end; buckets
    are made from it. All processes run the same plan, so their buckets are the same.
    """

    def __init__(self, distributed: Any, bucket_bytes: int = BUCKET_BYTES):
        self.distributed = distributed
        self.bucket_bytes = bucket_bytes
        self.share = 1.0
        self._order: list[tuple[str, Any]] = []  # as this step finished them
        self._buckets: list[_Bucket] = []
        self._of: dict[str, _Bucket] = {}

    def watch(self, parameter: str, gradient: Any) -> None:
        """Take a gradient that is finished; begin the sum of its bucket if it is the last one of that."""
        gradient = shared_tensor(gradient)
        bucket = self._of.get(parameter)
        if bucket is None:
            self._order.append((parameter, gradient))
        elif bucket.take(parameter, gradient, self.share):
            bucket.begin(self.distributed)

    def finish(self) -> None:
        """Wait for all sums, and write them where the gradients were."""
        if self._order:
            self._make_buckets()
        for bucket in self._buckets:
            bucket.finish()

    def average(self, tensors: Sequence[Any]) -> None:
        """Put in the place of each tensor its sum over processes, each process's times its ``share``."""
        tensors = [shared_tensor(x) for x in tensors]
        if not tensors:
            return
        bucket = _Bucket({str(i): x.shape for i, x in enumerate(tensors)}, tensors[0])
        for i, x in enumerate(tensors):
            bucket.take(str(i), x, self.share)
        bucket.begin(self.distributed)
        bucket.finish()

    @property
    def bytes_by_bucket(self) -> list[int]:
        """How many bytes each bucket sums, in the order in which the sums begin."""
        return [bucket.flat.numel() * bucket.flat.element_size() for bucket in self._buckets]

    def _make_buckets(self) -> None:
        """Buckets of the gradients in their order, and the sums of this first step."""
        found = dict(self._order)
        self._order = []
        sizes = [(parameter, g.numel() * g.element_size()) for parameter, g in found.items()]
        for names in packed(sizes, self.bucket_bytes):
            bucket = _Bucket({name: found[name].shape for name in names}, found[names[0]])
            self._buckets.append(bucket)
            self._of.update(dict.fromkeys(names, bucket))
            for name in names:
                bucket.take(name, found[name], self.share)
            bucket.begin(self.distributed)


def packed(sizes: Sequence[tuple[str, int]], limit: int) -> list[list[str]]:
    """The names of the gradients in each bucket, in the order given, in which they are finished.
    ``sizes`` are pairs of a name and its bytes. A bucket holds at most ``limit`` bytes and the last one a 25th of that,
    or one gradient: the step's last gradients have nothing left to hide their sum behind, so it must be short."""
    buckets: list[list[str]] = []
    filled, room = 0, 0
    for name, size in reversed(sizes):
        if not buckets or filled + size > room:
            room = limit if buckets else limit // 25
            buckets.append([])
            filled = 0
        buckets[-1].append(name)
        filled += size
    return [bucket[::-1] for bucket in reversed(buckets)]


class _Bucket:
    """Some gradients in one piece of memory, and their sum on its way."""

    def __init__(self, shapes: Mapping[str, Any], like: Any):
        counts = [shape.numel() for shape in shapes.values()]
        self.flat = like.new_zeros(sum(counts))
        pieces = self.flat.split(counts)
        self.parts = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        self.taken: dict[str, Any] = {}
        self.work: Any = None

    def take(self, parameter: str, gradient: Any, share: float) -> bool:
        """Pack one gradient times ``share``. Is the bucket full?"""
        self.parts[parameter].copy_(gradient).mul_(share)
        self.taken[parameter] = gradient
        return len(self.taken) == len(self.parts)

    def begin(self, distributed: Any) -> None:
        """Start the sum over all processes."""
        self.work = distributed.all_reduce(self.flat, async_op=True)

    def finish(self) -> None:
        """Wait for the sum, and write it where the gradients were."""
        self.work.wait()
        for parameter, gradient in self.taken.items():
            gradient.copy_(self.parts[parameter])
        self.taken.clear()


def shared_tensor(x: Any) -> Any:
    """A torch tensor that shares the memory of a NumPy array; a tensor as it is."""
    import torch

    return x if isinstance(x, torch.Tensor) else torch.from_numpy(x)
