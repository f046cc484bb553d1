"""Dynamo's graph in pieces: what is called in a region, as a module of its own that can be exported."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.graph import Graph
from ..ir.table import Source
from ..system.errors import GraphError
from .assembler import accepted_name

#: calls that change how those after them run, and belong to nobody's region
SWITCHES = ("_enter_autocast", "_exit_autocast", "_set_grad_enabled", "enter_inference_mode", "exit_inference_mode")
RESHAPES = ("view", "reshape")


@dataclass(frozen=True)
class Split:
    """Calls one after another, all of which can be compiled (``inside``), or none."""

    nodes: Sequence[Any]
    inside: bool

    def results(self, graph: torch.fx.Graph) -> list[Any]:
        """The values that somebody else reads."""
        own = set(self.nodes)
        return [n for n in graph.nodes if n in own and any(user not in own for user in n.users)]

    def why_not(self, graph: torch.fx.Graph) -> str | None:
        """Why a region that can be compiled call by call cannot be one; None if it can."""
        results = self.results(graph)
        if not results:
            return "nobody reads what it computes"
        odd = next((n for n in results if not isinstance(n.meta.get("example_value"), torch.Tensor)), None)
        return f"{odd.name}, which is read behind it, is no tensor" if odd is not None else None


def split(nodes: Sequence[Any], outside: Mapping[Any, str]) -> list[Split]:
    """The calls in their order, divided wherever they change between what can be compiled and what cannot."""
    found: list[tuple[list[Any], bool]] = []
    for node in nodes:
        inside = node not in outside
        if not found or found[-1][1] != inside:
            found.append(([], inside))
        found[-1][0].append(node)
    return [Split(part, inside) for part, inside in found]


def why_outside(node: Any) -> str | None:
    """Why a call can be in no region, by its kind alone; None if it may be in one."""
    name = getattr(node.target, "__name__", str(node.target))
    if name in SWITCHES:
        return f"{name} changes how what follows runs"
    if node.op not in ("call_function", "call_method"):
        return f"{node.op} {node.target} is no call of an operation"
    return None


def counters(graph: torch.fx.Graph) -> set[Any]:
    """Calls that add to counters of batches, which nothing else reads: they may run before everything."""
    found = set()
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "add_" and not node.users:
            counter = node.args[0]
            alone = counter.op == "placeholder" and set(counter.users) == {node}
            if alone and not any(isinstance(a, torch.fx.Node) for a in node.args[1:]):
                found.add(node)
    return found


def value_of(node: Any, values: Mapping[Any, Any], gm: torch.fx.GraphModule) -> Any:
    """What one call gives."""
    if node.op == "get_attr":
        at: Any = gm
        for part in node.target.split("."):
            at = getattr(at, part)
        return at
    args = torch.fx.node.map_arg(node.args, lambda n: values[n])
    kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: values[n])
    if node.op == "call_module":
        return gm.get_submodule(node.target)(*args, **kwargs)
    return applied(node, args, kwargs)


def applied(node: Any, args: Any, kwargs: Any) -> Any:
    """The result of a function, or of a method of its first argument, on these arguments."""
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


class Call(torch.nn.Module):
    """One call as a layer: an exported program says of each of its nodes in which layer it is."""

    def __init__(self, node: Any):
        super().__init__()
        self.__dict__["node"] = node

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return applied(self.node, args, kwargs)


class Calls(torch.nn.Module):
    """Some of the calls of a graph as a module.
    Parameters and buffers that they read are its own, under the names that the model has for them; ``given`` are
    examples of the other values that they read."""

    nodes: list[Any]
    results: list[Any]
    own: dict[Any, str]  # placeholder -> the name under which it is here
    given: dict[Any, torch.Tensor]
    sizes: list[Any]
    by_path: dict[str, Any]  # of layers, each one call
    path_of: dict[Any, str]
    batch: Any

    def __init__(self, nodes: Sequence[Any], example: Mapping[Any, Any], results: Sequence[Any]):
        super().__init__()
        self.eval()
        own = set(nodes)
        read = list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in own))
        known = {n: example.get(n, n.meta.get("example_value")) for n in read}
        plain = self.__dict__  # past the registration of parameters and modules
        plain["nodes"], plain["results"], plain["own"] = list(nodes), list(results), {}
        for node, x in known.items():
            if isinstance(x, torch.Tensor) and node.op == "placeholder" and (kind := stored(node, x)):
                name = self._free(name_of(node))
                self._register(name, x, kind)
                self.own[node] = name
        others = {n: x for n, x in known.items() if n not in self.own}
        plain["given"] = {n: bare(x) for n, x in others.items() if isinstance(x, torch.Tensor)}
        plain["sizes"] = [n for n in others if n not in self.given]
        plain["by_path"], plain["path_of"] = {}, {}
        for node in nodes:
            path = accepted_name(node.name, "call")
            while path in self._modules or path in self._parameters or path in self._buffers:
                path += "_"
            self.add_module(path, Call(node))
            self.by_path[path], self.path_of[node] = node, path
        first = next((others[n] for n, x in self.given.items() if x.dim() > 0), None)
        plain["batch"] = None if first is None else first.shape[0]
        plain["forward"] = self._with_names()

    def _with_names(self) -> Callable[..., Any]:
        """Forward with a parameter for each input: torch.export goes by their names."""

        def forward(*inputs: Any) -> Any:
            return self._forward(*inputs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [f"x{i}" if i else "x" for i in range(len(self.given))]
        vars(forward)["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        return forward

    def _free(self, name: str) -> str:
        taken = set(self.own.values())
        while name in taken:
            name += "_"
        return name

    def _register(self, name: str, x: torch.Tensor, kind: Source) -> None:
        path, _, last = name.rpartition(".")
        at: torch.nn.Module = self
        for part in path.split(".") if path else ():
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at.get_submodule(part)
        if kind is Source.PARAMETER:
            at.register_parameter(last, torch.nn.Parameter(x.detach()))
        else:
            at.register_buffer(last, x.detach())

    def _forward(self, *inputs: Any) -> Any:
        values: dict[Any, Any] = dict(zip(self.given, inputs, strict=True))
        batch = next(x for x in inputs if x.dim() > 0).shape[0]
        values.update(dict.fromkeys(self.sizes, batch))
        for node, name in self.own.items():
            path, _, last = name.rpartition(".")
            values[node] = getattr(self.get_submodule(path), last)
        for node in self.nodes:
            args = torch.fx.node.map_arg(node.args, lambda n: values[n])
            kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: values[n])
            values[node] = self.get_submodule(self.path_of[node])(*self._open(node, args, batch), **kwargs)
        return tuple(values[n] for n in self.results)

    def _open(self, node: Any, args: Any, batch: Any) -> Any:
        """The arguments of a call, the batch's size where Dynamo wrote down what it was."""
        if getattr(node.target, "__name__", node.target) not in RESHAPES or len(args) < 2:
            return args
        sizes = list(args[1]) if isinstance(args[1], tuple | list) else list(args[1:])
        if isinstance(sizes[0], int) and sizes[0] == self.batch:
            sizes[0] = batch
        return args[0], tuple(sizes)

    def sources(self, graph: Graph) -> dict[str, Any]:
        """The names of the graph's inputs, parameters and buffers, and Dynamo's nodes that give them."""
        found = dict(zip([n.name for n in graph.inputs], self.given, strict=True))
        by_name = {name: node for node, name in self.own.items()}
        return found | {n.name: by_name[n.name] for n in (*graph.parameters, *graph.buffers)}

    def check(self, program: Any) -> None:
        """Raise GraphError if a value that is not the calls' own is changed in place and seen by others."""
        changed = [s.target for s in program.graph_signature.output_specs if s.kind.name == "USER_INPUT_MUTATION"]
        names = [s.arg.name for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
        for name in changed:
            node = list(self.given)[names.index(name)]
            seen = node.op == "placeholder" or any(user not in self.path_of for user in node.users)
            if seen:
                raise GraphError(f"it changes {node.name} in place, which others read")


def bare(x: torch.Tensor) -> torch.Tensor:
    """A tensor without numbers, of the same shape, but that a size which is open is 2."""
    shape = [d if isinstance(d, int) else 2 for d in x.shape]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def stored(node: Any, x: torch.Tensor) -> Source | None:
    """Is a placeholder a parameter or a buffer of the model? None if it is neither."""
    if isinstance(x, torch.nn.Parameter):
        return Source.PARAMETER
    return Source.BUFFER if "_buffers" in source_of(node) else None


def source_of(node: Any) -> str:
    """Where Dynamo found a placeholder: ``L['self']._modules['conv1']._parameters['weight']``."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else str(name())


def name_of(node: Any) -> str:
    """The model's name for a parameter or a buffer."""
    parts = re.findall(r"\['([^']+)'\]|\[(\d+)\]|\.(\w+)", source_of(node))
    words = [a or b or c for a, b, c in parts]
    words = [w for w in words if w not in ("self", "_modules", "_parameters", "_buffers")]
    return accepted_name(".".join(words), node.name) if words else node.name
