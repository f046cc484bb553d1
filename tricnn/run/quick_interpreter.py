"""Triton's interpreter without the work it repeats: the same operations on the same numbers, in about a quarter of
the time.

The interpreter spends nearly all its time around NumPy, not in it: it wraps Triton's functions anew at every call of a
helper, and follows every integer operation by the same one in int64 and two comparisons. Nothing here changes what an
operation computes. Names of the interpreter that a version of Triton does not have are left alone, which costs only
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch


def _wrap_once(interpreter: Any, stack: ExitStack) -> None:
    """Wrap the functions of ``tl`` here, not at every call."""
    tl = interpreter.tl
    any_function = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(any_function)
    stack.callback(scope.restore)
    nothing = type(scope)()
    stack.enter_context(patch.object(interpreter, "_patch_lang", lambda fn: nothing))


def _trust_int32(interpreter: Any, stack: ExitStack) -> None:
    """No check that int32 arithmetic stays in range: what the interpreter has the time for is far from 2**31."""
    builder = interpreter.interpreter_builder
    options = replace(builder.options, sanitize_overflow=False)
    stack.enter_context(patch.object(builder, "options", options))


def _remember_numpy_types(interpreter: Any, stack: ExitStack) -> None:
    """Look up NumPy's type for a Triton type once, not at every operation. A type's name says all it depends on."""
    look_up, known = interpreter._get_np_dtype, dict[str, Any]()

    def remembered(type_: Any) -> Any:
        name = type_.scalar.name
        if name not in known:
            known[name] = look_up(type_.scalar)
        return known[name]

    stack.enter_context(patch.object(interpreter, "_get_np_dtype", remembered))


def _remember_block_types(interpreter: Any, stack: ExitStack) -> None:
    """Check a block's shape once, not at every operation on such a block."""
    block_type = interpreter.tl.block_type
    create, known = block_type.__init__, dict[Any, dict[str, Any]]()

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(shape)
        if not all(type(size) is int for size in sizes):
            create(self, element_ty, shape)
            return
        key = (element_ty.name, sizes)
        if key not in known:
            create(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key])

    stack.enter_context(patch.object(block_type, "__init__", init))


def _remember_tensor_shapes(interpreter: Any, stack: ExitStack) -> None:
    """Derive a tensor's shape from its type once for each type."""
    tensor = interpreter.tl.tensor
    create, known = tensor.__init__, dict[str, dict[str, Any]]()

    def init(self: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            create(self, handle, type)
            known[type.name] = {name: x for name, x in vars(self).items() if name != "handle"}
        vars(self).update(known[type.name], handle=handle)

    stack.enter_context(patch.object(tensor, "__init__", init))


def _remember_common_types(interpreter: Any, stack: ExitStack) -> None:
    """Find the type in which two types are added or compared once for each pair, not at every operation."""
    semantic = type(interpreter.interpreter_semantic)
    common, known = semantic.computation_type_impl, dict[Any, Any]()

    def remembered(self: Any, a: Any, a_is_scalar: Any, b: Any, b_is_scalar: Any, div_or_mod: Any) -> Any:
        key = (a.name, a_is_scalar, b.name, b_is_scalar, div_or_mod)
        if key not in known:
            known[key] = common(self, a, a_is_scalar, b, b_is_scalar, div_or_mod)
        return known[key]

    stack.enter_context(patch.object(semantic, "computation_type_impl", remembered))


def _compare_shapes_once(interpreter: Any, stack: ExitStack) -> None:
    """Broadcast only what has another shape: two blocks of one shape, and two scalars, are taken as they are."""
    semantic, block_type = type(interpreter.interpreter_semantic), interpreter.tl.block_type
    broadcast, same = semantic.broadcast_impl_value, dict[Any, bool]()

    def remembered(self: Any, lhs: Any, rhs: Any) -> Any:
        key = (lhs.type.name, rhs.type.name)
        if key not in same:
            shapes = [list(x.type.shape) if isinstance(x.type, block_type) else None for x in (lhs, rhs)]
            same[key] = shapes[0] == shapes[1]
        return (lhs, rhs) if same[key] else broadcast(self, lhs, rhs)

    stack.enter_context(patch.object(semantic, "broadcast_impl_value", remembered))


STEPS = (
    _wrap_once,
    _trust_int32,
    _remember_numpy_types,
    _remember_block_types,
    _remember_tensor_shapes,
    _remember_common_types,
    _compare_shapes_once,
)


_inside = False


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Kernels launched inside run with less overhead. Whoever is inside already stays there."""
    from triton.runtime import interpreter

    global _inside
    if _inside:
        yield
        return
    with ExitStack() as stack:
        for apply in STEPS:
            try:
                apply(interpreter, stack)
            except (AttributeError, TypeError):  # another version of Triton
                continue
        _inside = True
        try:
            yield
        finally:
            _inside = False
