"""A graph from any ``nn.Module`` whose operations tricnn knows.

``torch.export`` runs ``forward`` once on tensors without numbers and writes down what it calls, one call for each
layer. Only a program with a call that nobody here knows, or one that changes memory in place that somebody else sees,
is traced again in the words of ATen's core (``run_decompositions({})``). Each call is read by the table of
:mod:`tricnn.frontends.torch_ops`. Names are the module's own, so that its ``state_dict`` fits.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from ..ir.graph import Graph
from ..system.errors import GraphError, shown
from ..system.waiting import Waiting
from .assembler import accepted_name
from .imported_graphs import found, keep, key_of
from .torch_gradients import switched_off, watched
from .torch_graph import assembled, state_of, understood
from .torch_in_place import changes
from .torch_source import code_of, code_of_traceback
from .views import View

if TYPE_CHECKING:
    import torch

    Module = torch.nn.Module

EXAMPLE = "a tensor [N, C, H, W] as forward takes it, its shape, or a tuple of tensors for several inputs"


def from_torch(
    module: Module, example: Any, *, name: str | None = None, loss_weights: Mapping[str, float] | None = None,
    cache: bool = True,
) -> tuple[Graph, dict[str, torch.Tensor]]:  # fmt: skip
    """The graph of a PyTorch module, and its parameters and buffers by name: ``m.load_state_dict(state)``.

    Buffers that are not persistent and that forward reads are among them: they are in no ``state_dict`` of the module.

    module        any ``nn.Module`` of supported operations (docs/pytorch.md); its parameters may be on the meta device.
                  It is taken in the mode that it is in: of ``module.train()`` come dropout and batch norms that learn;
                  of ``module.eval()``, and of single layers in that mode, batch norms that keep their statistics in
                  training too. A parameter that requires no gradient is a buffer of the graph, unless none does.
    example       what forward takes: a tensor ``[N, C, H, W]`` (only its shape matters), its shape as a tuple, or a
                  tuple of tensors. Every size is fixed by it but the batch's.
    name          of the graph; the module's class otherwise.
    loss_weights  the share in the training loss of outputs, by name; 1 otherwise.
    cache         keep the graph on disk (``TRICNN_CACHE``), and take it from there if module, code and shapes are those
                  of an earlier import.

    A single output is called ``logits``, those of a dictionary or a named tuple after their keys, those of a tuple
    ``output0``, ``output1``, ...; outputs that only ``train()`` has are left out of inference.

    Warns of what forward does to gradients beside its values, for the graph does not know it: the own backward of an
    autograd.Function, hooks on values, torch.no_grad.

    Raises GraphError: for a module that torch.export cannot export; for one that fixes its batch size; and, all at once
    in ``error.problems``, for operations that are not supported, each with its module, its line of code and what to do.
    """
    graph, unseen = graph_of(module, example, name, loss_weights, cache)
    if unseen:
        warnings.warn(f"{graph.name}: {unknown(unseen)}: gradients are those of its values", stacklevel=2)
    return graph, state_of(unwrapped(module), graph)


def unknown(unseen: Sequence[str]) -> str:
    """What is said of what forward does to gradients that the graph does not know."""
    return f"forward has {' and '.join(unseen)}, which a compiled network does not know"


def graph_of(
    module: Module, example: Any, name: str | None = None, loss_weights: Mapping[str, float] | None = None,
    cache: bool = True, views: dict[str, View] | None = None,
) -> tuple[Graph, tuple[str, ...]]:  # fmt: skip
    """The graph of a module as :func:`from_torch` has it, and what forward does to gradients beside it, in words.
    Into ``views`` go those under which forward returns outputs that the graph has in another shape; without it, such
    outputs are not supported."""
    import torch

    module = unwrapped(module)
    if not isinstance(module, torch.nn.Module):
        raise GraphError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    graph_name = accepted_name(name or type(module).__name__.lower(), "module")
    inputs = example_inputs(module, example)
    check_modules(module)
    key = key_of(module, inputs, graph_name, dict(loss_weights or {})) if cache else None
    unseen: tuple[str, ...] = ()
    graph = found(key)
    if graph is None:
        with reporting(module, graph_name):
            program, unseen = exported(module, inputs)
        graph = assembled(module, program, inputs, graph_name, dict(loss_weights or {}), views)
        if not unseen and not views:
            keep(key, graph)
    return graph, unseen


def unwrapped(module: Any) -> Any:
    """The module inside torch.compile's and DataParallel's wrappers."""
    import torch

    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, parallel):
            module = module.module
        else:
            return module


def example_inputs(module: Module, example: Any) -> tuple[torch.Tensor, ...]:
    """Tensors of the example's shapes where the module's parameters are, with a batch of 2 at least.
    A batch of 1 would be exported as a fixed size."""
    import torch

    first = next(module.parameters(), None)
    device, real = ("cpu", torch.float32) if first is None else (first.device, first.dtype)
    if isinstance(example, Sequence) and example and all(isinstance(d, int) for d in example):
        example = torch.empty(tuple(example), device="meta")
    given = list(example) if isinstance(example, tuple | list) else [example]
    inputs = []
    for x in given:
        if isinstance(x, np.ndarray):
            x = torch.empty(x.shape, device="meta")
        if not isinstance(x, torch.Tensor) or x.dim() not in (2, 4):
            what = f"a tensor of {x.dim()} axes" if isinstance(x, torch.Tensor) else shown(x)
            raise GraphError(f"example: {what} is not accepted; {EXAMPLE}")
        kind = x.dtype if not x.is_floating_point() else real
        inputs.append(torch.zeros((max(x.shape[0], 2), *x.shape[1:]), dtype=kind, device=device))
    if not inputs:
        raise GraphError(f"example: it is empty; {EXAMPLE}")
    return tuple(inputs)


def check_modules(module: Module) -> None:
    """Raise GraphError for what torch.export would only stumble over."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise GraphError("a scripted module cannot be imported; give the nn.Module that it was made from")
    for path, layer in module.named_modules():
        if any(torch.nn.parameter.is_lazy(p) for p in layer.parameters(recurse=False)):
            raise GraphError(f"module {path}: its parameters have no shape yet; run the module once on real images")
        norm = isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
        if norm and layer.training and layer.track_running_stats and layer.momentum is None:
            raise GraphError(f"module {path}: momentum=None (a cumulative average) is not accepted; give it a number")


