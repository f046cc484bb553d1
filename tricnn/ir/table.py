"""The table of operations: what a row is, and the checks that read it.

A row answers every question the rest of tricnn asks about an operation. The rows themselves are in ``tricnn/ir/ops``;
to add an operation is to add a row (and, for the GPU, its template or expression in ``tricnn/lower``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from functools import cached_property
from math import inf, isfinite, prod
from numbers import Integral
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..system.errors import GraphError, ShapeError, shown
from ..system.limits import MOST_ELEMENTS, MOST_OPERANDS, MOST_WEIGHTS, WIDEST, WIDEST_IMAGE
from .scalar import Expression, Value
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Node


class Source(Enum):
    """What a value is that exists before the step."""

    INPUT = "input"  # given at every step
    PARAMETER = "parameter"  # trained
    BUFFER = "buffer"  # kept from step to step: running statistics
    CONSTANT = "constant"  # the same number always


class Kind(Enum):
    """What an operation is to the fuser."""

    SOURCE = "source"  # exists before the step: input, parameter, buffer, constant
    CONTRACTION = "contraction"  # a GEMM in disguise: conv2d, linear and their gradients
    WINDOW = "window"  # each result looks at a window of pixels: pooling
    REDUCTION = "reduction"  # sums over pixels or channels: statistics, softmax, loss
    POINTWISE = "pointwise"  # each result looks at the same place of its inputs
    VIEW = "view"  # the same numbers under another shape


REQUIRED = object()


@dataclass(frozen=True)
class Attr:
    """One attribute: how to normalise and check a value, its default, and what is accepted, in words."""

    check: Callable[[Any], Any]
    accepts: str
    default: Any = REQUIRED

    def __post_init__(self) -> None:
        if self.default is not REQUIRED:
            object.__setattr__(self, "default", self.check(self.default))

    def checked(self, layer: str, name: str, value: Any) -> Any:
        """The value, normalised; raises GraphError naming the layer and what is accepted."""
        try:
            return self.check(value)
        except (TypeError, ValueError, OverflowError):
            raise GraphError(f"layer {layer}: {name}={shown(value)} is not accepted; {self.accepts}") from None


@dataclass(frozen=True)
class Environment:
    """What a NumPy row may know besides its operands: the random seed and the number of the training step."""

    seed: int = 0
    step: int = 0


Macs = Callable[..., int]


@dataclass(frozen=True)
class Op:
    """A row of the table.

    inputs    names of the operands; a trailing ``?`` marks an optional one, ``*`` any number of them
    shape     ``(attrs, *input types) -> TensorType``; raises ShapeError with what does not fit
    numpy     ``(environment, attrs, *arrays) -> array``: the definition
    gradient  ``(builder, node, dy) -> one value or None per input``; or, in words, why there is none
    macs      ``(attrs, output type, *input types) -> multiply-adds per image``
    aten      ``(environment, attrs, *tensors) -> tensor``: the same by PyTorch, for the eager executor
    moved     ``(attrs, errors, *arrays) -> array``: by how much the result may move, to first order, where each operand
              moves by its error. None where moving a whole operand up and down shows it: no element of the result rises
              with one of its elements and falls with another
    terms     ``(attrs, result, *arrays) -> int``: how many numbers a result sums; None: as many as there are for each
    unit      what a smaller operand is computed as exactly as: 1 for functions of exp, else 0
    rounding  ``(attrs, *arrays) -> array``: how far the result may be for exact operands, being computed in fp32 (None:
              as far as one rounding, or a sum, takes it)
    batched   operand -> True if it must have a batch dimension, False if it must have none, None if either will do;
              those not named: ``BATCHED`` says
    means     ``(attrs, *input types) -> [(op, attrs), ...]``: the rows, one after the other, that compute the same; the
              compiler puts them in its place before anything else (compiler/expand.py). None, or no rows: it knows
              this one itself

    What fusion, planning and lowering ask; no room outside ``ir`` goes by an operation's name:

    on_load          the operands (by number) that a kernel of this operation may compute as it loads them; any others
                     it takes from memory
    gathers          each result looks at one place of its operand, another one than its own: it may be computed as it
                     is loaded, too
    through          a gather whose operand may be computed there, as it is loaded
    frames           ``"result"``: it is its operand amid as many zeros as its attribute ``padding`` says;
                     ``"operand"``: it reads its first operand amid such zeros
    copies           a copy with a shape of its own, or an update of a small vector: never part of a pointwise chain
    elementwise      a result depends on the element alone: neither on its channel nor on where it is, so it is the same
                     under any shape
    per_channel      treats each channel by itself, and its operands are images, or have a number (a column) for each
                     channel: ``f(concat(a, b)) = concat(f(a), f(b))``
    scalar           what it computes of one element of each operand (scalar.py), from which much is derived
    gradient_of      the operation whose gradient it is, if that is derived, too
    instead          of a gradient that reads the result ``y``: the same by the operand ``x``, by which a kernel that
                     has no ``y`` yet computes less
    rises            a larger operand never gives a smaller result: it may change places with a maximum
    keeps_zero       gives 0 where its first operand is 0, so that what is loaded as 0 outside an image stays 0
    picks            each result is one of its operand's, the largest: it may change places with what rises
    pools            each result is made of a window of pixels of its one operand: a convolution's tile may be pooled
    source           what it is, if it exists before the step
    product          of a contraction: ``"forward"``, or which gradient of one it is: ``"by_input"``, ``"by_weight"``
    collapses        a reduction whose result has no pixels left to have an epilogue at
    side_sum         a sum over the pixels of its first operand, which another kernel may take along: of what it has
                     ``"stored"``, or of what it (a weight gradient) has ``"loaded"``
    of_filters       it is of a weight's gradient filter by filter: found where the parts of that are added up
    takes_sums       a kernel of it may take sums along of what it stores (a pointwise chain may too)
    sibling_of       the operation whose loop gives this result as well, over the same operands
    loop_over        the operand (by number) over which it would share a loop with another kernel
    updates          new running statistics: the kernel that ends the sum ``loop_over`` computes them
    moments          its sum over pixels is of mean and deviations from it, which parts of it merge (Chan et al. 1983)
    of_batch         a sum over all pixels that normalising needs of the whole batch: processes that share one put
                     theirs together in the middle of a step, the ``moments`` merged, others added up
    index            says where in its window the maximum of its ``sibling_of`` is
    from_window      of the gradient of a pooling: a pixel gets its ``"share"`` of a window's, or all if ``"chosen"``
    dense_view       the same numbers as rows ``"flat"``, as ``"image"``, or a ``"weight"`` with other dimensions of 1
    row_of           it is one row of its operand
    pads             its operand amid channels of zeros, ``before`` and after
    running          normalises by running statistics: training takes the batch's, inference folds it into a product
    probabilities    of logits, its operand, which a loss takes instead
    random           it draws numbers while training; inference leaves it out
    detaches         its operand itself, through which no gradient passes; left out where all gradients are there
    prepared         of weights that a pass makes of parameters: computed when those change, not at every step
    torch            ``(*operands, **attrs)``, of PyTorch's tensors alone: ``aten`` is it, where a row has no other, and
                     an emitted file has its text, for weights that are prepared so
    begins_backward  the backward pass begins with it
    unread           the operands (by number) of which it needs the shape only
    cuts             ``"channels"`` or ``"filters"``: a result is those of them from ``start`` to ``stop``
    joins            ``"channels"`` or ``"filters"``: a result is all operands', one after the other
    finds_rows       reads statistics, rows of numbers ``[R, C]``, wherever they lie amid longer rows
    finds_vectors    reads a vector of parameters wherever it lies within a longer one
    operations       of the vector units, for one element (in flop: an instruction is two)
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr]
    shape: Callable[..., TensorType]
    numpy: Callable[..., Any]
    gradient: Callable[..., Sequence[str | None]] | str
    macs: Macs
    aten: Callable[..., Any]
    doc: str = ""
    moved: Callable[..., Any] | None = None
    terms: Callable[..., int] | None = None
    unit: float = 0.0
    means: Callable[..., Sequence[tuple[str, Mapping[str, Any]]]] | None = None
    rounding: Callable[..., Any] | None = None
    batched: Mapping[str, bool | None] = field(default_factory=dict)
    scalar: Expression | None = None
    gradient_of: str = ""
    instead: Expression | None = None
    rises: bool = False
    on_load: tuple[int, ...] = ()
    gathers: bool = False
    through: bool = False
    frames: Literal["", "operand", "result"] = ""
    copies: bool = False
    elementwise: bool = False
    per_channel: bool = False
    keeps_zero: bool = False
    picks: bool = False
    pools: bool = False
    source: Source | None = None
    product: Literal["", "forward", "by_input", "by_weight"] = ""
    collapses: bool = False
    side_sum: Literal["", "stored", "loaded"] = ""
    of_filters: bool = False
    takes_sums: bool = False
    sibling_of: str | None = None
    loop_over: int | None = None
    updates: bool = False
    moments: bool = False
    of_batch: bool = False
    index: bool = False
    from_window: Literal["", "share", "chosen"] = ""
    dense_view: Literal["", "flat", "image", "weight"] = ""
    row_of: bool = False
    pads: bool = False
    running: bool = False
    probabilities: bool = False
    random: bool = False
    detaches: bool = False
    prepared: bool = False
    torch: Callable[..., Any] | None = None
    begins_backward: bool = False
    unread: tuple[int, ...] = ()
    cuts: Literal["", "channels", "filters"] = ""
    joins: Literal["", "channels", "filters"] = ""
    finds_rows: bool = False
    finds_vectors: bool = False
    operations: int = 8

    @property
    def chains(self) -> bool:
        """May it be one of a chain of pointwise operations, which a kernel computes where it loads or stores?"""
        return self.kind is Kind.POINTWISE and not self.copies

    @property
    def weight_gradient(self) -> bool:
        """Does it sum over all pixels of the batch, which several programs share out?"""
        return self.product == "by_weight"

    @property
    def over_images(self) -> bool:
        """Of a product: does it slide over images?"""
        return "stride" in self.attrs

    @property
    def convolution(self) -> bool:
        """Is it a convolution itself, no gradient of one?"""
        return self.product == "forward" and self.over_images

    @property
    def sum_of_two(self) -> bool:
        """Is it the sum of its two operands?"""
        return self.operands == (2, 2) and self.scalar == Value(self.inputs[0]) + Value(self.inputs[1])

    @property
    def product_of_two(self) -> bool:
        """Is it the product of its two operands?"""
        return self.operands == (2, 2) and self.scalar == Value(self.inputs[0]) * Value(self.inputs[1])

    @property
    def activation(self) -> bool:
        """Does it look at nothing but the element of its one operand?"""
        return self.elementwise and self.operands == (1, 1)

    @cached_property
    def operands(self) -> tuple[int, float]:
        """How many at least, and at most."""
        least = sum(1 for name in self.inputs if name[-1] not in "?*")
        return least, inf if any(name.endswith("*") for name in self.inputs) else len(self.inputs)

    def operand_names(self, count: int) -> tuple[str, ...]:
        """The names of ``count`` operands, the last one's for those that follow it."""
        names = self._bare_names
        return names[:count] + names[-1:] * (count - len(names))

    @cached_property
    def _bare_names(self) -> tuple[str, ...]:
        return tuple(name.rstrip("?*") for name in self.inputs)


