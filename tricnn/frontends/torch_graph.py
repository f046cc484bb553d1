"""From an exported program to a graph: its nodes read one by one, its inputs and outputs under the module's names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir.graph import Graph
from ..ir.ops.images import MOST_CHANNELS
from ..system.errors import GraphError
from .assembler import BATCH, UNKNOWN, Assembler, Declared, Site, Stored, Unsupported, accepted_name
from .torch_in_place import reads_as_functional
from .torch_names import OTHERWISE, advice, target_name
from .torch_ops import ATEN
from .torch_source import code_of
from .views import View

if TYPE_CHECKING:
    import torch

    Module = torch.nn.Module


def assembled(
    module: Module, program: Any, inputs: Sequence[Any], name: str, loss_weights: dict[str, float],
    views: dict[str, View] | None = None,
) -> Graph:  # fmt: skip
    """The graph of an exported program.
    Into ``views`` go those under which forward returns outputs that the graph has in another shape; without it, such
    outputs are not supported."""
    reader = _Reader(module, program, name, views)
    reader.read()
    reader.outputs(training_only(module, inputs, reader.structure), loss_weights)
    reader.a.refuse(name, OTHERWISE)
    reader.a.declare_unused()
    return reader.a.builder.build()


def understood(module: Module, program: Any) -> bool:
    """Can an exported program be read as it is: is each call known, and are those in place as good as others?"""
    reader = _Reader(module, program, "")
    calls = [n for n in reader.needed() if n.op == "call_function" and not is_number(n.meta.get("val"))]
    known = all(n in reader.rewritten or target_name(n.target) in ATEN for n in calls)
    return known and reads_as_functional(program)


class _Reader:
    """Goes through the calls of an exported program."""

    def __init__(self, module: Module, program: Any, name: str, views: dict[str, View] | None = None):
        self.module, self.program, self.views = module, program, views
        self.first_name: dict[str, str] = {}  # of a parameter with several names: the first
        self.a = Assembler(name, self.declared())
        self.values: dict[Any, Any] = {}
        self.paths = dict(module.named_modules(remove_duplicate=False))
        given = [s.arg for s in program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
        values = [arg.name if is_tensor(arg) else None for arg in given]
        self.results = [value for value in values if value is not None]
        self.structure = structure_of(values, program.call_spec.out_spec)
        self.rewritten = {n: found for n in program.graph.nodes if (found := rewriting(n)) is not None}

    def declared(self) -> dict[str, Declared]:
        """How each parameter and buffer comes into the graph, by every name that it has.
        Buffers that are not persistent, such as filters that blur, are those of several real numbers."""
        stored: dict[str, Declared] = {}
        first: dict[int, str] = {}
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        buffers = dict(self.module.named_buffers(remove_duplicate=False))
        training = any(p.requires_grad for p in parameters.values())
        for name, x in persistent(self.module).items():
            stored[name] = Declared(tuple(x.shape), name in parameters and (x.requires_grad or not training))
            self.first_name[name] = first.setdefault(id(x), name)
        for name, x in buffers.items():
            if name not in stored and x.is_floating_point() and x.numel() > 1:
                stored[name] = Declared(tuple(x.shape), False, kept=False)
                self.first_name[name] = first.setdefault(id(x), name)
        return stored

    def placeholders(self) -> None:
        """Read the placeholders: parameters, buffers and inputs."""
        by_name = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            node = by_name.get(getattr(spec.arg, "name", None))
            if node is None:
                continue
            kind, target = spec.kind.name, spec.target
            if kind in ("PARAMETER", "BUFFER") and target in self.first_name:
                name = self.first_name[target]
                self.values[node] = Stored(name, self.a.stored[name].shape)
            elif kind in ("BUFFER", "CONSTANT_TENSOR"):
                self.values[node] = constant_of(self.program, self.module, target)
            elif kind == "USER_INPUT" and hasattr(node.meta.get("val"), "shape"):
                self.values[node] = self.input(node)

    def input(self, node: Any) -> Any:
        shape = node.meta["val"].shape
        if isinstance(shape[0], int):
            raise GraphError(
                f"{self.a.builder.name}: forward fixes the batch size to {shape[0]}; write it as x.shape[0] or -1, "
                "never as a number, and decide nothing by it"
            )
        if not all(isinstance(d, int) for d in shape[1:]):
            raise GraphError(f"{self.a.builder.name}: input {node.name} has more than one open size")
        name, channels = self.a.fresh(node.name), shape[1] if len(shape) == 4 else 0
        if str(node.meta["val"].dtype) != "torch.uint8" or not 0 < channels <= MOST_CHANNELS:
            return self.a.made(self.a.builder.input(name, tuple(shape[1:])))
        bytes_ = self.a.builder.input(name, tuple(shape[1:]), "uint8")
        as_they_are = self.a.builder.add(
            "from_bytes", bytes_, name=f"{name}.real", scale=(1.0,) * channels, shift=(0.0,) * channels
        )
        return self.a.made(as_they_are)

    def read(self) -> None:
        """Read every call that an output needs."""
        self.placeholders()
        self.mutations()
        needed = self.needed()
        for node in self.program.graph.nodes:
            if node.op != "call_function" or node not in needed:
                continue
            value = node.meta.get("val")
            if is_number(value):
                self.values[node] = concrete(value)
                continue
            self.values[node] = self.call(node)

    def call(self, node: Any) -> Any:
        """What one call gives, as values of our graph."""
        target, args, kwargs = self.rewritten.get(node) or (target_name(node.target), node.args, node.kwargs)
        value = node.meta.get("val")
        shapes = shapes_of(value)
        self.a.site = self.site(node, target)
        self.a.shape = shapes
        self.a.floating = bool(getattr(value, "is_floating_point", lambda: True)())
        if target not in ATEN:
            self.a.problem("not supported", advice(target))
            return self.a.stand_in(shapes)
        options = {key: self.given(x) for key, x in kwargs.items()}
        operands = [self.given(x) for x in args]
        flat = [y for x in operands for y in (x if isinstance(x, list) else [x])]
        if any(x is UNKNOWN for x in flat):
            return self.a.stand_in(shapes)
        return self.a.attempt(lambda: ATEN[target](self.a, *operands, **options), shapes)

    def given(self, argument: Any) -> Any:
        """An argument of a call, exported nodes replaced by what they gave."""
        if isinstance(argument, list | tuple):
            return [self.given(item) for item in argument]
        if type(argument).__name__ == "Node":
            return self.values.get(argument)
        return argument

    def needed(self) -> set[Any]:
        """The nodes that an output depends on."""
        by_name = {n.name: n for n in self.program.graph.nodes}
        waiting = [by_name[name] for name in self.results]
        found: set[Any] = set()
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if node in self.rewritten:
                _, args, _ = self.rewritten[node]
                waiting += [x for x in args if type(x).__name__ == "Node"]
            else:
                waiting += node.all_input_nodes
        return found

    def mutations(self) -> None:
        """Note what forward changes besides running statistics."""
        by_name = {n.name: n for n in self.program.graph.nodes}
        for spec in self.program.graph_signature.output_specs:
            if spec.kind.name != "BUFFER_MUTATION" or spec.target.endswith("num_batches_tracked"):
                continue
            node = by_name[spec.arg.name]
            source = node.args[0] if node.args and node.target.__name__ == "getitem" else node
            if "batch_norm" not in target_name(getattr(source, "target", "")):
                site = self.site(node, target_name(node.target))
                self.a.problem(f"forward changes the buffer {spec.target}", "only batch norm may change buffers", site)

    def site(self, node: Any, target: str) -> Site:
        """Where a call is in the module."""
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        path = re.sub(r"@\d+$", "", stack[-1]) if stack else ""
        path = path if path in self.paths else ""
        layer = self.paths[path]
        alone = type(layer).__module__.startswith("torch.nn.modules") and not list(layer.children())
        return Site(accepted_name(path, "") if path else "", alone, target, code_of(node))

    def outputs(self, extra: set[str] | None, loss_weights: dict[str, float]) -> None:
        """Declare the outputs; ``extra`` are those of training only, all but the first if it is None."""
        by_name = {n.name: n for n in self.program.graph.nodes}
        paths = list(self.structure.items())
        names = [path for path, _ in paths]
        if extra is not None and names and len(extra) == len(names) - 1:
            names = ["logits" if path not in extra else path for path in names]
        for (path, node_name), name in zip(paths, names):
            node = by_name[node_name]
            self.a.site = self.site(node, f"output {name}")
            given = self.values.get(node)
            if given is UNKNOWN:
                continue
            value = self.a.attempt(partial(self.output, name, given), shapes_of(node.meta.get("val")))
            if not isinstance(value, str):  # a stand-in
                continue
            only = extra is not None and path in extra
            self.a.builder.output(value, name, loss_weight=loss_weights.pop(name, 1.0), training_only=only)
        if loss_weights:
            raise GraphError(
                f"loss_weights: there is no output {', '.join(loss_weights)}; the outputs are {', '.join(names)}"
            )

    def output(self, name: str, given: Any) -> str:
        """The name of the value that an output is, or of which it is a view that the caller takes."""
        try:
            return self.a.plain(given)
        except Unsupported:
            seen = self.a.tensor(given)
            if self.views is None or not seen.view.of_whole_batches:
                raise
            self.views[name] = seen.view
            return seen.value


def is_tensor(argument: Any) -> bool:
    return type(argument).__name__ == "TensorArgument"


def is_number(value: Any) -> bool:
    """Is a call's result a size, or made of sizes?"""
    return isinstance(value, int | float | bool) or type(value).__name__ in ("SymInt", "SymFloat", "SymBool")