def exported(module: Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, tuple[str, ...]]:
    """The module's calls, functional, one for each layer, and what forward does to gradients beside them, in words.
    Raises GraphError in one line where it cannot be exported."""
    import torch

    open_batch = ({0: torch.export.Dim.AUTO},) * len(inputs)
    try:
        with warnings.catch_warnings(), without_partial_graphs():
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations
            with watched() as seen:
                program = torch.export.export(module, inputs, dynamic_shapes=(open_batch), strict=False)
            unseen = tuple(dict.fromkeys((*seen, *switched_off(program))))
            if understood(module, program):
                return program, unseen
            check_traceable(module, program)
            return program.run_decompositions({}), unseen
    except GraphError:
        raise
    except Exception as error:  # whatever forward or the exporter raises
        message = re.split(r"\n\s*\n|\n(?=\s*(?:The following|For more|To debug|File))", str(error).strip())[0]
        message = " ".join(message.split())[:300] or type(error).__name__
        advice = "forward must take an example of the shape given, and may not decide by the numbers in a tensor"
        if type(error).__name__.startswith("GuardOnDataDependent"):
            message, advice = "it decides by the numbers in a tensor", "which no graph can: write it with torch.where"
        where = code_of_traceback(error.__traceback__)
        at = f" ({where})" if where else ""
        raise GraphError(f"{type(module).__name__} cannot be exported{at}: {message}; {advice}") from error


def check_traceable(module: Module, program: Any) -> None:
    """Raise GraphError if PyTorch would trace a program again to other numbers: see :mod:`.torch_in_place`."""
    change = next((change for change in changes(program) if change.unsaid is not None), None)
    if change is None:
        return
    same, call = (node.target._schema.name.removeprefix("aten::") for node in (change.unsaid, change.call))
    raise GraphError(
        f"{type(module).__name__} cannot be imported: {call} ({code_of(change.call)}) changes what is read under "
        f"another name as well, for {same} ({code_of(change.unsaid)}) returned its operand itself; write a new tensor "
        "there (x = x + 1 for x += 1, inplace=False)"
    )


@contextmanager
def without_partial_graphs() -> Iterator[None]:
    """A context in which torch.export does not print the graph that it had when it failed: the error says enough.
    What else was written to standard error comes at the end, unless it failed."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, written = log.level, io.StringIO()
    log.setLevel(logging.ERROR)
    try:
        with redirect_stderr(written):
            yield
    finally:
        log.setLevel(level)
    sys.stderr.write(written.getvalue())


@contextmanager
def reporting(module: Module, name: str) -> Iterator[None]:
    """A line on standard error every few seconds: which module an export is at."""
    import torch

    modules = {id(m): path for path, m in module.named_modules()}
    seen: dict[str, None] = {}

    def at(layer: Any, _: Any) -> None:
        if (path := modules.get(id(layer))) is not None:
            seen[path] = None

    def text() -> str:
        last = next(reversed(seen), "")
        return f"importing {name}: {len(seen)} of {len(modules)} modules{f', last {last}' if last else ''}"

    hook = torch.nn.modules.module.register_module_forward_pre_hook(at)
    try:
        with Waiting(Console(file=sys.stderr, markup=False, highlight=False, emoji=False), text):
            yield
    finally:
        hook.remove()