OPS: dict[str, Op] = {}


def declared_operations(meant: str = "") -> str:
    """The operations that a network is declared of, in words: all but those that only differentiation makes.
    The one whose name is nearest to what was ``meant`` comes first."""
    names = [name for name in sorted(OPS) if "_grad" not in name]
    return f"{nearest(meant, names)}known: {', '.join(names)}"


def nearest(meant: str, names: Iterable[str]) -> str:
    """``did you mean relu6? `` of the name that is nearest to what was meant, or nothing if none is near."""
    near = get_close_matches(meant[:40].lower(), list(names), 1)
    return f"did you mean {near[0]}? " if near else ""


def no_macs(*_: Any) -> int:
    return 0


def register(
    name: str,
    kind: Kind,
    inputs: str = "",
    *,
    shape: Callable[..., TensorType],
    numpy: Callable[..., Any],
    gradient: Callable[..., Sequence[str | None]] | str,
    aten: Callable[..., Any] | None = None,
    torch: Callable[..., Any] | None = None,
    macs: Macs = no_macs,
    attrs: Mapping[str, Attr] | None = None,
    doc: str = "",
    **facts: Any,
) -> None:
    """Add a row. ``inputs`` is the operands' names with spaces between; ``facts`` are further fields of :class:`Op`."""
    facts = {key: value for key, value in facts.items() if value is not None}
    if aten is None:
        assert torch is not None, f"{name} has neither aten nor torch"
        alone = torch

        def aten(env: Any, a: Any, *operands: Any) -> Any:
            return alone(*operands, **a)

    OPS[name] = Op(
        name, kind, tuple(inputs.split()), dict(attrs or {}), shape, numpy, gradient, macs, aten, doc, torch=torch,
        **facts,
    )  # fmt: skip