def constant_of(program: Any, module: Module, target: str) -> Any:
    """A tensor that no state_dict has: a number if it is one, else None."""
    x = program.constants.get(target)
    if x is not None and x.numel() == 1 and not x.is_meta and type(x).__name__ != "FakeTensor":
        return x.item()
    return None


def concrete(value: Any) -> Any:
    """A size with BATCH for the batch."""
    if isinstance(value, int | float | bool):
        return value
    expression = value.node.expr
    found = expression.subs(dict.fromkeys(expression.free_symbols, BATCH))
    return int(found) if found.is_Integer else float(found)


def shapes_of(value: Any) -> Any:
    """The shape of a tensor, or a list of those of several, with BATCH for the batch."""
    if isinstance(value, list | tuple):
        return [shapes_of(v) for v in value]
    return tuple(concrete(d) for d in value.shape) if hasattr(value, "shape") else None


def structure_of(leaves: Sequence[Any], spec: Any) -> dict[str, Any]:
    """The outputs by name, in order: what is None is left out."""
    from torch.utils import _pytree as pytree

    tree = pytree.tree_unflatten(list(leaves), spec)
    named: dict[str, Any] = {}
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        if leaf is not None:
            name = output_name(path)
            while name in named:
                name += "_"
            named[name] = leaf
    return named


