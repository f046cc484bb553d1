"""Tiles that were measured, or simulated, to be the fastest, in files that a person can read, review and compare.

    [sm_90.conv2d.bf16]
    "N256 C64 H56 W56 K64 R3 S3 P56 Q56 PT1 PL1" = { m = 128, n = 64, k = 64, warps = 4, stages = 3, us = 41.2, ... }

One line is one problem: its tile, the microseconds measured for it and for the tile that the static rule gives, on
which device and when, and ``functions``, digests of the functions that were timed (lower/function_digest.py). A device
that begins with "simulated" is a model of one, and what was measured comes before what was simulated, in whichever file
it stands. A function that is none of those that were timed, for the templates have changed since, or another layer is
fused with it, passes the line over and gets the next one's tile, or its rule's; a line without digests is for every
function. ``tricnn tune`` writes such lines; ``tuned/`` beside this file holds those that everybody gets, one file an
architecture. ``--tuned FILE``, or TRICNN_TUNED, adds a user's own, which come first. Nothing is ever timed while a
network is compiled: a problem that no file has gets the tile of its rule. Same files, same kernels.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..machine.dtypes import DTYPES
from ..system.errors import TricnnError, shown
from ..system.files import read_at_most, write_atomically
from ..system.limits import LARGEST_TUNED_FILE
from ..system.paths import user_path
from .candidates import KINDS, STAGES, WARPS, blocks, verified
from .targets import TARGETS, parse_target
from .tiles import NUMBERS, Problem, Tile, for_a_gpu

VARIABLE = "TRICNN_TUNED"
FOLDER = Path(__file__).with_name("tuned")
#: how the device of an entry begins that was not measured
SIMULATED = "simulated"
HEAD = """\
# Tiles that were the fastest: `tricnn tune` writes this file, machine/tuned_files.py reads it.
# functions: digests of the kernels that have the tile, and no other of its problem has. us: microseconds of all kernels
# that were tuned together, these with the tile, others with the rule's; rule_us: of the same, all with the rule's;
# measured on the device, or, where it is called simulated, by the model of one.
"""
#: what a digest of a function looks like
DIGEST = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Entry:
    """A tile, and how it was found: microseconds with it and with the rule's tile, the device, the date.
    ``functions``: digests of those that it was found for; it is for every function of its problem if there are none."""

    tile: Tile
    us: float = 0.0
    rule_us: float = 0.0
    device: str = ""
    date: str = ""
    functions: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """Was a tile found without a GPU, by simulation?"""
        return self.device.startswith(SIMULATED)


Table = Mapping[Problem, Entry]
_only: ContextVar[Mapping[Problem, Tile] | None] = ContextVar("only", default=None)
_file: ContextVar[Path | None] = ContextVar("file", default=None)


# --- looking up -----------------------------------------------------------------------------------------------------


def lookup(problem: Problem) -> tuple[Entry, ...]:
    """What was found of a problem, the best first.
    What was measured comes before what was simulated, and of equals what the first file has."""
    if not for_a_gpu():
        return ()
    only = _only.get()
    if only is not None:
        return (Entry(only[problem]),) if problem in only else ()
    entries = (table[problem] for table in tables(problem.target) if problem in table)
    return tuple(sorted(entries, key=lambda entry: entry.simulated))


@contextmanager
def only(tiles: Mapping[Problem, Tile]) -> Iterator[None]:
    """Kernels lowered inside have these tiles, and no file is looked at."""
    token = _only.set(tiles)
    try:
        yield
    finally:
        _only.reset(token)


@contextmanager
def using(path: str | None) -> Iterator[None]:
    """Kernels lowered inside have the tiles of this file, where it has any. Raises TricnnError if it is not one."""
    own = None if path is None else user_path(path)
    if own is not None:
        read(own)
    token = _file.set(own)
    try:
        yield
    finally:
        _file.reset(token)


def tables(target: str) -> list[Table]:
    """What is looked at, in order: the user's file, then the one that comes with tricnn."""
    own = _file.get() or (user_path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    return [*([] if own is None else [_entries(own)]), *shipped(target)]


@cache
def shipped(target: str) -> tuple[Table, ...]:
    """The table that comes with tricnn for a target, if there is one.
    It is looked up for every kernel, so it is read once: no file of an installation changes while it is used."""
    path = FOLDER / f"{target}.toml"
    return (_entries(path),) if path.exists() else ()


def digest(target: str) -> str:
    """A digest of all that :func:`lookup` may answer for a target."""
    chosen = _only.get()
    known: list[Any] = (
        [(str(p), asdict(t)) for p, t in chosen.items()]
        if chosen is not None
        else [
            (str(p), asdict(e.tile), e.simulated, e.functions)
            for table in tables(target)
            for p, e in table.items()
            if p.target == target
        ]
    )
    return hashlib.sha256(repr(known).encode()).hexdigest() if known else ""


# --- files ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[Problem, Entry]:
    """The entries of a file. Raises TricnnError with the file, the line and what would be accepted."""
    return dict(_entries(path))


def _entries(path: Path) -> Table:
    """The entries of a file in the state that it has now, which is parsed only once: `read` copies them."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TricnnError(f"{path}: not a regular file, as one of tuned tiles must be: it is read more than once")
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise TricnnError(f"{path}: cannot be read ({error.strerror or error})") from None


@cache
def _parsed(path: Path, changed: int, size: int) -> dict[Problem, Entry]:
    try:
        raw = read_at_most(path, LARGEST_TUNED_FILE)
        if len(raw) > LARGEST_TUNED_FILE:
            raise TricnnError(f"{path}: more than {LARGEST_TUNED_FILE >> 20} MB; a file of tuned tiles is smaller")
        text = raw.decode()
        found = tomllib.loads(text)
    except UnicodeDecodeError:
        raise TricnnError(f"{path}: not text in UTF-8; a file of tuned tiles was expected") from None
    except tomllib.TOMLDecodeError as error:
        end = f"at line {len(text.splitlines())}, the last one"
        raise TricnnError(f"{path}: {str(error).replace('at end of document', end)}; {ACCEPTED}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists within lists
        if isinstance(error, TricnnError):
            raise
        reason = "lists go too deep" if isinstance(error, RecursionError) else "a number has too many digits"
        raise TricnnError(f"{path}: {reason}; {ACCEPTED}") from None
    entries = {}
    for target, kinds in found.items():
        for kind, dtypes in _table(path, text, target, kinds).items():
            for dtype, shapes in _table(path, text, kind, dtypes).items():
                for shape, values in _table(path, text, dtype, shapes).items():
                    try:
                        problem = _problem(target, kind, dtype, shape)
                        entries[problem] = _entry(kind, values)
                    except ValueError as error:
                        line = _line(text, shape, f"[{target}.{kind}.{dtype}]")
                        raise TricnnError(f"{path}: line {line}: {error}") from None
    return entries


ACCEPTED = 'a line is "N256 C64 ..." = { m = 128, n = 64, k = 64, warps = 4, stages = 3 } under [target.kind.dtype]'


def _table(path: Path, text: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TricnnError(f"{path}: line {_line(text, name)}: {name!r} is out of place; {ACCEPTED}")
    return value


def _line(text: str, key: str, section: str = "") -> int:
    """The line where a key stands, the first one of a section if one is given."""
    lines, start = text.splitlines(), 0
    for number, line in enumerate(lines):
        if section and re.sub(r"[\s\"']", "", line) == section:
            start = number
    return next((number + 1 for number, line in enumerate(lines) if number >= start and key in line), start + 1)


def _problem(target: str, kind: str, dtype: str, shape: str) -> Problem:
    for what, value, known in (("target", target, TARGETS), ("kind", kind, KINDS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise ValueError(f"{what} {value!r} is unknown; accepted: {', '.join(known)}")
    sizes: dict[str, int] = {}
    for word in shape.split():
        match = re.fullmatch(r"([A-Z_]+)([1-9][0-9]{0,9})", word)
        if match is None or match[1] not in NUMBERS or match[1] in sizes:
            raise ValueError(
                f"{word!r} in {shape!r} is not a number of a shape; accepted, each once and followed by its value: "
                f"{' '.join(NUMBERS)}"
            )
        sizes[match[1]] = int(match[2])
    return Problem.of(parse_target(target).name, kind, dtype, sizes)


def _entry(kind: str, values: Any) -> Entry:
    sizes = {f.name: f for f in fields(Tile)}
    notes = {"us": float, "rule_us": float, "device": str, "date": str}
    if not isinstance(values, dict) or (unknown := [k for k in values if k not in (*sizes, *notes, "functions")]):
        what = f"{unknown[0]!r} is unknown" if isinstance(values, dict) else f"{values!r} is no tile"
        raise ValueError(f"{what}; accepted: {', '.join([*sizes, *notes, 'functions'])}")
    for name in ("m", "n", "k", "warps", "stages"):
        if type(values.get(name)) is not int:
            raise ValueError(f"{name} must be a whole number; a tile is {{ m, n, k, warps, stages }}")
    tile = Tile(**{name: values[name] for name in sizes if name in values})
    if not verified(kind, tile):
        m, n, k = (" ".join(map(str, sorted(set(sizes)))) for sizes in zip(*blocks(kind)))
        raise ValueError(
            f"{tile} is not among the tiles that are verified; accepted for {kind}: m of {m}; n of {n}; k of {k}, not "
            f"all of them together; warps of {' '.join(map(str, WARPS))}; stages of {' '.join(map(str, STAGES))}"
        )
    for name, kinds in notes.items():
        value = values.get(name, kinds())
        if kinds is str and not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {shown(value)}")
        if kinds is float and (type(value) not in (int, float) or (type(value) is int and abs(value) >= 1 << 1000)):
            raise ValueError(f"{name} must be a number that a float can hold, not {shown(value)}")
    digests = values.get("functions", [])
    if not isinstance(digests, list) or not all(isinstance(d, str) and DIGEST.fullmatch(d) for d in digests):
        raise ValueError("functions must be a list of digests of 12 hexadecimal digits, as `tricnn tune` writes them")
    return Entry(tile, float(values.get("us", 0)), float(values.get("rule_us", 0)), values.get("device", ""),
                 values.get("date", ""), tuple(digests))  # fmt: skip


def text(entries: Table) -> str:
    """The file: sections and lines in a fixed order, so that what changes between two of them is what was measured."""
    parts, last = [HEAD], ""
    for problem in sorted(
        entries, key=lambda p: (p.target, p.kind, p.dtype, [(NUMBERS.index(n), x) for n, x in p.shape])
    ):
        entry = entries[problem]
        section = f"[{problem.target}.{problem.kind}.{problem.dtype}]"
        if section != last:
            parts.append(f"\n{section}\n")
            last = section
        values = {**asdict(entry.tile), "us": round(entry.us, 2), "rule_us": round(entry.rule_us, 2)}
        shown = [f"{name} = {str(value).lower()}" for name, value in values.items()]
        shown += [f'{name} = "{_plain(value)}"' for name, value in (("device", entry.device), ("date", entry.date))]
        if entry.functions:
            shown.append("functions = [" + ", ".join(f'"{_plain(digest)}"' for digest in entry.functions) + "]")
        parts.append(f'"{problem.text}" = {{ {", ".join(shown)} }}\n')
    return "".join(parts)


def _plain(words: str) -> str:
    return re.sub(r"[^\w .,:()/+-]", "", words)


def write(path: Path, entries: Table) -> None:
    """Write a file whole: whoever reads it finds the old one or the new one. Raises TricnnError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text(entries).encode())
    except OSError as error:
        raise TricnnError(f"{path}: cannot be written ({error.strerror or error})") from None
