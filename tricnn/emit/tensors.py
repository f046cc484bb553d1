"""The part of the emitted file that makes tensors: ``allocate``, ``point`` and ``round_weights``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from ..compiler.memory import share
from ..lower.names import ARRIVALS, SUM_TABLE
from ..lower.program import SUM_BLOCK, Program
from .page import WIDTH, entry, row, total

TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "u8": "uint8", "i64": "int64", "i32": "int32"}

PARAMETERS = '''\
def parameters(device="cuda"):
    """What lasts from step to step, whatever the batch: flat tensors by name, uninitialised."""
    return {{
{lasting}
    }}
'''

ALLOCATE = '''\
def allocate(N, device="cuda", lasting=None):
    """Every tensor of the step by name, flat and uninitialised, for a batch of N, with the parameters in
    lasting where that is given."""
{cdiv}
    t = {{
        **(lasting or parameters(device)),
{others}
    }}
{updates}
{arena}
{point}
    return t
'''

ARENA = """\
    # What one launch leaves for another: elements, type, the first launch that needs it, the last one.
    passed = {{
{passed}
    }}
    lives = {{name: (n * dtype.itemsize, first, last) for name, (n, dtype, first, last) in passed.items()}}
    starts, size = share(lives)
    arena = torch.empty(size, dtype=torch.uint8, device=device)
    for name, (n, dtype, *_) in passed.items():
        t[name] = arena[starts[name] : starts[name] + n * dtype.itemsize].view(dtype)
"""

SUMS = """\
# What the last launch adds up: partial results, the first element of interest, how many parts, elements
# from one part to the next; where their sum goes, and its length.
SUMS = [
{rows}
]
"""

FILL_SUMS = f"""\
    table = []
    for source, start, parts, stride, target, length in SUMS:
        for first in range(0, length, {SUM_BLOCK}):
            addresses = t[source].data_ptr() + 4 * (start + first), t[target].data_ptr() + 4 * first
            table.append((*addresses, parts, stride, min({SUM_BLOCK}, length - first)))
    t["{SUM_TABLE}"].copy_(torch.tensor(table, dtype=torch.int64).flatten())
"""

DESCRIPTORS = """\
# What kernels read and store by descriptors: name, tensor, the shape of a row or image of it, the shape of a box.
DESCRIPTORS = [
{rows}
]
"""

WINDOWS = """\
# Overlapping windows of the rows of images: name, tensor, the shape of an image, (elements of a window, elements from
# one window to the next), the shape of a box.
WINDOWS = [
{rows}
]
"""

SOME = """\
# Descriptors of some channels: name, tensor, the shape of a row or image of it, (first channel, how many), the shape of
# a box.
SOME = [
{rows}
]
"""

FILL_SOME = """\
    for name, tensor, shape, channels, box in SOME:
        tensor = t[tensor].view(-1, *shape).narrow(-1, *channels)
        if len(shape) > 2:  # images are the last axis but one
            tensor = tensor.movedim(0, -2)
        t[name] = triton.tools.tensor_descriptor.TensorDescriptor.from_tensor(tensor, box)
"""

FILL_WINDOWS = """\
    for name, tensor, shape, window, box in WINDOWS:
        tensor = t[tensor].view(-1, *shape).unfold(-1, *window)
        t[name] = triton.tools.tensor_descriptor.TensorDescriptor.from_tensor(tensor, box)
"""

FILL_DESCRIPTORS = """\
    for name, tensor, shape, box in DESCRIPTORS:
        tensor = t[tensor].view(-1, *shape)
        if len(shape) > 2:  # images are the last axis but one
            tensor = tensor.movedim(0, -2)
        t[name] = triton.tools.tensor_descriptor.TensorDescriptor.from_tensor(tensor, box)