def check_attrs(node: Node) -> Mapping[str, Any]:
    """All attributes of a node, normalised, defaults filled in; raises GraphError naming the layer."""
    row = OPS[node.op]
    for name in node.attrs:
        if name not in row.attrs:
            accepted = ", ".join(row.attrs) or "none"
            near = nearest(name, row.attrs)
            raise GraphError(f"layer {node.name}: {node.op} has no attribute {name!r}; {near}it has: {accepted}")
    values = {}
    for name, attr in row.attrs.items():
        value = node.attrs.get(name, attr.default)
        if value is REQUIRED:
            raise GraphError(f"layer {node.name}: {node.op} needs {name} ({attr.accepts})")
        values[name] = value if value is attr.default else attr.checked(node.name, name, value)
    return MappingProxyType(values)


def infer_type(node: Node, inputs: Sequence[TensorType]) -> TensorType:
    """The type of a node's result; raises ShapeError naming the layer."""
    row = OPS[node.op]
    least, most = row.operands
    if not least <= len(inputs) <= most:
        wanted = " ".join(row.inputs) or "none"
        raise GraphError(f"layer {node.name}: {node.op} takes inputs ({wanted}), {len(inputs)} given")
    if len(inputs) > MOST_OPERANDS:
        raise GraphError(f"layer {node.name}: {len(inputs)} inputs; a layer has at most {MOST_OPERANDS}")
    try:
        for name, type_ in zip(row.operand_names(len(inputs)), inputs):
            _check_operand(name, row.batched.get(name, BATCHED.get(name, False)), type_)
        found = row.shape(node.attrs, *inputs)
        most_elements, whose = (MOST_ELEMENTS, "an image") if found.batched else (MOST_WEIGHTS, "in all")
        if (count := prod(found.per_image)) > most_elements:
            raise ShapeError(f"{found} is {count} elements {whose}; at most {most_elements} are accepted")
        if found.batched and max(found.spatial) > WIDEST_IMAGE:
            raise ShapeError(f"{found} is an image with sides of more than {WIDEST_IMAGE} pixels")
        return found
    except ShapeError as error:
        raise ShapeError(f"layer {node.name} ({node.op}): {error}") from None
    except (IndexError, TypeError, ValueError):  # a rule met a rank it was not written for
        given = " and ".join(map(str, inputs)) or "nothing"
        raise ShapeError(f"layer {node.name} ({node.op}): inputs {given} do not fit; it computes {row.doc}") from None


