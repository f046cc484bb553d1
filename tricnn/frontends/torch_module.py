"""``tricnn.Module``: a compiled network as a real ``torch.nn.Module``.

It has the parameters, buffers and layers of the module that it was made from, under their own names, and computes its
``forward`` and ``backward`` by open plans (run/open_step.py): any loss, optimiser, schedule, wrapper. What is compiled
follows what PyTorch would do at that moment: ``train()`` and ``eval()`` of every layer, which parameters require a
gradient, autocast, the images' device.
"""

from __future__ import annotations

import copy
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from ..compiler.policies import policy_named
from ..ir.graph import Graph, Node
from ..ir.init import Init, draw
from ..ir.table import Source
from ..machine.dtypes import dtype_named
from ..run.model import ALL_DTYPES, EXECUTORS
from ..run.open_step import OpenStep
from ..system.errors import GraphError, ShapeError, TargetError, shown
from .torch_export import example_inputs, graph_of, unknown, unwrapped
from .torch_function import Call, as_tensor, autocast_to, called, check_input, executor_on, wanted
from .views import View

#: what a compiled module and the original one have as one
SHARED = (
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
#: hooks of a layer, which nobody calls where it is compiled
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: a cumulative average, as torch.nn.BatchNorm2d(momentum=None) and torch.optim.swa_utils.update_bn keep it
CUMULATIVE = None


class Module(torch.nn.Module):
    """A compiled network that PyTorch's world takes for a module of its own.

    module    an ``nn.Module`` of supported operations (docs/pytorch.md), whose layers, parameters and buffers become
              this module's, the same objects under the same names; or a :class:`tricnn.Graph`, whose parameters are
              drawn from ``seed``.
    example   what forward takes, as :func:`tricnn.from_torch` has it; every size but the batch's is fixed by it.
    dtype     what products and activations are: ``bf16``, ``fp16``, ``fp32``, ``tf32``, ``fp64``; under
              ``torch.autocast`` autocast's. Parameters stay as they are, gradients have their type.
    executor  ``auto``: Triton kernels for images on a GPU, else NumPy; or ``triton``, ``numpy``, ``eager``.
    target, fuse   as :func:`tricnn.compile` has them.

    Outputs are as ``module`` gives them, in the type of the images, or autocast's. A second derivative raises
    TargetError. Threads may share it. Hooks on this module run, those on its layers do not.

    Raises what :func:`tricnn.from_torch` does; forward raises ShapeError for images of another size.
    """

    def __init__(
        self,
        module: torch.nn.Module | Graph,
        example: Any = None,
        dtype: Any = "bf16",
        executor: str = "auto",
        *,
        target: str | None = None,
        fuse: bool | str = True,
        seed: int = 0,
    ):
        super().__init__()
        dtype, fuse = dtype_named(dtype), policy_named(fuse)
        for what, value, known in (("dtype", dtype, ALL_DTYPES), ("executor", executor, EXECUTORS)):
            if value not in known:
                raise TargetError(f"{what} {shown(value)} is unknown; accepted: {', '.join(known)}")
        unseen: tuple[str, ...] = ()
        views: dict[str, View] = {}
        if isinstance(module, Graph):
            origin, graph, inputs = _declared(module, seed), module, None
        else:
            origin = unwrapped(module)
            if not isinstance(origin, torch.nn.Module):
                raise GraphError(f"tricnn.Module takes an nn.Module or a tricnn.Graph, not {type(origin).__name__}")
            if example is None:
                raise GraphError("tricnn.Module: give it an example of what forward takes, such as (1, 3, 224, 224)")
            inputs = [tuple(x.shape) for x in example_inputs(origin, example)]
            with _all_learning(origin):
                graph, unseen = graph_of(_computed(origin), example, views=views)
        for part in SHARED:
            self.__dict__[part] = origin.__dict__[part]
        self.training = origin.training
        self._tricnn = _Compiled(self, origin, graph, inputs, dtype, executor, target, fuse, unseen, views)

    def forward(self, *inputs: Any) -> Any:
        """The outputs of a batch of images ``[N, C, H, W]``."""
        return _as_it_is(self._tricnn.run, self, inputs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put into ``destination`` what the original module puts there, whichever way it does that."""
        self._tricnn.origin._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Take from a state what the original module takes, whichever way it does that."""
        self._tricnn.origin._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        """What it was compiled from, and how."""
        compiled = self._tricnn
        return f"{compiled.graph.name}, dtype={compiled.dtype}, executor={compiled.executor}"


def _as_it_is(function: Any, *arguments: Any) -> Any:
    """What a function gives where somebody's torch.compile must not look into it: Dynamo calls it."""
    if "torch._dynamo" in sys.modules:  # where it is not, nobody compiles; to load it takes a second
        function = torch.compiler.disable(function)
    return function(*arguments)


_as_it_is._torchdynamo_disable = True  # type: ignore[attr-defined]  # as torch.compiler.disable marks what it gives


class _Compiled:
    """What a module needs to run: its graph, and the plans made so far.
    It knows which layers of the graph follow which of PyTorch's. Copies and pickles do without the plans."""

    def __init__(
        self,
        module: Module,
        origin: torch.nn.Module,
        graph: Graph,
        inputs: list[tuple[int, ...]] | None,
        dtype: str,
        executor: str,
        target: str | None,
        fuse: bool | str,
        unseen: tuple[str, ...],
        views: dict[str, View],
    ):
        self.unseen, self.views = unseen, views
        self.graph, self.dtype, self.executor, self.target, self.fuse = graph, dtype, executor, target, fuse
        self.origin, self.inputs = origin, inputs
        self.kinds = {name: parametrize.type_before_parametrizations(m) for name, m in module.named_modules() if name}
        self.layers = {n.name: _owner(module, n) for n in graph.nodes if n.row.running or n.row.random}
        self._empty()

    def _empty(self) -> None:
        self.steps: dict[Any, OpenStep] = {}
        self.structures: dict[Any, Any] = {}
        self.lock = threading.RLock()
        self.warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n not in ("steps", "structures", "lock", "warned")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()

    def settings(self, module: Module) -> tuple[Any, ...]:
        """How the layers that differ between training and inference are set now.
        The first says whether heads are wanted that only training has; then comes each layer."""
        found: list[Any] = [module.training]
        for name, layer in self.layers.items():
            layer = layer or module
            norm = self.graph.by_name[name].row.running
            found.append((layer.training, *((_momentum(layer), _eps(layer)) if norm else (getattr(layer, "p", None),))))
        return tuple(found)

    def declared(self, settings: tuple[Any, ...]) -> Graph:
        """The graph with its layers set so: what is not training has no dropout and keeps its statistics."""
        training, *layers = settings
        changed: dict[str, Node] = {}
        gone: dict[str, str] = {}
        for name, (learning, *numbers) in zip(self.layers, layers, strict=True):
            node = self.graph.by_name[name]
            if node.row.running:
                momentum, eps = numbers
                attrs = {"frozen": not learning, "momentum": 1.0 if momentum is CUMULATIVE else momentum, "eps": eps}
                attrs = {key: value for key, value in attrs.items() if value != "as declared"}
                changed[name] = replace(node, attrs={**node.attrs, **attrs})
            elif not learning:
                gone[name] = node.inputs[0]
            elif numbers[0] is not None:
                changed[name] = replace(node, attrs={**node.attrs, "p": numbers[0]})

        def there(value: str) -> str:
            while value in gone:
                value = gone[value]
            return value

        nodes = [changed.get(n.name, n) for n in self.graph.nodes if n.name not in gone]
        nodes = [replace(n, inputs=tuple(map(there, n.inputs))) for n in nodes]
        outputs = [replace(o, value=there(o.value)) for o in self.graph.outputs if training or not o.training_only]
        return replace(self.graph, nodes=tuple(nodes), outputs=tuple(outputs)).pruned()

    def step(self, settings: Any, wants: tuple[str, ...], batch: int, dtype: str, executor: str) -> OpenStep:
        """The open step for these settings, made at its first use."""
        key = settings, wants, dtype, executor
        with self.lock:
            if key not in self.steps:
                if len(self.steps) >= 16:
                    del self.steps[next(iter(self.steps))]
                graph = self.declared(settings)
                self.steps[key] = OpenStep(graph, wants, batch, dtype, executor, self.target, self.fuse)
            return self.steps[key]

    def run(self, module: Module, inputs: tuple[Any, ...]) -> Any:
        """The results of one forward pass."""
        self._check_layers(module)
        declared = list(self.graph.inputs)
        if len(inputs) != len(declared):
            raise GraphError(f"{self.graph.name}: forward takes {len(declared)} inputs, {len(inputs)} given")
        for node, x in zip(declared, inputs, strict=True):
            check_input(node.name, self.graph.types[node.name], x)
        device = inputs[0].device
        autocast = autocast_to(device)
        dtype = dtype_named(autocast) if autocast else self.dtype
        executor = executor_on(device, self.executor)
        settings = self.settings(module)
        given = {n.name: _rescaled(n, x) for n, x in zip(declared, inputs, strict=True)}
        given |= {n.name: self._held(module, n) for n in self.graph.parameters}
        wants = wanted(given)
        if wants and self.unseen:
            raise TargetError(
                f"{self.graph.name}: {unknown(self.unseen)}; accepted are calls under torch.no_grad(), and "
                'torch.compile(backend="tricnn"), which leaves such calls to PyTorch'
            )
        step = self.step(settings, wants, len(inputs[0]), dtype, executor)
        sources = {n.name for n in step.plan.graph.nodes if n.row.source is not None}
        given |= {n.name: self._held(module, n) for n in self.graph.buffers if n.name in sources}
        given = {name: x for name, x in given.items() if name in sources}
        real = autocast or (inputs[0].dtype if inputs[0].is_floating_point() else torch.float32)
        structure, outputs = self._structure_of(module, settings, autocast), step.plan.graph.outputs
        fits = structure is not None and len(structure.types) == len(outputs)
        call = Call.of(
            step, given, device, structure.types if structure and fits and autocast else [real] * len(outputs)
        )
        learning = bool(step.plan.graph.updates)
        with self.lock if learning else nullcontext():
            results = {n: self.views[n].of_numbers(y) if n in self.views else y for n, y in called(call, given).items()}
            self._update(module, settings, call.updates)
        if structure is not None and fits:
            return structure.of(results.values())
        return next(iter(results.values())) if self.inputs is None and len(results) == 1 else results

    def _update(self, module: Module, settings: tuple[Any, ...], updates: Mapping[str, Any]) -> None:
        """Keep the new running statistics, and count the batch."""
        counters, averaged = [], {}
        for (name, layer), setting in zip(self.layers.items(), settings[1:], strict=True):
            if not self.graph.by_name[name].row.running or not setting[0]:
                continue
            counter = getattr(layer, "num_batches_tracked", None)
            if isinstance(counter, torch.Tensor):
                counters.append(counter)
            if setting[1] is CUMULATIVE and counter is not None:
                averaged.update(dict.fromkeys(self.graph.by_name[name].inputs[3:5], counter))
        with torch.no_grad():
            if counters:
                torch._foreach_add_(counters, 1)
            for name, x in updates.items():
                buffer = module.get_buffer(name)
                new = as_tensor(x, buffer.device).to(buffer.dtype)
                if name in averaged:
                    buffer.add_((new - buffer) / averaged[name].to(buffer.dtype))
                else:
                    buffer.copy_(new)

    def _structure_of(
        self, module: Module, settings: tuple[Any, ...], autocast: torch.dtype | None
    ) -> _Structure | None:
        """How the original module's result is made of tensors; None of a declared graph."""
        if self.inputs is None:
            return None
        with self.lock:
            key = settings, autocast
            if key not in self.structures:
                self.structures[key] = _structure(self.origin, self.inputs, module.training)
            return self.structures[key]

    def _held(self, module: Module, node: Node) -> torch.Tensor:
        """The tensor that the module has now under a parameter's or a buffer's name.
        It may be computed, by a parametrization, or lent, by torch.func.functional_call. Raises GraphError if it is
        not there, or is what only a hook of a layer would bring up to date; ShapeError if it has another shape."""
        x, stale = _at(module, node.name)
        if not isinstance(x, torch.Tensor) or stale:
            why = "a hook of its layer computes it, and those do not run" if stale else "it is not there any more"
            raise GraphError(
                f"{self.graph.name}: {node.name}: {why}; accepted: what it was when this was compiled, or a "
                "parametrization of it (torch.nn.utils.parametrize)"
            )
        shape = self.graph.types[node.name].per_image
        if tuple(x.shape) != shape:
            raise ShapeError(
                f"{self.graph.name}: {node.name} is {list(x.shape)} now, and was {list(shape)} when this was compiled; "
                "change the original module, and make a new tricnn.Module of it"
            )
        return x

    def _check_layers(self, module: Module) -> None:
        """Warn, once, of hooks on layers, which are compiled and called by nobody.
        Raises GraphError if a layer is another one than was compiled, or if its statistics are to be those of several
        processes."""
        layers = dict(module.named_modules())
        for name, kind in self.kinds.items():
            if not isinstance(layers.get(name), kind):
                now = f"a {type(layers[name]).__name__} now" if name in layers else "not there any more"
                raise GraphError(
                    f"{self.graph.name}: the layer {name} is {now}, and was a {kind.__name__} when this was compiled; "
                    "change the original module, and make a new tricnn.Module of it"
                )
        if _several_processes():
            alone = (name for name, m in layers.items() if isinstance(m, torch.nn.SyncBatchNorm) and m.training)
            if (name := next(alone, None)) is not None:
                raise TargetError(
                    f"{self.graph.name}: {name}: statistics over several processes are for `tricnn train "
                    "--sync-batch-norm`; accepted here: a batch norm of each process's own images"
                )
        if self.warned:
            return
        hooked = [name for name, m in layers.items() if name and any(getattr(m, hooks) for hooks in HOOKS)]
        if hooked:
            self.warned = True
            warnings.warn(
                f"{self.graph.name}: hooks on the layer {hooked[0]} do not run: its layers are compiled; hooks on the "
                "whole module do",
                stacklevel=4,
            )


def _rescaled(node: Node, x: torch.Tensor) -> torch.Tensor:
    """An input times its scale plus its shift, where the graph gives it those."""
    for what, apply in (("scale", torch.mul), ("shift", torch.add)):
        if node.attrs[what]:
            numbers = torch.tensor(node.attrs[what], dtype=torch.float32, device=x.device)
            x = apply(x, numbers.reshape(-1, *(1,) * (x.dim() - 2)))
    return x


def _at(module: torch.nn.Module, name: str) -> tuple[Any, bool]:
    """What is found under a name, None if nothing is, and whether it is there as an attribute that no module knows."""
    path, _, last = name.rpartition(".")
    try:
        holder = module.get_submodule(path)
    except AttributeError:
        return None, False
    return getattr(holder, last, None), last in vars(holder)


def _several_processes() -> bool:
    """Whether this is one of several processes of torch.distributed."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _momentum(layer: torch.nn.Module) -> Any:
    """A batch norm's momentum as it is set now."""
    return getattr(layer, "momentum", "as declared")


def _eps(layer: torch.nn.Module) -> Any:
    """A batch norm's eps as it is set now."""
    return getattr(layer, "eps", "as declared")


def _owner(module: torch.nn.Module, node: Node) -> torch.nn.Module | None:
    """The module whose setting a layer of the graph follows; None where it follows the whole module.
    That is the module of a batch norm's weight, or the innermost that a dropout is in."""
    path = node.inputs[1].rpartition(".")[0] if node.row.running else node.name
    known = dict(module.named_modules())
    while path and path not in known:
        path = path.rpartition(".")[0]
    return known[path] if path else None


@contextmanager
def _all_learning(module: torch.nn.Module) -> Iterator[None]:
    """A context in which every layer trains and every parameter requires a gradient: an import has everything then."""
    modes = [(m, m.training) for m in module.modules()]
    frozen = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        module.train()
        for p in frozen:
            p.requires_grad_(True)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in frozen:
            p.requires_grad_(False)


def _computed(module: torch.nn.Module) -> torch.nn.Module:
    """The module, or a copy in which a parameter stands for what a parametrization computes.
    That stays PyTorch's: the graph reads its result, and the result's gradient goes back through it."""
    if not any(map(parametrize.is_parametrized, module.modules())):
        return module
    module = copy.deepcopy(module)
    for layer in filter(parametrize.is_parametrized, tuple(module.modules())):
        values = {name: getattr(layer, name) for name in layer.get_submodule("parametrizations")._modules}
        layer.__class__ = parametrize.type_before_parametrizations(layer)  # the other one is the original's, too
        del layer._modules["parametrizations"]
        for name, x in values.items():
            layer.register_parameter(name, torch.nn.Parameter(x.detach()))
    return module


@dataclass(frozen=True)
class _Structure:
    """A module's result: how it is made of tensors, and of which types these are.
    ``spec`` is its tree (one tensor, a tuple, a dictionary...), ``leaves`` of each leaf the type, None if it is no
    tensor."""

    spec: Any
    leaves: tuple[torch.dtype | None, ...]

    @property
    def types(self) -> list[torch.dtype]:
        """The types of the tensors in it, in order."""
        return [leaf for leaf in self.leaves if leaf is not None]

    def of(self, tensors: Iterable[torch.Tensor]) -> Any:
        """The result that is made of these tensors."""
        values = iter(tensors)
        return pytree.tree_unflatten([None if leaf is None else next(values) for leaf in self.leaves], self.spec)


def _structure(origin: torch.nn.Module, shapes: list[tuple[int, ...]], training: bool) -> _Structure:
    """The structure of a module's result, under autocast if that is on.
    It is found by running the module on tensors without numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.func import functional_call

    before = origin.training
    origin.training = training
    cumulative = [m for m in origin.modules() if getattr(m, "momentum", 0.0) is CUMULATIVE]
    for norm in cumulative:  # which would divide by a number of batches that is not there
        vars(norm)["momentum"] = 0.0
    fake = FakeTensorMode()
    state: dict[str, torch.Tensor] = {**dict(origin.named_parameters()), **dict(origin.named_buffers())}
    given: dict[str, torch.Tensor] = {name: fake.from_tensor(x.detach()) for name, x in state.items()}
    real = next((x.dtype for x in state.values() if x.is_floating_point()), torch.float32)
    device = next((x.device for x in state.values()), torch.device("cpu"))
    try:
        with fake, torch.no_grad():
            images = [torch.empty(shape, dtype=real, device=device) for shape in shapes]
            result = functional_call(origin, given, tuple(images))
    finally:
        origin.training = before
        for norm in cumulative:
            vars(norm)["momentum"] = CUMULATIVE
    leaves, spec = pytree.tree_flatten(result)
    return _Structure(spec, tuple(leaf.dtype if isinstance(leaf, torch.Tensor) else None for leaf in leaves))


def _declared(graph: Graph, seed: int) -> torch.nn.Module:
    """Empty layers that hold a graph's parameters and buffers under their names.
    Where those are a batch norm's, the layer is PyTorch's, which counts batches too."""
    root = torch.nn.Module()

    def container(path: str) -> torch.nn.Module:
        at = root
        for part in path.split(".") if path else ():
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at.get_submodule(part)
        return at

    for node in graph.nodes:
        path = node.inputs[1].rpartition(".")[0] if node.row.running else ""
        usual = [f"{path}.{name}" for name in torch.nn.BatchNorm2d(1, device="meta").state_dict()][:4]
        if path and list(node.inputs[1:]) == usual:
            rank = len(graph.types[node.inputs[0]].shape)
            kind = torch.nn.BatchNorm2d if rank == 4 else torch.nn.BatchNorm1d
            norm = kind(graph.types[usual[0]].per_image[0], node.attrs["eps"], node.attrs["momentum"])
            parent, _, last = path.rpartition(".")
            container(parent).add_module(last, norm)
            norm.train(not node.attrs["frozen"])
    for node in (*graph.parameters, *graph.buffers):
        path, _, last = node.name.rpartition(".")
        numbers = draw(Init.parse(node.attrs["init"]), graph.types[node.name].per_image, seed, node.name)
        tensor = torch.tensor(numbers, dtype=torch.float32)
        holder = container(path)
        if node.row.source is Source.PARAMETER:
            holder.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            holder.register_buffer(last, tensor)
    return root