"""

POINT = '''\
{lists}


def point(t):
    """Write where the tensors of t are into tables and descriptors; call it again after one of t was replaced."""
{fill}
'''

ROUND_WEIGHTS = '''\
# Products read weights in 16 bits: each weight, and its copy.
WEIGHTS = [
{rows}
]


def round_weights(t):
    """Round each weight into its 16-bit copy: before the first step, and after weights were changed by hand."""
    for weight, copy in WEIGHTS:
        t[copy].copy_(t[weight])
'''


def allocation(program: Program) -> str:
    """The text of ``parameters(device)`` and ``allocate(N, device)``: every tensor by name.
    Those that only launches need lie in memory that they share, where ``share`` puts them, which also plans
    ``Program.arena``."""
    lives, lasting = program.lives, program.parameters
    known = {*lives, *lasting, *program.updates}
    others = [name for name in program.buffers if name not in known]
    sizes = [str(b.size) for b in program.buffers.values()]
    passed = []
    for name, (first, last) in lives.items():
        life = f"({program.buffers[name].size}, {_dtype(program, name)}, {first}, {last})"
        passed += entry(8, repr(name), life)
    allocate = filled(
        ALLOCATE,
        cdiv=["    cdiv = triton.cdiv"] * any("cdiv" in size for size in sizes),
        others=_new(program, others),
        updates=[line for new, old in program.updates.items() for line in _same(new, old)],
        arena=[filled(ARENA, passed=passed)] if lives else [],
        point=["    point(t)"] * program.points,
    )
    functions = [filled(PARAMETERS, lasting=_new(program, lasting))]
    functions += [inspect.getsource(share).strip()] if lives else []
    return "\n\n\n".join([*functions, allocate]).replace("'", '"')


def pointing(program: Program) -> str:
    """The text of descriptors and tables of addresses, and of ``point(t)``, which makes them of the tensors in t."""
    sums = [(s.source, s.start, s.parts, s.stride, s.target, s.length) for s in program.sums]
    described = program.descriptors.values()
    boxes = [(d.name, d.buffer, list(d.shape), list(d.box)) for d in described if d.window is d.channels is None]
    some = [(d.name, d.buffer, list(d.shape), d.channels, list(d.box)) for d in described if d.channels is not None]
    windows = [(d.name, d.buffer, list(d.shape), d.window, list(d.box)) for d in described if d.window is not None]
    kinds: list[tuple[Sequence[Sequence[object]], str, str]] = [
        (sums, SUMS, FILL_SUMS),
        (boxes, DESCRIPTORS, FILL_DESCRIPTORS),
        (some, SOME, FILL_SOME),
        (windows, WINDOWS, FILL_WINDOWS),
    ]
    lists = [filled(text, rows=_rows(rows)) for rows, text, _ in kinds if rows]
    fill = [text.rstrip() for rows, _, text in kinds if rows]
    return filled(POINT, lists=lists, fill=fill).replace("'", '"')


def rounding(program: Program) -> str:
    """The text of ``round_weights(t)``.
    It is called before the first step, and after a change of weights that did not write the copies."""
    return filled(ROUND_WEIGHTS, rows=_rows(program.rounded.items())).replace("'", '"')


def filled(text: str, **lines: list[str]) -> str:
    """A text with lines instead of those that are ``{name}``: as many as there are, or none."""
    for name, some in lines.items():
        text = text.replace(f"{{{name}}}\n", "".join(f"{line}\n" for line in some))
    return text.replace("{{", "{").replace("}}", "}").rstrip()


def _rows(rows: Iterable[Sequence[object]]) -> list[str]:
    """Tuples as the items of a list."""
    return [line for items in rows for line in row(4, items)]


def _same(new: str, old: str) -> list[str]:
    """The lines that give one tensor a second name: what is updated in place."""
    line, why = f"    t[{new!r}] = t[{old!r}]", "  # updated in place"
    return [line + why] if len(line + why) <= WIDTH else [f"    t[{new!r}] = t[{why}", f"        {old!r}", "    ]"]


def _dtype(program: Program, buffer: str) -> str:
    """What torch calls the type of a buffer's elements."""
    return f"torch.{TORCH[program.buffers[buffer].dtype]}"


def _new(program: Program, buffers: Iterable[str]) -> list[str]:
    """New tensors by name, as the items of a dictionary."""
    return [line for name in buffers for line in _made(program, name)]


def _made(program: Program, name: str) -> list[str]:
    """A new tensor, as an item of a dictionary; of a packed input zeros, and where the images belong."""
    buffer = program.buffers[name]
    options = f"dtype={_dtype(program, name)}, device=device"
    made = f"({buffer.size}, {options})"
    if name == ARRIVALS:
        why = "        # 0 before each launch that counts its programs, and after it (not if it was interrupted)."
        size = total(12, str(buffer.size))
        if len(size) == 1:
            return [why, *entry(8, repr(name), f"torch.zeros{made}")]
        return [why, f"        {name!r}: torch.zeros(", *size, f"            {options},", "        ),"]
    if (packing := buffer.packing) is None:
        return entry(8, repr(name), f"torch.empty{made}")
    _, channels, height, width = program.plan.type(name).at(1)
    where = f"[:, :{height}, {packing.left}:{packing.left + width * channels}]"
    place = f".view(N, {packing.rows}, {packing.pitch}){where}"
    return [
        f"        # Images [N, {height}, {width} * {channels}] go to {place}; all else stays 0.",
        *entry(8, repr(name), f"torch.zeros{made}"),
    ]