def _check_operand(name: str, batched: bool | None, type_: TensorType) -> None:
    """Raise ShapeError unless an operand has, or has not, a batch dimension as its row says, and holds such numbers."""
    wanted = _INTEGERS.get(name)
    if wanted is not None and type_.dtype != wanted:
        raise ShapeError(f"{name} must be {wanted}, it is {type_}")
    if wanted is None and not type_.dtype.startswith("float"):
        raise ShapeError(f"{name} must hold floating-point numbers, it is {type_}")
    if batched is not None and type_.batched != batched:
        has = "a" if batched else "no"
        raise ShapeError(f"{name} must have {has} batch dimension N, it is {type_}")


_INTEGERS = {"labels": "int64", "index": "uint8", "bytes": "uint8"}
#: whether operands have a batch dimension by the names that most rows give them; weights and statistics have none
BATCHED: dict[str, bool | None] = {
    "x": True, "dy": True, "y": True, "logits": True, "labels": True, "index": True, "bytes": True, "a": None,
    "b": None,
}  # fmt: skip


# --- attribute kinds ------------------------------------------------------------


def _int(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool | np.bool_) or int(value) != value or not least <= value <= most:
        raise ValueError
    return int(value)


def integer(default: Any = REQUIRED, least: int = 0, most: int = MOST_ELEMENTS) -> Attr:
    return Attr(lambda v: _int(v, least, most), f"an integer of at least {least} and at most {most}", default)


