"""Batch norm over several processes (SyncBatchNorm): every process normalises by the statistics of all their images.

A process r has the share s_r = (its images) / (images of all) of a batch. Between the launches of its step its own sums
are gathered, and put together in the order of ranks, in float64:

    forward     mean = sum s_r mean_r,     var = sum s_r (var_r + (mean_r - mean)^2)     (Chan, Golub and LeVeque 1979)
    backward    (sum dy, sum dy xhat) = sum s_r (sum dy_r, sum dy_r xhat_r)

In the second line dy_r is the gradient of the process's mean loss, of which each pixel's share in the mean of all is
s_r. So the input's gradient, dx = weight rstd (dy - sum(dy)/m - xhat sum(dy xhat)/m) with the process's own number of
pixels m, is s_r times itself in the step of one process with the whole batch, just as those of all other layers are.
"""

from __future__ import annotations

from typing import Any

from ..ir.table import OPS, Environment
from .gradient_exchange import shared_tensor


class BatchNormExchange:
    """What the processes of ``distributed`` know of a batch together, for a compiled ``model``.

    Call :meth:`begin` before a step, give :meth:`merge` as ``sums`` of its watcher, and call :meth:`finish` after it.
    """

    def __init__(self, distributed: Any, model: Any):
        import torch

        self.torch, self.distributed, self.model = torch, distributed, model
        self.graph = model.plan.graph
        self.merged: dict[str, Any] = {}
        self.before: dict[str, Any] = {}

    def begin(self, shares: list[float], images: int) -> None:
        """Remember the running statistics from before the step, which moves them by those of this process alone.
        ``shares`` are those of all processes, ``images`` how many the batch has."""
        self.shares, self.images = shares, images
        self.merged.clear()
        self.before = {name: shared_tensor(x).clone() for name, x in self.model.running_statistics().items()}

    def merge(self, value: str, pair: Any) -> None:
        """Put in the place of a process's statistics, or sums, [2, C], those of all."""
        own = shared_tensor(pair)
        parts = [self.torch.empty_like(own, memory_format=self.torch.contiguous_format) for _ in self.shares]
        self.distributed.all_gather(parts, own.contiguous())
        wide = [part.double() for part in parts]
        if self.graph.by_name[value].row.moments:
            mean = self.weighed([mean for mean, _ in wide])
            own.copy_(self.torch.stack([mean, self.weighed([var + (m - mean) ** 2 for m, var in wide])]))
        else:
            own.copy_(self.weighed(wide))
        self.merged[value] = own.clone()

    def weighed(self, parts: list[Any]) -> Any:
        """The sum of what each process has, times its share, in the order of ranks."""
        total = parts[0] * self.shares[0]
        for part, share in zip(parts[1:], self.shares[1:], strict=True):
            total = total + part * share
        return total

    def finish(self) -> None:
        """Move the running statistics, from where they were before the step, by those of the whole batch."""
        env = Environment()
        for buffer, update in self.graph.updates:
            node, now = self.graph.by_name[update], shared_tensor(self.model.running_statistics()[buffer])
            of = [self.torch.zeros(()).expand(self.graph.types[v].at(self.images)) for v in node.inputs[2:]]
            moved = OPS[node.op].aten(env, node.attrs, self.before[buffer], self.statistics(node.inputs[1]), *of)
            now.copy_(moved.reshape(now.shape))

    def statistics(self, value: str) -> Any:
        """The merged statistics, or those of some channels of them."""
        if value in self.merged:
            return self.merged[value]
        node = self.graph.by_name[value]
        return OPS[node.op].aten(Environment(), node.attrs, *(self.statistics(v) for v in node.inputs))
