"""Lowering: each kernel of a plan becomes one function of the emitted file, and one launch or two."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from ..compiler.fuse import SIDE_SUMS, pixel_ordered
from ..compiler.plan import Kernel, Plan
from ..ir.errors import TargetError
from ..ir.graph import Node
from ..ir.table import Kind
from . import tiles
from .body import At, Body
from .program import DTYPES, Buffer, Function, Launch, Program, element, evaluate, plan_buffers

POINTER = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16", "u8": "*u8", "i64": "*i64"}
#: numbers a launch may take; the seed is 64 bits, passed as two words
SCALARS = {"N": "i32", "seed_lo": "i64", "seed_hi": "i64", "step": "i32"}


def lower(
    plan: Plan, dtype: str, batch: int, target: str = "sm_90", attempts: Mapping[str, int] | None = None
) -> Program:
    """The plan for one dtype. ``batch`` and ``target`` guide the choice of tiles only: a program runs any batch size.

    ``attempts`` maps a function's name to how many times its tiles must be made smaller (after spills).
    """
    if dtype not in DTYPES:
        raise TargetError(f"dtype {dtype!r} has no Triton kernels; accepted: {', '.join(DTYPES)}")
    state = Lowering(plan, dtype, batch, target, dict(attempts or {}))
    for kernel in plan.kernels:
        lowering_of(kernel)(state, kernel)
    return Program(
        plan, dtype, batch, tuple(state.functions.values()), tuple(state.launches), state.buffers, state.order
    )


@dataclass
class Lowering:
    """What has been lowered so far."""

    plan: Plan
    dtype: str
    batch: int
    target: str
    attempts: dict[str, int]
    functions: dict[str, Function] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.storage, self.precision = DTYPES[self.dtype]
        self.buffers: dict[str, Buffer] = plan_buffers(self.plan, self.storage)
        self.order = pixel_ordered(self.plan.graph)
        self._same: dict[str, str] = {}

    def body(self, kernel: Kernel) -> Body:
        return Body(self.plan, kernel, self.storage)

    def attempt(self, name: str) -> int:
        return self.attempts.get(name, 0)

    def workspace(self, name: str, size: str) -> str:
        self.buffers[name] = Buffer(name, "fp32", size)
        return name

    def add(
        self, name: str, kernel: Kernel, helpers: list[str], call: Callable[[Callable[[str], str]], str],
        bodies: list[Mapping[str, str]], grid: tuple[str, ...], tile: tiles.Tile, *,
        extra: tuple[tuple[str, str], ...] = (), writes: tuple[str, ...], kind: str, flops: int = 0,
        share: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Register a function and its launch.

        ``bodies`` are the argument maps (buffer -> local name) of the helpers; ``extra`` further (buffer, name) pairs.
        ``call`` writes the template's call, given a function from a buffer to its parameter's name.
        """
        names: dict[str, str] = {}
        taken = {"tl", "triton", "N", *keyword.kwlist}
        for mapping in [*bodies, dict(extra)]:
            for buffer, stem in mapping.items():
                if buffer in names:
                    continue
                stem = buffer if buffer in SCALARS else stem
                unique, count = stem, 1
                while unique in taken and buffer not in SCALARS:
                    count += 1
                    unique = f"{stem}{count}"
                taken.add(unique)
                names[buffer] = unique
        names.setdefault("N", "N")
        types = [(p, SCALARS.get(b) or POINTER[self.buffers[b].dtype]) for b, p in names.items()]
        code = call(lambda buffer: names[buffer])
        text = "\n\n".join(
            [
                *(h.rstrip() + "\n" for h in helpers),
                f"@triton.jit\ndef {name}({', '.join(names.values())}):\n{_indent(code)}\n",
            ]
        )
        key = f"{text.replace(name, '@')} {types} {tile.warps} {tile.stages}"
        if key not in self._same:
            self._same[key] = name
            self.functions[name] = Function(name, text, tuple(types), tile.warps, tile.stages)
        buffers = tuple(b for b in names if b not in SCALARS)
        self.launches.append(
            Launch(
                self._same[key],
                tuple(names),
                grid,
                kernel.name,
                kind,
                kernel.layers,
                tuple(b for b in buffers if b not in writes),
                writes,
                flops,
                dict(share or {}),
            )
        )


