"""A step that several processes make together, each with its share of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..run.launches import Watcher
from ..run.loss_targets import in_whole_batch, weights_of
from .batch_norm_exchange import BatchNormExchange
from .gradient_exchange import GradientExchange
from .processes import Processes


class SharedStep:
    """The mean loss of a batch, and its gradients by parameter as an optimiser wants them, over all ``processes``.

    Running statistics are averaged after each step, each process's weighed by its share of the images; or, with
    ``sync_batch_norm``, every process normalises by the statistics of the whole batch. If the loss weighs classes, or
    ignores one, class numbers weigh what they do in the whole batch, and so do those that are mixed with them.
    """

    def __init__(self, model: Any, processes: Processes, sync_batch_norm: bool = False):
        self.model, self.processes = model, processes
        self.exchange = GradientExchange(processes.distributed)
        self.norm = BatchNormExchange(processes.distributed, model) if sync_batch_norm else None

    def __call__(self, x: Any, labels: Any) -> tuple[float, dict[str, Any], int]:
        """(loss, gradients, how many images the batch has) for this process's images. Raises ProcessLost."""
        own = [len(x) * (rank == self.processes.rank) for rank in range(self.processes.world)]
        weights = weights_of(self.model.loss, self.model.graph, labels, len(x))
        totals = self.processes.total([*own, *weights])
        counts, labels = totals[: len(own)], in_whole_batch(labels, totals[len(own) :])
        images = int(sum(counts))
        self.exchange.share = len(x) / images
        if self.norm is not None:
            self.norm.begin([count / images for count in counts], images)
        watch = Watcher(self.exchange.watch)
        if self.norm is not None:
            watch = replace(watch, sums=self.norm.merge)
        with self.processes.answering():
            loss, gradients = self.model.loss_and_storage_grads(x, labels, watch)
            self.exchange.finish()
            if self.norm is not None:
                self.norm.finish()
            else:
                self.exchange.average(list(self.model.running_statistics().values()))
        (loss,) = self.processes.total([loss * self.exchange.share])
        return loss, gradients, images
