"""What the importers share: foreign values, names, and everything that is not understood, said at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ..ir.builder import GraphBuilder
from ..ir.graph import NAME
from ..ir.types import N, TensorType
from ..ir.wording import plural
from ..system.errors import GraphError, TricnnError
from .views import REPEATED, View

#: what nothing is known of, not even what it looks like
UNKNOWN = object()
#: the batch size that stands for N while shapes are compared: a prime that no layer has
BATCH = 10007


class NotImported(GraphError):
    """A network that cannot be imported. ``problems`` has each operation that was not understood."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        super().__init__(message)
        self.problems = tuple(problems)


class Unsupported(Exception):
    """What an operation does that tricnn has no words for: ``reason``, and what to do instead."""

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(reason)
        self.reason, self.advice = reason, advice


@dataclass(frozen=True)
class Problem:
    """One operation that was not understood, and what to do about it.
    It has its foreign name, the module it is in, the line of code, the reason and the advice."""

    operation: str
    path: str
    code: str
    reason: str
    advice: str

    @property
    def where(self) -> str:
        return " ".join(filter(None, [self.path and f"in {self.path}", self.code and f"at {self.code}"]))


@dataclass(frozen=True)
class Site:
    """Where an operation of the foreign network is.
    It has the path of its module, whether layers are named after that module alone, its foreign name, and the line of
    code."""

    path: str = ""
    alone: bool = False
    operation: str = ""
    code: str = ""


@dataclass(frozen=True)
class Tensor:
    """A value of the graph as the foreign network sees it: under a view, amid padding that nobody has added yet."""

    value: str
    view: View
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    padded_with: float = 0.0
    site: Site = Site()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def padded(self) -> bool:
        return any(self.padding)


@dataclass(frozen=True)
class Stored:
    """A parameter or a buffer as the foreign network sees it: under another shape, its numbers in the same order.
    Where forward computes a weight of it, ``value`` is that value of the graph; ``factor`` is a number that it is
    multiplied by, which a reader must know what to do with."""

    name: str
    shape: tuple[int, ...]
    value: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class Declared:
    """How a parameter or a buffer comes into the graph. ``numbers`` gives what it holds, None where nobody knows.
    What is not ``kept`` is in no state of the foreign network: only where forward reads it is it in the graph."""

    shape: tuple[int, ...]
    trained: bool
    numbers: Callable[[], np.ndarray | None] = lambda: None
    kept: bool = True