def pair(default: Any = REQUIRED, least: int = 1, most: int = WIDEST) -> Attr:
    def check(value: Any) -> tuple[int, int]:
        a, b = (value, value) if isinstance(value, Integral) else value
        return _int(a, least, most), _int(b, least, most)

    return Attr(check, f"an integer or a pair (height, width) of at least {least} and at most {most}", default)


def padding(default: Any = (0, 0, 0, 0)) -> Attr:
    """``(top, bottom, left, right)``; also accepts one integer or ``(height, width)``."""

    def check(value: Any) -> tuple[int, int, int, int]:
        if isinstance(value, Integral):
            value = (value,) * 4
        if len(value) == 2:
            value = (value[0], value[0], value[1], value[1])
        top, bottom, left, right = (_int(v, 0, WIDEST) for v in value)
        return top, bottom, left, right

    return Attr(
        check, f"an integer, (height, width) or (top, bottom, left, right), none negative or above {WIDEST}", default
    )


def number(default: Any = REQUIRED, low: float = float("-inf"), high: float = float("inf")) -> Attr:
    def check(value: Any) -> float:
        if isinstance(value, bool | str) or not isfinite(value) or not low <= float(value) <= high:
            raise ValueError
        return float(value)

    limits = [f"of at least {low:g}"] if isfinite(low) else []
    limits += [f"of at most {high:g}"] if isfinite(high) else []
    return Attr(check, " ".join(["a finite number", " and ".join(limits)]).strip(), default)


def boolean(default: Any = REQUIRED) -> Attr:
    def check(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)

    return Attr(check, "True or False", default)


def text(default: Any = REQUIRED, choices: Sequence[str] | None = None) -> Attr:
    def check(value: Any) -> str:
        if not isinstance(value, str) or (choices is not None and value not in choices):
            raise ValueError
        return value

    return Attr(check, f"one of {', '.join(choices)}" if choices else "a string", default)


def require(condition: bool, message: str | Callable[[], str]) -> None:
    """Raise ShapeError(message) unless ``condition`` holds; the caller adds the layer's name.
    Where a network has very many of the operation, the message is a function: most of them are never read."""
    if not condition:
        raise ShapeError(message if isinstance(message, str) else message())
