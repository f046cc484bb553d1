"""``torch.compile(model, backend="tricnn")``: what tricnn knows of a network is compiled, the rest runs as it did.

Dynamo hands over a graph of PyTorch's own calls, before autograd. All calls are tried at once, by the import that
``from_torch`` makes; those that are understood, in the order in which they stand, make regions, each of which becomes a
:class:`tricnn.Graph` and runs as one node of autograd (torch_function.py). Counters of batches are moved to the front;
what a region would change in place for somebody else to see keeps it from being compiled.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch._guards import tracing

from ..compiler.policies import policy_named
from ..ir.graph import Graph
from ..ir.table import Kind
from ..ir.wording import plural, size
from ..machine.dtypes import dtype_named
from ..run.channels_last import to_storage
from ..run.model import ALL_DTYPES, EXECUTORS
from ..run.open_step import OpenStep
from ..system.errors import GraphError, TargetError, shown
from .assembler import NotImported
from .torch_export import example_inputs, exported, unknown
from .torch_function import Call, as_tensor, autocast_to, called, executor_on, wanted
from .torch_graph import assembled
from .torch_regions import Calls, Split, counters, split, value_of, why_outside

#: plans by graph, settings and what is wanted: a graph that Dynamo hands over again, for another batch size, has one
PLANS: dict[Any, OpenStep] = {}
MOST_PLANS = 64
LOCK = threading.RLock()


@dataclass(frozen=True)
class Options:
    """The options of ``torch.compile(..., options={...})``.
    They are the type of products (fp32, or autocast's, unless said), the policy of fusion, the executor, and whether a
    region that cannot be compiled is an error."""

    dtype: str | None = None
    fuse: str = "auto"
    executor: str = "auto"
    strict: bool = False

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> Options:
        """Options as the caller writes them; raises TargetError for those that do not exist."""
        given = dict(given or {})
        for key in given:
            if key not in cls.__dataclass_fields__:
                raise TargetError(f"option {shown(key)} is unknown; accepted: {', '.join(cls.__dataclass_fields__)}")
        if given.get("dtype") is not None:
            given["dtype"] = dtype_named(given["dtype"])
        given["fuse"] = policy_named(given.get("fuse", True))
        known = {"dtype": (None, *ALL_DTYPES), "executor": EXECUTORS, "strict": (True, False)}
        for key, accepted in known.items():
            if given.get(key, accepted[0]) not in accepted:
                raise TargetError(f"option {key}={shown(given[key])}; accepted: {', '.join(map(str, accepted))}")
        return cls(**given)


@dataclass
class Region:
    """Calls that stand one after another: compiled (``graph``), or run as before (``reason`` says why)."""

    part: Split
    graph: Graph | None = None
    reason: str = ""
    names: dict[str, Any] = field(default_factory=dict)  # of the graph's sources: Dynamo's node
    step: OpenStep | None = None  # the last that ran
    copied_bytes: int = 0  # of parameters that do not lie as kernels read them, in the last call

    @cached_property
    def text(self) -> str:
        """The graph as text, by which its plans are kept."""
        return str(self.graph)

    @property
    def calls(self) -> tuple[str, ...]:
        """What is called, in order, as PyTorch names it."""
        return tuple(getattr(n.target, "__name__", str(n.target)) for n in self.part.nodes)

    def __str__(self) -> str:
        shown_calls = ", ".join(self.calls[:8]) + (f" and {len(self.calls) - 8} more" * (len(self.calls) > 8))
        if self.graph is None:
            return f"left to PyTorch, {plural(len(self.calls), 'call')} ({shown_calls}): {self.reason}"
        lines = [f"compiled, {plural(len(self.calls), 'call')} ({shown_calls})"]
        if self.step is not None:
            lines.append(f"  {plural(len(self.step.plan.kernels), 'kernel')}:")
            lines += [f"    {k.name}: {', '.join(k.layers)}" for k in self.step.plan.kernels]
        if self.copied_bytes:
            lines += [
                f"  {size(self.copied_bytes)} of parameters are copied at every call, and so are their gradients:",
                "    model.to(memory_format=torch.channels_last) before torch.compile, and none is",
            ]
        return "\n".join(lines)


class Program:
    """A graph of Dynamo's, its regions compiled: a callable as ``torch.compile`` wants it."""

    def __init__(self, gm: torch.fx.GraphModule, example: Sequence[Any], options: Options):
        self.gm, self.options = gm, options
        self.placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        given = dict(zip(self.placeholders, example, strict=True))
        self.first = counters(gm.graph)
        rest = [n for n in gm.graph.nodes if n.op not in ("placeholder", "output", "get_attr") and n not in self.first]
        self.output = next(n for n in gm.graph.nodes if n.op == "output")
        self._imported: dict[tuple[Any, ...], tuple[Graph, Calls]] = {}  # of those calls that were tried already
        refused = self._refused(rest, given)
        self.regions = [Region(part) for part in split(rest, refused)]
        for region in self.regions:
            self._compile(region, given, refused)
        self._imported.clear()
        self._last = self._last_uses()
        self._learning = any(
            n.row.running and not n.attrs["frozen"] for r in self.regions if r.graph is not None for n in r.graph.nodes
        )
        self._lock = threading.RLock()

    def _refused(self, nodes: list[Any], given: dict[Any, Any]) -> dict[Any, str]:
        """Why calls cannot be compiled, for those that cannot, all of them found in one import."""
        found = {n: reason for n in nodes if (reason := why_outside(n)) is not None}
        inside = [n for n in nodes if n not in found]
        for part in [Split(inside, True)] if not found else split(nodes, found):
            if not part.inside:
                continue
            calls = Calls(part.nodes, given, part.results(self.gm.graph))
            try:
                self._imported[tuple(part.nodes)] = imported(calls), calls
            except NotImported as error:
                for problem in error.problems:
                    node = calls.by_path.get(problem.path)
                    if node is not None and not problem.operation.startswith("output "):
                        advice = f"; {problem.advice}" if problem.advice else ""
                        found[node] = f"{problem.operation}: {problem.reason}{advice}"
            except GraphError:  # said of the region, when that is made
                continue
        return found

    def _compile(self, region: Region, given: dict[Any, Any], refused: dict[Any, str]) -> None:
        """Make the graph of a region, or say why there is none."""
        part = region.part
        if not part.inside:
            region.reason = "; ".join(dict.fromkeys(refused[n] for n in part.nodes if refused.get(n)))
        elif (reason := part.why_not(self.gm.graph)) is not None:
            region.reason = reason
        else:
            try:
                if (tried := self._imported.get(tuple(part.nodes))) is None:
                    calls = Calls(part.nodes, given, part.results(self.gm.graph))
                    tried = imported(calls), calls
                graph, calls = tried
            except GraphError as error:
                region.reason = str(error)
            else:
                if any(n.kind is Kind.CONTRACTION for n in graph.nodes):
                    region.graph, region.names = graph, calls.sources(graph)
                else:
                    region.reason = "there is no convolution or dense layer in it, so that nothing would be gained"
        if region.graph is None and region.reason:
            if self.options.strict:
                uncompiled = f"{', '.join(region.calls[:8])}: {region.reason}"
                raise GraphError(
                    f"torch.compile: not everything can be compiled: {uncompiled} (PyTorch runs it unless strict)"
                )
            warnings.warn(f"tricnn: a region is {region}", stacklevel=2)

    def _last_uses(self) -> dict[int, list[Any]]:
        """The values that nothing reads after each region."""
        last: dict[Any, int] = {}
        for number, region in enumerate(self.regions):
            for node in region.part.nodes:
                last[node] = number
                last.update(dict.fromkeys(node.all_input_nodes, number))
        kept = set(self.output.all_input_nodes)
        found: dict[int, list[Any]] = {}
        for node, number in last.items():
            if node not in kept:
                found.setdefault(number, []).append(node)
        return found

    def __call__(self, *args: Any) -> Any:
        """The results for these arguments; of threads whose calls change running statistics one after the other."""
        with self._lock if self._learning else nullcontext():
            return self._results(args)

    def _results(self, args: Sequence[Any]) -> Any:
        values: dict[Any, Any] = dict(zip(self.placeholders, args, strict=True))
        for node in self.gm.graph.nodes:
            if node.op == "get_attr" or node in self.first:
                values[node] = value_of(node, values, self.gm)
        for number, region in enumerate(self.regions):
            if region.graph is not None:
                self._run(region, region.graph, values)
            else:
                for node in region.part.nodes:
                    values[node] = value_of(node, values, self.gm)
            for node in self._last.get(number, ()):
                values.pop(node, None)
        return torch.fx.node.map_arg(self.output.args[0], lambda n: values[n])

    def _run(self, region: Region, graph: Graph, values: dict[Any, Any]) -> None:
        """Run a compiled region: its results among the values, running statistics changed in place."""
        given = {name: values[node] for name, node in region.names.items()}
        images = given[graph.inputs[0].name]
        autocast = autocast_to(images.device)
        real = autocast or (images.dtype if images.is_floating_point() else torch.float32)
        dtype = self.options.dtype or dtype_named(real)
        executor = executor_on(images.device, self.options.executor)
        wants = wanted(given)
        key = region.text, wants, dtype, executor, self.options.fuse
        with LOCK:
            if key not in PLANS:
                if len(PLANS) >= MOST_PLANS:
                    del PLANS[next(iter(PLANS))]
                PLANS[key] = OpenStep(graph, wants, len(images), dtype, executor, None, self.options.fuse)
            region.step = step = PLANS[key]
        needed = {n.name for n in step.plan.graph.nodes if n.row.source is not None}
        given = {name: x for name, x in given.items() if name in needed}
        parameters = (given[n.name] for n in step.plan.graph.parameters)
        region.copied_bytes = sum(x.nbytes for x in parameters if not to_storage(x).is_contiguous())
        results = region.part.results(self.gm.graph)
        call = Call.of(step, given, images.device, [_type(node, real) for node in results])
        outputs = called(call, given)
        with torch.no_grad():
            for name, x in call.updates.items():
                given[name].copy_(as_tensor(x, given[name].device))
        values.update(zip(results, outputs.values(), strict=True))


def _type(node: torch.fx.Node, otherwise: torch.dtype) -> torch.dtype:
    """The type of what a call gives, under autocast too, as Dynamo has found it."""
    example = node.meta.get("example_value")
    return example.dtype if isinstance(example, torch.Tensor) else otherwise


def compile_backend(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None, **_: Any
) -> Callable[..., Any]:
    """What runs a graph of Dynamo's, its regions compiled: the backend ``"tricnn"`` of ``torch.compile``.
    ``torch.compile(model, backend="tricnn", options={"dtype", "fuse", "executor", "strict"})`` calls it, through the
    entry point ``torch_dynamo_backends``. Warns once of each region that runs as before, and why; ``strict`` raises
    GraphError instead."""
    return Program(gm, example_inputs, Options.of(options))


def imported(calls: Calls) -> Graph:
    """The graph of some calls; raises GraphError, with everything that was not understood at once."""
    if not calls.given:
        raise GraphError("it depends on no images")
    inputs = example_inputs(calls, tuple(calls.given.values()))
    # Dynamo is at work: what an export within it assumes of its inputs is no condition on the model's.
    with tracing(None), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        program, unseen = exported(calls, inputs)
    if unseen:
        raise GraphError(unknown(unseen))
    calls.check(program)
    return assembled(calls, program, inputs, "region", {})


@dataclass
class Explanation:
    """What became of a model: ``regions`` in the order in which they run."""

    regions: list[Region]

    def __str__(self) -> str:
        compiled = [r for r in self.regions if r.graph is not None]
        whole = sum(len(r.calls) for r in self.regions)
        part = sum(len(r.calls) for r in compiled)
        lines = [f"{part} of {whole} calls compiled, in {plural(len(compiled), 'region')}"]
        return "\n".join([*lines, *(f"region {i}: {r}" for i, r in enumerate(self.regions))])


def explain(model: torch.nn.Module, *inputs: Any, **options: Any) -> Explanation:
    """The regions that ``torch.compile(model, backend="tricnn", options=options)`` makes of a model for these inputs.
    ``print`` shows them with their kernels, or the reason why they run as before. A copy of the model runs once."""
    programs: list[Program] = []

    def recording(gm: torch.fx.GraphModule, example: Sequence[Any], **_: Any) -> Callable[..., Any]:
        programs.append(Program(gm, example, Options.of(options)))
        return programs[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compile(copy.deepcopy(model), backend=recording)(*inputs)
    return Explanation([region for program in programs for region in program.regions])