class Assembler:
    """Grows a graph from foreign operations; ``site`` is where the one being read is."""

    def __init__(self, name: str, stored: dict[str, Declared]):
        self.builder = GraphBuilder(name)
        self.stored = stored
        self.site = Site()
        self.shape: Any = ()  # of what the foreign network computes there, or a list of several
        self.floating = True  # does that hold real numbers?
        self.problems: list[Problem] = []
        self.unknown: set[str] = set()  # stand-ins for what was not understood

    # --- values -------------------------------------------------------------

    def type(self, value: str) -> TensorType:
        return self.builder.types[value]

    def made(self, value: str, view: View | None = None) -> Tensor:
        """A value of the graph, seen as it is, or under a view that another value of its shape had."""
        return Tensor(value, view or View.of(self.type(value).at(BATCH)), site=self.site)

    def tensor(self, x: Any) -> Tensor:
        """``x``, which must be a value that depends on the images; its padding is added if it has any."""
        if isinstance(x, Tensor):
            return self.with_padding(x)
        if isinstance(x, Stored):
            raise Unsupported(
                f"it computes with {x.name} alone", "weights that forward computes are not supported: store the result"
            )
        raise Unsupported(
            "it computes with a tensor that is neither a layer nor in the state_dict", "a constant must be one number"
        )

    def with_padding(self, x: Tensor) -> Tensor:
        """``x`` with its padding, if it has any, among its numbers: what is negative is cut off."""
        if not x.padded:
            return x
        if x.padded_with == 0 or max(x.padding) <= 0:
            before, self.site = self.site, x.site
            try:
                return self.made(self.add("zero_pad2d", x.value, padding=x.padding))
            finally:
                self.site = before
        raise Unsupported(f"padding by {x.padded_with:g}", "padding is by 0; before a max pooling also by -inf")

    def plain(self, x: Any) -> str:
        """The name of a value [N], [N, F] or [N, C, H, W] that holds ``x`` as the foreign network sees it."""
        x = self.tensor(x)
        return self._plain(x)

    def _plain(self, x: Tensor) -> str:
        view, shape = x.view, x.shape
        if view.plain:
            return x.value
        if any(f.axis == REPEATED for dim in view.dims for f in dim):
            return self._copied(x)
        if view.in_order and shape[:1] == view.base[:1] == (BATCH,):
            per_image, before = shape[1:], self.site
            self.site = x.site  # named after who reshaped it
            try:
                value = x.value
                if len(view.base) == 4 and len(per_image) in (1, 3):
                    value = self.add("flatten", value)
                if len(per_image) == 3:
                    value = self.add("unflatten", value, shape=per_image)
                if len(per_image) in (1, 3):
                    return value
            finally:
                self.site = before
        if (moved := self._moved(view)) is not None:
            before, self.site = self.site, x.site
            try:
                value = x.value
                for op, attrs in moved:
                    value = self.add(op, value, **attrs)
                shape = self.type(value).at(BATCH)
                whole = View.of(shape).reshaped(x.shape)
                assert whole is not None  # it is of four dimensions, as all that is moved
                return self._plain(Tensor(value, whole, site=x.site))
            finally:
                self.site = before
        if x.value in self.unknown and isinstance(known := self.stand_in(shape), Tensor) and known.view.plain:
            return known.value
        raise Unsupported(
            f"it needs its input as {described(shape)}, made of {described(view.base)} by reshapes and permutations",
            "images are [N, C, H, W] and features [N, F]; channels may move, be split and be put together",
        )

    def _copied(self, x: Tensor) -> str:
        """The name of an image in which numbers are there several times: pixels, and the channels of one pixel."""
        n, channels, *size = x.view.dims if len(x.shape) == 4 else ((), ())
        copies = prod(f.extent for f in channels if f.axis == REPEATED)
        first = tuple(f for f in channels if f.axis != REPEATED)
        one_pixel = not any(f.axis != REPEATED for dim in size for f in dim)
        if len(x.shape) != 4 or (copies > 1 and first and (not one_pixel or channels[:-1] != first)):
            raise Unsupported(
                f"copies that make {described(x.shape)} of {described(x.view.base)}",
                "supported are those of pixels, of a single channel, and of the channels of one pixel",
            )
        before, self.site = self.site, x.site
        try:
            value = self._plain(Tensor(x.value, View(x.view.base, (n, first, *size)).narrow, site=x.site))
            if copies > 1 and not one_pixel:
                value = self.add("concat", *[value] * copies)
            elif copies > 1:  # channels as if they were rows, and each row several times
                rows = self.add("unflatten", self.add("flatten", value), shape=(self.type(value).channels, 1, 1))
                alike = self.add("upsample_nearest2d", rows, size=(copies, 1))
                value = self.add("unflatten", self.add("flatten", alike), shape=(x.shape[1], 1, 1))
            if self.type(value).spatial != x.shape[2:]:
                value = self.add("upsample_nearest2d", value, size=x.shape[2:])
            return value
        finally:
            self.site = before

    def _moved(self, view: View) -> list[tuple[str, dict[str, Any]]] | None:
        """The operations on channels and pixels that a view amounts to, with their attributes; None if it is none.
        Between channels and pixels the channel comes first, as PyTorch has it, or the place in the block does (DCR)."""
        if len(view.base) != 4 or len(view.dims) != 4:
            return None
        rest = View.of(view.base).dims
        if len(view.dims[1]) == 2 and (view.dims[0], *view.dims[2:]) == (rest[0], *rest[2:]):
            groups = view.dims[1][1].extent
            split = View.of(view.base).reshaped((view.base[0], groups, view.base[1] // groups, *view.base[2:]))
            if split is not None and split.permuted((0, 2, 1, 3, 4)).reshaped(view.base) == view:
                return [("channel_shuffle", {"groups": groups})]
        n, c, h, w = view.base

        def same(split: tuple[int, ...], order: Sequence[int]) -> bool:
            found = View.of(view.base).reshaped(split)
            return found is not None and found.permuted(order).reshaped(view.shape) == view

        for r in {f.extent for dim in view.dims for f in dim if f.axis == 1 and c % (f.extent * f.extent) == 0}:
            grown: tuple[str, dict[str, Any]] = ("pixel_shuffle", {"upscale_factor": r})
            if same((n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3)):
                return [grown]
            if same((n, r, r, c // (r * r), h, w), (0, 3, 4, 1, 5, 2)):
                return [("channel_shuffle", {"groups": r * r}), grown]
        rows, columns = ({f.extent for dim in view.dims for f in dim if f.axis == axis} for axis in (2, 3))
        for r, p in product(rows, columns):  # patches, a column each, whose pixels are the rows, are put together again
            if h == r * r and same((n, c, r, r, p, w // p), (0, 1, 4, 2, 5, 3)):
                image = {"shape": (c * h, p, w // p)}
                return [("flatten", {}), ("unflatten", image), ("pixel_shuffle", {"upscale_factor": r})]
        for r in {extent for extent in rows | columns if h % extent == w % extent == 0}:
            shrunk: tuple[str, dict[str, Any]] = ("pixel_unshuffle", {"downscale_factor": r})
            if same((n, c, h // r, r, w // r, r), (0, 1, 3, 5, 2, 4)):
                return [shrunk]
            if same((n, c, h // r, r, w // r, r), (0, 3, 5, 1, 2, 4)):
                return [shrunk, ("channel_shuffle", {"groups": c})]
        return None

    def image(self, x: Any) -> str:
        """The name of a value of our graph [N, C, H, W] that holds ``x``, for an operation that takes nothing else.
        Raises Unsupported for another shape."""
        value = self.plain(x)
        if len(self.type(value).shape) != 4:
            raise Unsupported(f"it is applied to {self.type(value)}", "it is supported on [N, C, H, W]")
        return value

    # --- layers -------------------------------------------------------------

    def add(self, op: str, *inputs: str, owner: str | None = None, stem: str | None = None, **attrs: Any) -> str:
        """Add a layer; its name is returned.
        It is named after the module that ``owner``, one of its parameters, belongs to; else after the module that it is
        in."""
        name = self.fresh(stem or op, owner)
        return self.builder.add(op, *inputs, name=name, **attrs)

    def fresh(self, stem: str, owner: str | None = None) -> str:
        """A name that nobody has and no parameter will have."""
        path = self.site.path
        if owner is not None and "." in owner:
            base = owner.rpartition(".")[0]
        elif self.site.alone and path:
            base = path
        else:
            base = f"{path}.{stem}" if path else stem
        name, count = base, 1
        while name in self.builder.types or name in self.stored:
            count += 1
            name = f"{base}_{count}"
        return name

    def parameter(self, x: Any, what: str, shape: Sequence[int] | None = None) -> str:
        """The name of the parameter or buffer ``x``, which is declared in the graph by now.
        It must have been stored in the shape that it is used in, or in ``shape``."""
        if not isinstance(x, Stored):
            raise Unsupported(f"its {what} is computed in forward", "give it a parameter or a buffer as it is stored")
        if x.factor != 1:
            return self.add("scale", self.parameter(replace(x, factor=1.0), what, shape), owner=x.name, factor=x.factor)
        if x.value:
            return self.viewed(x.value, x.shape)
        declared = self.stored[x.name]
        wanted = tuple(shape) if shape is not None else x.shape
        if declared.shape != wanted:
            raise Unsupported(
                f"its {what} {x.name} is stored as {list(declared.shape)} and used as {list(wanted)}",
                f"store it as {list(wanted)}",
            )
        return self.declare(x.name)

    def viewed(self, name: str, shape: Sequence[int]) -> str:
        """The name of a parameter of the graph under ``shape``, with dimensions of 1 added or left out."""
        if self.type(name).per_image == tuple(shape):
            return name
        view = f"{name}.view"
        while view in self.stored or (view in self.builder.types and self.type(view).per_image != tuple(shape)):
            view += "_"
        return view if view in self.builder.types else self.builder.add("view_weight", name, name=view, shape=shape)

    def declare(self, name: str) -> str:
        """Declare ``name`` in the graph: as a parameter, or as a buffer if nobody trains it."""
        if name not in self.builder.types:
            declared = self.stored[name]
            if declared.trained:
                self.builder.parameter(name, declared.shape, initialiser(declared.shape, name))
            else:
                init = "constant(1)" if name.endswith("running_var") else "constant(0)"
                self.builder.add("buffer", name=name, shape=declared.shape, init=init)
        return name

    def declare_unused(self) -> None:
        """Declare names that forward never reads, as buffers that nothing reads.
        So a state of the network fits the graph."""
        for name, declared in self.stored.items():
            wanted = declared.kept and not name.endswith("num_batches_tracked")
            if wanted and name not in self.builder.types:
                self.builder.add("buffer", name=name, shape=declared.shape)

    # --- what is not understood -----------------------------------------------

    def problem(self, reason: str, advice: str = "", site: Site | None = None) -> None:
        site = site or self.site
        found = Problem(site.operation, site.path, site.code, reason, advice)
        if found not in self.problems:
            self.problems.append(found)

    def attempt(self, read: Callable[[], Any], shapes: Any) -> Any:
        """What ``read`` gives; if it cannot be understood that is noted, and stand-ins of the right shapes go on."""
        try:
            return read()
        except Unsupported as error:
            self.problem(error.reason, error.advice)
        except TricnnError as error:
            self.problem(str(error))
        return self.stand_in(shapes)

    def stand_in(self, shapes: Any) -> Any:
        """Values that nothing computes, so that the rest of the network can be looked at too."""
        if isinstance(shapes, list):
            return [self.stand_in(shape) for shape in shapes]
        if shapes is None or not shapes or shapes[0] != BATCH:
            return UNKNOWN
        rank = len(shapes)
        kept = shapes if rank in (1, 2, 4) else (BATCH, prod(shapes[1:]))
        shape = (N, *kept[1:])
        value = self.builder.add("input", name=self.fresh("missing"), shape=shape)
        self.unknown.add(value)
        return replace(self.made(value), view=View.of(kept).reshaped(shapes) or View.of(kept))

    def refuse(self, what: str, advice: str) -> None:
        """Raise NotImported with everything that was not understood, if anything was not, and what to do about it."""
        if not self.problems:
            return
        groups: dict[tuple[str, str, str], list[Problem]] = {}
        for p in self.problems:
            groups.setdefault((p.operation, p.reason, p.advice), []).append(p)
        parts = []
        for (operation, reason, instead), found in groups.items():
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            where = f" ({found[0].where}{more})" if found[0].where else more
            parts.append(f"{operation or 'network'}{where}: {reason}{f'; {instead}' if instead else ''}")
        count = plural(len(groups), "problem")
        raise NotImported(f"{what} cannot be imported, {count}: {' | '.join(parts)}. {advice}", self.problems)


def described(shape: Iterable[int]) -> str:
    """A shape with N where the batch is a factor of an extent."""
    names = []
    for extent in shape:
        times = extent // BATCH if extent % BATCH == 0 and extent else 0
        names.append(str(extent) if not times else "N" if times == 1 else f"N*{times}")
    return f"[{', '.join(names)}]"


def initialiser(shape: Sequence[int], name: str) -> str:
    """What a parameter is drawn from where nobody loads weights.
    That is PyTorch's rule for weights of products, 1 for the scales of normalisations, 0 for the rest."""
    if len(shape) > 1:
        return "torch_default"
    return "constant(1)" if name.rpartition(".")[2] in ("weight", "gamma") else "constant(0)"


def accepted_name(text: str, otherwise: str) -> str:
    """``text`` with '_' for what no name may hold."""
    name = re.sub(r"[^A-Za-z0-9_.\-]", "_", text).strip(".-")
    name = re.sub(r"\.+", ".", name)[:128]
    return name if NAME.fullmatch(name) else otherwise