def _indent(code: str) -> str:
    return "\n".join("    " + line if line else line for line in code.splitlines())


def as_tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def everything_of(body: Body) -> dict[str, str]:
    return {**body.args, **body.written}


def call_text(template: str, positional: list[str], constants: Mapping[str, Any]) -> str:
    """A call of a template, positional arguments on the first lines, constants below."""
    shown = wrap(positional) + wrap([f"{k}={v!r}" for k, v in constants.items()])
    return "\n".join([f"{template}(", *shown, ")"])


def wrap(items: list[str], width: int = 104) -> list[str]:
    """Items with commas, as many on a line as fit."""
    rows, row = [], "   "
    for item in items:
        if len(row) + len(item) + 2 > width and row.strip():
            rows.append(row)
            row = "   "
        row += f" {item},"
    return [*rows, row] if row.strip() else rows


def plain_function(name: str, parameters: str, args: list[str], lines: list[str]) -> str:
    """A helper whose lines are written by hand."""
    unpack = f"({args[0]},) = args" if len(args) == 1 else f"{', '.join(args)} = args"
    code = "\n".join(f"    {line}" for line in [unpack, *lines])
    return f"@triton.jit\ndef {name}({parameters}):\n{code}\n"


# --- what follows the anchor ------------------------------------------------------------


def downstream(plan: Plan, kernel: Kernel, start: set[str]) -> list[Node]:
    """The epilogue: nodes that depend on the anchor, in order."""
    reached, found = set(start), []
    for node in kernel.nodes:
        if node.name not in reached and any(plan.storage(v) in reached for v in node.inputs):
            reached.add(node.name)
            found.append(node)
    return found


def epilogue(body: Body, kernel: Kernel, at: At, start: str, first: str | None = None) -> None:
    """Apply and store everything that follows ``start``, which is in the register ``first`` at ``at``."""
    places = {start: at}
    if first is not None:
        body.known[start, at] = first
    if start in kernel.writes:
        body.store(start, body.known[start, at], at)
    for node in downstream(body.plan, kernel, {start}):
        source = next((v for v in map(body.plan.storage, node.inputs) if v in places), start)
        here = places[source]
        if node.op in SIDE_SUMS and node is not kernel.anchor:
            body.side_sum(node, here)
            continue
        if node.op in ("running_mean", "running_var"):
            continue  # with the merge of the statistics
        if node.op in ("max_pool2d", "max_pool2d_index", "avg_pool2d"):
            here = pooled(body, node, source, here)
        else:
            body.known[node.name, here] = body.compute(node, here)
        places[node.name] = here
        if node.name in kernel.writes:
            body.store(node.name, body.known[node.name, here], here)


def pooled(body: Body, node: Node, source: str, at: At) -> At:
    """Pooling inside a convolution's tile: rows list the windows one after another."""
    area = prod(node.attrs["kernel_size"])
    covered = At("window", "channel", "covered", at.width)
    if "covered" not in body.names:
        body.names.add("covered")
        body.lines.append(f"covered = mask_over_window(mask, {area})")
    tile = body.known[source, at]
    if node.op == "avg_pool2d":
        body.known[node.name, covered] = body.let("pooled", f"mean_over_window({tile}, {area})")
    else:
        key, index_key = (f"{source}#max", covered), (f"{source}#index", covered)
        if key not in body.known:
            value, position = body.name("pooled"), body.name("position")
            body.lines.append(f"{value}, {position} = max_over_window({tile}, {area})")
            body.known[key], body.known[index_key] = value, position
        body.known[node.name, covered] = body.known[key if node.op == "max_pool2d" else index_key]
    return covered


# --- contractions ------------------------------------------------------------


