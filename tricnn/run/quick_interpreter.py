"""Triton's interpreter without the work it repeats.

It does the same operations on the same numbers, in about a quarter of the time.

The interpreter spends nearly all its time around NumPy, not in it: it wraps Triton's functions anew at every call of
a helper, and follows every integer operation by the same one in int64 and two comparisons. Nothing here changes what
an operation computes, save that masks are made of bits. Names of the interpreter that a version of Triton does not
have are left alone, which costs only time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import CodeType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

#: pairs of operands that are remembered: constants among them take memory
_MOST_PAIRS = 1000
#: functions that are remembered, rewritten
_MOST_FUNCTIONS = 2000


def _wrap_once(interpreter: Any, stack: ExitStack) -> None:
    """Wrap the functions of ``tl`` here, not at every call."""
    tl = interpreter.tl
    any_function = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(any_function)
    stack.callback(scope.restore)
    nothing = type(scope)()
    stack.enter_context(patch.object(interpreter, "_patch_lang", lambda fn: nothing))


def _trust_int32(interpreter: Any, stack: ExitStack) -> None:
    """Leave out the check that int32 arithmetic stays in range.
    What the interpreter has the time for is far from 2**31."""
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


def _match_operands_once(interpreter: Any, stack: ExitStack) -> None:
    """Bring two operands to one type and shape once for each pair of types.
    A number that is an operand with a tensor is remembered with it: where a tensor stayed what it was, it does so
    again, and the number is the same constant."""
    semantic, tensor = type(interpreter.interpreter_semantic), interpreter.tl.tensor
    match, known = semantic.binary_op_type_checking_impl, dict[Any, Any]()

    def remembered(self: Any, lhs: Any, rhs: Any, *flags: Any, **named: Any) -> Any:
        left, right = type(lhs) is tensor, type(rhs) is tensor
        # repr: 1, True and 1.0 are equal, and 0.0 and -0.0, but other constants
        key = (lhs.type.name if left else repr(lhs), rhs.type.name if right else repr(rhs), flags, *named.items())
        if (found := known.get(key)) is not None:
            return (lhs if left else found[0]), (rhs if right else found[1])
        a, b = match(self, lhs, rhs, *flags, **named)
        if (a is lhs or not left) and (b is rhs or not right):
            if len(known) > _MOST_PAIRS:
                known.clear()
            constants = (None if left else a), (None if right else b)
            for constant in constants:
                if constant is not None:
                    constant.handle.data.flags.writeable = False
            known[key] = constants
        return a, b

    stack.enter_context(patch.object(semantic, "binary_op_type_checking_impl", remembered))


def _broadcast_as_before(interpreter: Any, stack: ExitStack) -> None:
    """Find the shape that two shapes have in common once for each pair of types, not at every operation."""
    semantic = type(interpreter.interpreter_semantic)
    broadcast, known = semantic.broadcast_impl_value, dict[Any, Any]()

    def spread(self: Any, x: Any, type_: Any) -> Any:
        if type_ is None:
            return x
        make = self.builder.create_broadcast
        return self.make_tensor(make(x.handle, type_.shape), type_) if x.type.is_block() else self.splat(x, type_.shape)

    def remembered(self: Any, lhs: Any, rhs: Any) -> Any:
        key = (lhs.type.name, rhs.type.name)
        if (found := known.get(key)) is None:
            a, b = broadcast(self, lhs, rhs)
            known[key] = (None if a is lhs else a.type), (None if b is rhs else b.type)
            return a, b
        return spread(self, lhs, found[0]), spread(self, rhs, found[1])

    stack.enter_context(patch.object(semantic, "broadcast_impl_value", remembered))


def _keep_bits(interpreter: Any, stack: ExitStack) -> None:
    """Let a comparison of two numbers stay a bit when it is spread over a block.
    The interpreter of Triton 3.9 makes it as wide as what was compared, and refuses such a mask."""
    builder = type(interpreter.interpreter_builder)
    splat = builder.create_splat

    def spread(self: Any, type_: Any, number: Any) -> Any:
        made = splat(self, type_, number)
        if number.data.dtype == np.bool_:
            made.data = made.data.astype(np.bool_)
        return made

    stack.enter_context(patch.object(builder, "create_splat", spread))


def _convert_bfloat16_by_bits(interpreter: Any, stack: ExitStack) -> None:
    """Widen and narrow bfloat16 by shifting bits, where this interpreter's own conversion comes to the same bits."""
    convert, float32, bfloat16 = interpreter._convert_float, interpreter.tl.float32, interpreter.tl.bfloat16
    rounding = interpreter._ir.ROUNDING_MODE.RTNE
    if convert not in _SHIFTS_TOO:
        wide, few = _probes()
        own = [
            convert(wide, float32, bfloat16, None), convert(wide, float32, bfloat16, rounding),
            convert(few, bfloat16, float32, None),
        ]  # fmt: skip
        shifted = [_shifted(wide), _shifted(wide, rounded=True), _shifted(few)]
        _SHIFTS_TOO[convert] = all(b is not None and np.array_equal(a, b) for a, b in zip(own, shifted, strict=True))
    if not _SHIFTS_TOO[convert]:
        return

    def converted(x: Any, of: Any, to: Any, rounding_mode: Any) -> Any:
        found = None
        if {of, to} == {float32, bfloat16} and rounding_mode in (None, rounding):
            found = _shifted(x, rounding_mode == rounding)
        return convert(x, of, to, rounding_mode) if found is None else found

    stack.enter_context(patch.object(interpreter, "_convert_float", converted))