def output_name(path: Sequence[Any]) -> str:
    """The name of an output by the keys that lead to it."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
    if not parts:
        return "logits"
    if all(part.isdigit() for part in parts):
        return "output" + "_".join(parts)
    return accepted_name(".".join(parts), "output")


def training_only(module: Module, inputs: Sequence[Any], structure: dict[str, Any]) -> set[str] | None:
    """The outputs that the module has in train() only; None if there is nothing to find.
    They are found by running it in eval() on tensors without numbers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils import _pytree as pytree

    if not module.training or len(structure) < 2:
        return None
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
            result = module(*[x if x.is_meta else fake.from_tensor(x) for x in inputs])
    except Exception:  # nothing can be said then
        return None
    finally:
        for layer, mode in modes:
            layer.training = mode
    found = pytree.tree_flatten_with_path(result)[0]
    kept = {output_name(path) for path, leaf in found if leaf is not None}
    if kept == {"logits"} and "logits" not in structure:
        kept = {next(iter(structure))}
    return set(structure) - kept


def persistent(module: Module) -> dict[str, torch.Tensor]:
    """The parameters and the buffers of a module's state by every name, in the order of its ``state_dict``.
    What hooks add to that, or call otherwise there, is left out."""
    found = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        kept = {n: x for n, x in layer._buffers.items() if n not in layer._non_persistent_buffers_set}
        for name, x in {**layer._parameters, **kept}.items():
            if x is not None:
                found[f"{path}.{name}" if path else name] = x
    return found