def conv_sizes(plan: Plan, node: Node) -> dict[str, int]:
    """C H W K R S P Q of a contraction, from the types of its operands and result."""
    t = plan.type
    if node.op.startswith("linear"):
        if node.op == "linear_grad_weight":
            k, c = t(node.name).per_image
        else:
            k, c = t(node.inputs[1]).per_image
        return {"C": c, "H": 1, "W": 1, "K": k, "R": 1, "S": 1, "P": 1, "Q": 1}
    x, w, y = {
        "conv2d": lambda: (t(node.inputs[0]), t(node.inputs[1]), t(node.name)),
        "conv2d_grad_input": lambda: (t(node.name), t(node.inputs[1]), t(node.inputs[0])),
        "conv2d_grad_weight": lambda: (t(node.inputs[1]), t(node.name), t(node.inputs[0])),
    }[node.op]()
    (h, wd), (p, q), (r, s) = x.spatial, y.spatial, w.per_image[2:]
    return {"C": x.channels, "H": h, "W": wd, "K": y.channels, "R": r, "S": s, "P": p, "Q": q}


def optional(node: Node) -> dict[str, int]:
    return {} if node.op.startswith("linear") else geometry_of(node)


def geometry_of(node: Node) -> dict[str, int]:
    a = node.attrs
    (sh, sw), (dh, dw), pad = a["stride"], a["dilation"], a["padding"]
    every = {"SH": (sh, 1), "SW": (sw, 1), "DH": (dh, 1), "DW": (dw, 1), "PT": (pad[0], 0), "PL": (pad[2], 0)}
    every["GROUPS"] = (a["groups"], 1)
    return {key: value for key, (value, default) in every.items() if value != default}


def _blocks(tile: tiles.Tile) -> dict[str, int]:
    return {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}