#: does a conversion of this interpreter give the bits that shifting gives?
_SHIFTS_TOO: dict[Any, bool] = {}


def _probes() -> tuple[np.ndarray, np.ndarray]:
    """fp32 numbers around every bfloat16 that is not subnormal, and halfway to the next; and those themselves."""
    high = np.arange(1 << 16, dtype=np.uint32)
    normal = high[(high & 0x7F80) != 0]
    few = np.concatenate([normal, np.array([0, 0x8000], np.uint32)])
    between = [normal << 16 | low for low in (1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    return np.concatenate([few << 16, *between]).view(np.float32), few.astype(np.uint16)


def _shifted(x: np.ndarray, rounded: bool = False) -> np.ndarray | None:
    """The bits of fp32 numbers as bfloat16, or of bfloat16 as fp32; None if one of them is subnormal.
    Rounding adds the first bit that is cut off, to the mantissa only."""
    narrow = x.itemsize == 4
    bits, mantissa = (x.view(np.uint32), 23) if narrow else (x.view(np.uint16), 7)
    magnitude = bits & ((1 << (mantissa + 8)) - 1)
    if ((magnitude != 0) & (magnitude < 1 << mantissa)).any():
        return None
    if not narrow:
        return bits.astype(np.uint32) << 16
    high = bits >> 16
    if rounded:
        high = (high & 0xFF80) | ((high & 0x7F) + (bits >> 15 & 1))
    return high.astype(np.uint16)


def _moved(code: CodeType, filename: str, lines: int) -> CodeType:
    """The same code as if it stood so many lines further on, in another file.
    A module begins no earlier than in line 1."""
    inner = tuple(_moved(x, filename, lines) if isinstance(x, CodeType) else x for x in code.co_consts)
    return code.replace(co_filename=filename, co_firstlineno=max(1, code.co_firstlineno + lines), co_consts=inner)


#: by a function's code and defaults: what the interpreter makes of it, compiled, and the line at which it stood
_REWRITTEN: dict[Any, tuple[CodeType, int]] = {}


def _rewrite_once(interpreter: Any, stack: ExitStack) -> None:
    """Rewrite a function once for all files that it is emitted to, as every template is."""
    rewriter = interpreter.FunctionRewriter
    rewrite, made = rewriter.rewrite_ast, list[CodeType]()

    def compiled(tree: Any, filename: str, mode: str) -> CodeType:
        made.append(tree if isinstance(tree, CodeType) else compile(tree, filename, mode))
        return made[-1]

    def rewritten(self: Any) -> Any:
        fn, code = self.fn, self.fn.__code__
        key = (code.replace(co_filename="", co_firstlineno=1), repr((fn.__defaults__, fn.__annotations__)))
        if key in _REWRITTEN:
            known, line = _REWRITTEN[key]
            return self._compile_and_exec(_moved(known, code.co_filename, code.co_firstlineno - line))
        made.clear()
        result = rewrite(self)
        if made:
            if len(_REWRITTEN) > _MOST_FUNCTIONS:
                _REWRITTEN.clear()
            _REWRITTEN[key] = made[-1], code.co_firstlineno
        return result

    stack.enter_context(patch.object(interpreter, "compile", compiled, create=True))
    stack.enter_context(patch.object(rewriter, "rewrite_ast", rewritten))


STEPS = (
    _rewrite_once,
    _wrap_once,
    _trust_int32,
    _remember_numpy_types,
    _remember_block_types,
    _remember_tensor_shapes,
    _match_operands_once,
    _broadcast_as_before,
    _keep_bits,
    _convert_bfloat16_by_bits,
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
