"""What forward does to gradients that an exported program does not show: it has the values alone.

These are functions with a backward of their own, hooks on values, and gradients that are switched off for some calls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: of an exported program: calls under torch.no_grad, as a graph of their own
SWITCHED = "wrap_with_set_grad"

_WATCHING = threading.RLock()  # what is watched belongs to the process: one thread at a time, or one restores another's


@contextmanager
def watched() -> Iterator[dict[str, None]]:
    """A context that has, in words, what is called in it to make other gradients than those of the values."""
    import torch

    found: dict[str, None] = {}

    def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            found[f"the backward of {cls.__name__}"] = None
        return apply.__get__(None, cls)(*args, **kwargs)

    def hooked(x: Any, *args: Any, **kwargs: Any) -> Any:
        found["a hook on a value's gradient"] = None
        return hook(x, *args, **kwargs)

    with _WATCHING:
        apply, hook = torch.autograd.Function.__dict__["apply"], torch.Tensor.register_hook
        places = ((torch.autograd.Function, "apply"), (torch.Tensor, "register_hook"))
        for (owner, name), watching in zip(places, (classmethod(applied), hooked), strict=True):
            setattr(owner, name, watching)
        try:
            yield found
        finally:
            for (owner, name), before in zip(places, (apply, hook), strict=True):
                setattr(owner, name, before)


def switched_off(program: Any) -> Iterator[str]:
    """In words, the calls of a program under torch.no_grad that read something which could have a gradient."""
    for node in program.graph.nodes:
        if SWITCHED in str(node.target) and not node.args[0] and any(map(_real, node.all_input_nodes)):
            yield "torch.no_grad"


def _real(node: Any) -> bool:
    """Whether a value is made of real numbers."""
    value = node.meta.get("val")
    return hasattr(value, "is_floating_point") and value.is_floating_point()