def state_of(module: Module, graph: Graph) -> dict[str, torch.Tensor]:
    """The tensors of the module's state by name, and buffers that are in none but that the graph reads.
    Those on the meta device have no numbers and are left out."""
    state = persistent(module)
    state |= {name: x for name, x in module.named_buffers() if name in graph.by_name and name not in state}
    return {name: x.detach() for name, x in state.items() if not x.is_meta}


# --- calls that are several in ATen and one in ours -----------------------------------------------------------------


def rewriting(node: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """The one call that a node and what is before it amount to; None for most.
    It is the name of the operation, its arguments and its keywords."""
    return local_response_norm(node) or subsampled(node) or stochastic_depth(node) or summed_stack(node)


def summed_stack(node: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """torch.stack(xs, d).sum(d), which is the sum of the xs."""
    values, dims = (*node.args, None, None)[:2]
    if target_name(node.target) != "aten.sum.dim_IntList" or len(node.args) > 2:
        return None
    xs = _before(values, "aten.stack.default")
    along = values.args[1] if xs and len(values.args) > 1 else 0
    return ("tricnn.sum_of.default", tuple(xs), {}) if xs and dims and list(dims) == [along] else None


def subsampled(node: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """x[:, :, ::sh, ::sw], which is one slice after the other."""
    steps = []
    at = node
    for dim in (3, 2):
        whole = target_name(at.target) == "aten.slice.Tensor" and len(at.args) == 5 and at.args[1] == dim
        if not whole or at.args[2] != 0 or at.args[3] < 2**62 or (at is not node and len(at.users) > 1):
            return None
        steps.append(at.args[4])
        at = at.args[0]
    return "tricnn.subsampled.default", (at, (steps[1], steps[0])), {}


def stochastic_depth(node: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """x * bernoulli(1 - p) / (1 - p), with a number drawn for each image, as torchvision and timm write it."""
    if target_name(node.target) != "aten.mul.Tensor":
        return None
    for x, noise in (node.args, node.args[::-1]):
        drawn = _before(noise, "aten.div.Tensor", "aten.div.Scalar")
        empty = _before(drawn, "aten.bernoulli.p", "aten.bernoulli.float")
        shape = next((a for a in _before_any(empty, "aten.empty", "aten.new_empty") if isinstance(a, list | tuple)), ())
        kept = noise.args[1] if shape else None
        per_image = shape and type(shape[0]).__name__ == "Node" and all(d == 1 for d in shape[1:])
        if (
            per_image and isinstance(kept, float) and kept == (drawn.args[1] if len(drawn.args) > 1 else 0.5)
        ):  # what bernoulli_ takes unsaid
            return "tricnn.stochastic_depth.default", (x, 1 - kept), {}
    return None


def _before(node: Any, *targets: str) -> Any:
    """The first argument of a call, if it is one of ``targets``; else None."""
    called = type(node).__name__ == "Node" and target_name(node.target) in targets
    return node.args[0] if called else None


def _before_any(node: Any, *starts: str) -> Sequence[Any]:
    """The arguments of a call whose name starts so; else none."""
    called = type(node).__name__ == "Node" and target_name(node.target).startswith(starts)
    return node.args if called else ()


def local_response_norm(node: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """x / (k + alpha * mean of x^2 over ``size`` channels)^beta, as torch.nn.functional writes it."""
    if target_name(node.target) != "aten.div.Tensor" or len(node.args) != 2:
        return None
    x, power = node.args
    steps = ("pow.Tensor_Scalar", "add.Tensor", "mul.Tensor", "view.default", "squeeze.dim", "avg_pool3d.default",
             "pad.default", "view.default", "mul.Tensor")  # fmt: skip
    arguments = []
    at = power
    for step in steps:
        if type(at).__name__ != "Node" or target_name(at.target) != f"aten.{step}":
            return None
        arguments.append(at.args)
        at = at.args[0]
    size = arguments[5][1][0]
    if arguments[8] != (x, x) or arguments[6][1] != [0, 0, 0, 0, size // 2, (size - 1) // 2]:
        return None
    beta, k, alpha = (arguments[i][1] for i in range(3))
    return "tricnn.local_response_norm.default", (x, size, alpha, beta, k), {}
