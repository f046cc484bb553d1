"""One forward and backward of an open plan as one node of PyTorch's autograd.

outputs = called(step, tensors by name)        outputs.backward -> the gradients of those that require one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..ir.types import TensorType
from ..run.inputs import BYTES
from ..system.errors import DataError, ShapeError, TargetError

if TYPE_CHECKING:
    from ..run.open_step import OpenStep, Saved


@dataclass
class Call:
    """One call of an open step.
    It has what the step is given, of which type its results shall be, and what comes back beside the outputs, the new
    running statistics."""

    step: OpenStep
    names: tuple[str, ...]
    types: Mapping[str, torch.dtype]
    device: torch.device
    seed: int = 0
    updates: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, step: OpenStep, given: Mapping[str, torch.Tensor], device: torch.device, types: Sequence[torch.dtype]
    ) -> Call:
        """A call whose outputs have these types, in order. Dropout's masks are drawn from PyTorch's generator."""
        outputs = [o.name for o in step.plan.graph.outputs]
        random = any(n.row.random for n in step.plan.graph.nodes)
        named = dict(zip(outputs, types, strict=True))
        return cls(step, tuple(given), named, device, int(torch.randint(2**62, ())) if random else 0)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(o.name for o in self.step.plan.graph.outputs)


def called(call: Call, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a step by name; gradients flow through them to what the step's ``wants`` names.
    Raises TargetError within a transform of torch.func, which would have to look into the kernels."""
    if torch._C._are_functorch_transforms_active():
        raise TargetError(
            f"{call.step.graph.name}: transforms of torch.func (grad, vmap, jvp) cannot look into a compiled network; "
            "accepted are backward(), torch.autograd.grad and torch.func.functional_call, or the original module"
        )
    with torch.autocast(call.device.type, enabled=False):
        results = _Called.apply(call, *[given[name] for name in call.names])
    return dict(zip(call.outputs, results, strict=True))


def wanted(given: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The names of those tensors whose gradients a backward pass will ask for, in order."""
    if not torch.is_grad_enabled():
        return ()
    return tuple(name for name, x in given.items() if x.requires_grad)


def autocast_to(device: torch.device) -> torch.dtype | None:
    """The type that autocast, if it is on, has products in on a device."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def executor_on(device: torch.device, executor: str) -> str:
    """The name of the executor; for ``auto``, that of a device."""
    if executor != "auto":
        return executor
    return "triton" if device.type == "cuda" else "numpy"


def check_input(name: str, type_: TensorType, x: Any) -> None:
    """Raise ShapeError unless a tensor is a batch as an input of the graph has it, DataError if it should be bytes."""
    shape = tuple(getattr(x, "shape", ()))
    if not isinstance(x, torch.Tensor) or not shape or shape[1:] != type_.per_image or shape[0] < 1:
        raise ShapeError(
            f"input {name}: expected a tensor {type_}, got {list(shape) or type(x).__name__}; sizes other than the "
            "batch's are those of the example"
        )
    if type_.dtype == "uint8" and x.dtype != torch.uint8:
        raise DataError(f"input {name}: expected {BYTES}, got {x.dtype}")


class _Called(torch.autograd.Function):
    """A call of an open step as autograd's function.
    What reads its inputs again in the backward pass saves them, so that PyTorch notices when one was changed in
    between; running statistics that the forward pass changes are never among them."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(call.names, tensors, strict=True))
        results, saved = call.step.forward(given, call.seed)
        outputs = call.outputs
        call.updates = {name: as_tensor(x, call.device) for name, x in results.items() if name not in outputs}
        ctx.set_materialize_grads(False)
        if call.step.wants:
            ctx.save_for_backward(*[x for name, x in given.items() if name in call.step.reads_again])
            ctx.call, ctx.saved = call, saved
            ctx.like = [torch.empty_like(x, device="meta") for x in tensors]
        made = tuple(as_tensor(results[name], call.device).to(call.types[name]) for name in outputs)
        through = call.step.plan.graph.tangents
        ctx.mark_non_differentiable(*[x for name, x in zip(outputs, made, strict=True) if name not in through])
        return made

    @staticmethod
    def backward(ctx: Any, *tangents: torch.Tensor | None) -> tuple[Any, ...]:
        call: Call = ctx.call
        saved: Saved = ctx.saved
        _ = ctx.saved_tensors  # raises if they were freed, or changed in place since
        keep = bool(torch._C._autograd._get_current_graph_task_keep_graph())
        given = {name: t.detach() for name, t in zip(call.outputs, tangents, strict=True) if t is not None}
        second = torch.is_grad_enabled()
        with torch.no_grad(), torch.autocast(call.device.type, enabled=False):
            found = call.step.backward(saved, given, keep)
            gradients = [
                _laid_like(found[name], like, call.device) if name in found and needed else None
                for name, like, needed in zip(call.names, ctx.like, ctx.needs_input_grad[1:], strict=True)
            ]
        if second:
            there = [g for g in gradients if g is not None]
            once = iter(_Once.apply(torch.ones((), requires_grad=True), call.step.graph.name, *there))
            gradients = [None if g is None else next(once) for g in gradients]
        return None, *gradients


class _Once(torch.autograd.Function):
    """Gradients as they are, as autograd's function; it has no gradient itself, and says so."""

    @staticmethod
    def forward(ctx: Any, one: torch.Tensor, name: str, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.name = name
        return tuple(g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *tangents: torch.Tensor) -> Any:
        raise TargetError(
            f"{ctx.name}: a second derivative was asked for, and compiled networks have first ones only; give "
            "create_graph=True to what is computed by the original module"
        )


def as_tensor(x: Any, device: torch.device) -> torch.Tensor:
    """A result of an executor as a tensor on a device, of the memory that it has, if that is there."""
    return (x if isinstance(x, torch.Tensor) else torch.from_numpy(x)).to(device)


def _laid_like(x: Any, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A gradient in the type and with the strides of what it is the gradient of: itself, if it has them.
    PyTorch's accumulation wants it so. Strides of axes that have one element say nothing."""
    gradient = as_tensor(x, device)
    strides = zip(like.shape, like.stride(), gradient.stride(), strict=True)
    if gradient.dtype == like.dtype and all(size == 1 or a == b for size, a, b in strides):
        # as a tensor of its own: a view that was made here could not be changed in place by what wants a gradient
        whole = torch.empty(0, dtype=like.dtype, device=device)
        return whole.set_(gradient.untyped_storage(), gradient.storage_offset(), like.shape, like.stride())
    laid = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    return laid.copy_(gradient)