def lower_fprop(state: Lowering, kernel: Kernel) -> None:
    """conv2d and linear: rows are output pixels, columns filters."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c = conv_sizes(plan, node)
    g = optional(node)
    groups = g.get("GROUPS", 1)
    pool = next((n for n in kernel.nodes if n.op in ("max_pool2d", "avg_pool2d")), None)
    window = pool.attrs["kernel_size"] if pool is not None else (1, 1)
    rows = f"N * {(c['P'] // window[0]) * (c['Q'] // window[1]) * prod(window)}"
    tile = tiles.contraction(
        int(rows[4:]) * state.batch, c["K"] // groups, c["R"] * c["S"] * c["C"] // groups, state.dtype, state.target,
        state.attempt(name),
    )  # fmt: skip
    load, store = state.body(kernel), state.body(kernel)
    load_text = load.load_function(f"{name}_load_x", node.inputs[0], c["C"], "x", multiplied=True)
    at = At("pixel", "channel", "mask", c["K"])
    result = "acc"
    if len(node.inputs) > 2:
        result = store.let("conv" if node.op == "conv2d" else "y", f"acc + {store.value(node.inputs[2], at, 'bias')}")
    epilogue(store, kernel, at, node.name, result)
    head = "acc, pixel, channel, mask, window, part, args" if pool else "acc, pixel, channel, mask, part, args"
    store_text = store.function(f"{name}_store_y", head, store.lines)
    weight = plan.storage(node.inputs[1])
    windows = {"WINDOW_H": window[0], "WINDOW_W": window[1]} if pool is not None else {}
    share = {}
    if (c["R"], c["S"]) == (1, 1) and (g.get("SH", 1), g.get("SW", 1)) != (1, 1):
        share = {b: 1 / (g.get("SH", 1) * g.get("SW", 1)) for b in load.args if b in state.buffers}

    def call(p: Callable[[str], str]) -> str:
        return call_text(
            "conv2d_fprop",
            [f"{name}_load_x", as_tuple([p(b) for b in load.args]), p(weight), f"{name}_store_y",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**c, **g, **windows, **_blocks(tile), "PRECISION": state.precision},
        )  # fmt: skip

    grid = (f"cdiv({rows}, {tile.m}) * {-(-c['K'] // groups // tile.n)}", f"{groups}")
    parts = f"cdiv({rows}, {tile.m})"
    side_buffers(state, store, parts, c["K"])
    state.add(
        name, kernel, [load_text, store_text], call, [load.args, {weight: "weight"}, everything_of(store)], grid, tile,
        writes=tuple(store.written), kind=node.op, flops=2 * plan.graph.node_macs(node), share=share,
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c["K"])


def lower_dgrad(state: Lowering, kernel: Kernel) -> None:
    """conv2d_grad_input and linear_grad_input: rows are input pixels, columns channels."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c, g = conv_sizes(plan, node), optional(node)
    groups, sh, sw = g.get("GROUPS", 1), g.get("SH", 1), g.get("SW", 1)
    rows = -(-c["H"] // sh) * -(-c["W"] // sw)
    tile = tiles.contraction(
        rows * state.batch, c["C"] // groups, c["R"] * c["S"] * c["K"] // groups, state.dtype, state.target,
        state.attempt(name),
    )  # fmt: skip
    if tile.k > max(tiles.power_of_two(c["K"] // groups), 16):
        tile = replace(tile, k=max(tiles.power_of_two(c["K"] // groups), 16))
    load, store = state.body(kernel), state.body(kernel)
    load_text = load.load_function(f"{name}_load_dy", node.inputs[0], c["K"], "dy", multiplied=True)
    epilogue(store, kernel, At("pixel", "channel", "mask", c["C"]), node.name, "acc")
    store_text = store.function(f"{name}_store_dx", "acc, pixel, channel, mask, part, args", store.lines)
    weight = plan.storage(node.inputs[1])

    def call(p: Callable[[str], str]) -> str:
        return call_text(
            "conv2d_dgrad",
            [f"{name}_load_dy", as_tuple([p(b) for b in load.args]), p(weight), f"{name}_store_dx",
             as_tuple([p(b) for b in everything_of(store)]), "N"],
            {**c, **g, **_blocks(tile), "PRECISION": state.precision},
        )  # fmt: skip

    grid = (f"cdiv(N * {rows}, {tile.m}) * {-(-c['C'] // groups // tile.n)}", f"{groups}", f"{sh * sw}")
    parts = f"cdiv(N * {rows}, {tile.m})" + (f" * {sh * sw}" if sh * sw > 1 else "")
    side_buffers(state, store, parts, c["C"])
    state.add(
        name, kernel, [load_text, store_text], call, [load.args, {weight: "weight"}, everything_of(store)], grid, tile,
        writes=tuple(store.written), kind=node.op, flops=2 * plan.graph.node_macs(node),
    )  # fmt: skip
    finish_sides(state, kernel, store, parts, c["C"])


def side_buffers(state: Lowering, body: Body, parts: str, channels: int) -> None:
    """Room for what each tile leaves of its side sums."""
    for node, partial in body.sides:
        state.workspace(partial, f"{parts} * {(3 if node.op == 'batch_stats' else 2) * channels}")


def finish_sides(state: Lowering, kernel: Kernel, body: Body, parts: str, channels: int) -> None:
    """Launch what adds the tiles' partial results."""
    from .lower_others import lower_merge

    for node, partial in body.sides:
        if node.op == "batch_stats":
            lower_merge(state, kernel, node, partial, channels, parts)
        else:
            lower_split_sum(state, kernel, partial, parts, 2 * channels, 2 * channels, node.name, None, node.name)


def lower_wgrad(state: Lowering, kernel: Kernel) -> None:
    """conv2d_grad_weight and linear_grad_weight, with the bias gradient as a side sum. Where the sum over pixels is
    split, partial sums of both lie side by side and one more launch adds them in order."""
    node, plan, name = kernel.anchor, state.plan, kernel.name
    c, g = conv_sizes(plan, node), optional(node)
    groups = g.get("GROUPS", 1)
    columns = c["R"] * c["S"] * c["C"] // groups
    pixels = c["P"] * c["Q"] * state.batch
    tile = tiles.contraction(c["K"] // groups, columns, pixels, state.dtype, state.target, state.attempt(name))
    count = -(-c["K"] // groups // tile.m) * -(-columns // tile.n) * groups
    split = tiles.split_of(count, pixels, tile.k)
    bias = next((n for n in kernel.nodes if n.op == "channel_sum"), None)
    load_dy, load_x = state.body(kernel), state.body(kernel)
    dy_text = load_dy.load_function(f"{name}_load_dy", node.inputs[0], c["K"], "dy", multiplied=True)
    x_text = load_x.load_function(f"{name}_load_x", node.inputs[1], c["C"], "x", multiplied=True)
    total = c["K"] * columns
    everything = total + (c["K"] if bias else 0)
    if split > 1:
        partial = state.workspace(f"{name}.partial", f"{split * everything}")
        dw_args = bias_args = {partial: "partial"}
        dw_store = f"tl.store(partial + split * {everything} + row * {columns} + column, acc, mask=mask)"
        bias_store = f"tl.store(partial + split * {everything} + {total} + channel, acc, mask=mask)"
    else:
        dw_args, bias_args = {node.name: "dw"}, {bias.name: "db"} if bias else {}
        dw_store = f"tl.store(dw + row * {columns} + column, acc, mask=mask)"
        bias_store = "tl.store(db + channel, acc, mask=mask)"
    helpers = [dy_text, x_text]
    helpers.append(
        plain_function(f"{name}_store_dw", "acc, row, column, mask, split, args", list(dw_args.values()), [dw_store])
    )
    if bias:
        helpers.append(
            plain_function(
                f"{name}_store_db", "acc, channel, mask, split, args", list(bias_args.values()), [bias_store]
            )
        )

    def call(p: Callable[[str], str]) -> str:
        return call_text(
            "conv2d_wgrad",
            [f"{name}_load_dy", as_tuple([p(b) for b in load_dy.args]), f"{name}_load_x",
             as_tuple([p(b) for b in load_x.args]), f"{name}_store_dw", as_tuple([p(b) for b in dw_args]),
             f"{name}_store_db" if bias else "None", as_tuple([p(b) for b in bias_args]) if bias else "()", "N"],
            {**c, **g, "SPLIT": split, "BIAS": bias is not None, **_blocks(tile), "PRECISION": state.precision},
        )  # fmt: skip

    grid = (f"{-(-c['K'] // groups // tile.m) * -(-columns // tile.n)}", f"{groups}", f"{split}")
    written = tuple(dict.fromkeys([*dw_args, *(bias_args if bias else {})]))
    share = {}
    if (c["R"], c["S"]) == (1, 1) and (g.get("SH", 1), g.get("SW", 1)) != (1, 1):
        share = {b: 1 / (g.get("SH", 1) * g.get("SW", 1)) for b in load_x.args if b in state.buffers}
    state.add(
        name, kernel, helpers, call, [load_dy.args, load_x.args, dw_args, bias_args if bias else {}], grid, tile,
        writes=written, kind=node.op, flops=2 * plan.graph.node_macs(node), share=share,
    )  # fmt: skip
    if split > 1:
        lower_split_sum(state, kernel, partial, f"{split}", total, everything, node.name, bias.name if bias else None)


#: more partial results than this are first added in GROUPS groups, each by programs of its own
MANY, GROUPS = 512, 32


def lower_split_sum(
    state: Lowering, kernel: Kernel, partial: str, parts: str, total: int, everything: int, dw: str, db: str | None,
    suffix: str = "",
) -> None:  # fmt: skip
    """dw (and db behind it) = the sum of the partial sums, in order. ``parts`` is an expression in N."""
    name, block = identifier(f"{kernel.name}_sum{suffix and '_'}{suffix}"), 128
    count = evaluate(parts, state.batch)
    columns = -(-everything // block)

    def launch(name: str, helper: str, outputs: dict[str, str], source: str, parts: str, split: int) -> None:
        few = evaluate(parts, state.batch)

        def call(p: Callable[[str], str]) -> str:
            return call_text(
                "sum_partials",
                [p(source), f"{name}_store", as_tuple([p(b) for b in outputs]), parts.replace("cdiv", "tl.cdiv")],
                {"LENGTH": everything, "SPLIT": split, "BLOCK_P": min(tiles.power_of_two(few), 16), "BLOCK": block},
            )  # fmt: skip

        state.add(
            name, kernel, [helper], call, [{source: "partial"}, outputs], (f"{columns}", f"{split}"),
            tiles.Tile(1, block, 1, 4, 1), writes=tuple(outputs), kind="split_sum", flops=0,
        )  # fmt: skip

    parameters = "total, element, mask, split, args"
    if count > MANY:
        groups = state.workspace(f"{name}.groups", f"{GROUPS * everything}")
        lines = [f"tl.store(groups + split * {everything} + element, total, mask=mask)"]
        helper = plain_function(f"{name}_groups_store", parameters, ["groups"], lines)
        launch(f"{name}_groups", helper, {groups: "groups"}, partial, parts, GROUPS)
        partial, parts = groups, f"{GROUPS}"
    outputs = {dw: "dw"} | ({db: "db"} if db else {})
    if db:
        lines = [
            f"tl.store(dw + element, total, mask=mask & (element < {total}))",
            f"tl.store(db + (element - {total}), total, mask=mask & (element >= {total}))",
        ]
    else:
        lines = ["tl.store(dw + element, total, mask=mask)"]
    launch(name, plain_function(f"{name}_store", parameters, list(outputs.values()), lines), outputs, partial, parts, 1)


# --- pointwise ------------------------------------------------------------


def lower_pointwise(state: Lowering, kernel: Kernel) -> None:
    """A chain of pointwise operations in one pass."""
    name, plan = kernel.name, state.plan
    type_ = plan.type(kernel.anchor.name)
    channels = type_.per_image[-1] if not type_.batched and type_.per_image else (type_.channels if type_.shape else 1)
    pixels = type_.pixels if type_.batched else type_.elements(1) // channels
    rows = f"N * {pixels}" if type_.batched else f"{pixels}"
    tile = tiles.elementwise(channels, state.attempt(name))
    body = state.body(kernel)
    at = At("pixel", "channel", "mask", channels)
    body.known[kernel.anchor.name, at] = body.compute(kernel.anchor, at)
    epilogue(body, kernel, at, kernel.anchor.name)
    text = body.function(f"{name}_body", "pixel, channel, mask, part, args", body.lines)

    def call(p: Callable[[str], str]) -> str:
        count = "N" if type_.batched else "1"
        return call_text(
            "pointwise", [f"{name}_body", as_tuple([p(b) for b in everything_of(body)]), count],
            {"PIXELS": pixels, "C": channels, "BLOCK_M": tile.m, "BLOCK_N": tile.n},
        )  # fmt: skip

    grid = (f"cdiv({rows}, {tile.m})", f"{-(-channels // tile.n)}")
    state.add(
        name, kernel, [text], call, [everything_of(body)], grid, tile, writes=tuple(body.written), kind="pointwise",
        flops=prod(type_.per_image) * len(kernel.nodes),
    )  # fmt: skip


LOWERINGS: dict[str, Callable[[Lowering, Kernel], None]] = {
    "conv2d": lower_fprop, "linear": lower_fprop,
    "conv2d_grad_input": lower_dgrad, "linear_grad_input": lower_dgrad,
    "conv2d_grad_weight": lower_wgrad, "linear_grad_weight": lower_wgrad,
    "pointwise": lower_pointwise,
}  # fmt: skip


def lowering_of(kernel: Kernel) -> Callable[[Lowering, Kernel], None]:
    from . import lower_others  # noqa: F401  registers its kinds

    op = kernel.anchor.op
    if op in LOWERINGS:
        return LOWERINGS[op]
    if kernel.anchor.kind is Kind.POINTWISE:
        return lower_pointwise
    raise TargetError(f"layer {kernel.anchor.name}: {op} has no Triton kernel yet")


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def stored(state: Lowering, value: str) -> str:
    return element(state.plan.type(value), state.storage)
