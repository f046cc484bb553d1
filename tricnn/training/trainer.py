"""Training as an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..run.model import Model, compile
from ..system.errors import TargetError, TricnnError
from .batch_sources import Batches, Source
from .loop import TrainResult, train
from .options import TrainOptions


class Trainer:
    """``Trainer(model, data, options).fit()`` trains a compiled network, and tests it after every epoch.

    model      what ``tricnn.compile(graph, mode="train", ...)`` gives
    data       a :class:`Dataset`, a :class:`PictureFolder`, :class:`Batches`, any other :class:`Source`; or a pair of
               iterables of (images [B, C, H, W], labels [B]): to train on, to test with
    options    :class:`TrainOptions`
    callbacks  objects with any of ``on_step(step, loss)``, ``on_epoch(record)`` and ``on_checkpoint(path)``
    out        a folder for the checkpoint, ``epochs.csv``, ``log.jsonl``, the running average, and TensorBoard's files
               where that is installed; with ``resume`` a run goes on from it, to the same bits
    console    a ``rich.console.Console`` that shows how it goes; none unless it is given

    Raises TargetError for a model that was not compiled for training, TricnnError for data that are none of these.
    """

    def __init__(
        self,
        model: Model,
        data: Source | tuple[Any, Any],
        options: TrainOptions | None = None,
        callbacks: Sequence[Any] = (),
        *,
        out: str | Path | None = None,
        resume: bool = False,
        console: Console | None = None,
    ):
        if getattr(model, "mode", None) != "train":
            raise TargetError("a Trainer takes a model compiled with mode='train'")
        if isinstance(data, tuple):
            if len(data) != 2:
                raise TricnnError(f"data: expected a data set or a pair of iterables, got {len(data)} things")
            data = Batches(*data, num_classes=model.graph.classes)
        self.model, self.data, self.options = model, data, options or TrainOptions()
        self.callbacks, self.out, self.resume, self.console = tuple(callbacks), out, resume, console
        self.evaluator = compile(
            model.graph,
            "infer",
            self.options.evaluation_batch,
            model.dtype,
            model.executor.name,
            model.chosen_target,
            model.plan.policy,
        )

    def fit(self) -> TrainResult:
        """Train to the end of the last epoch, or from where a run in ``out`` stopped.
        Raises what :func:`tricnn.training.train` raises."""
        return train(
            self.model,
            self.evaluator,
            self.data,
            self.options,
            self.out,
            self.resume,
            self.console,
            callbacks=self.callbacks,
        )
