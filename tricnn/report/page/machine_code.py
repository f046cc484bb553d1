"""Machine code of some functions, as the page shows it beside their source."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ...build.compile import CompiledKernel
from ...build.listing import Listing, listings
from ...emit.emit import kernel_lines
from ...lower.program import Program
from ...lower.templates import library


def machine_code(program: Program, names: Sequence[str], compiled: Mapping[str, CompiledKernel]) -> dict[str, Any]:
    """The machine code of some functions, as the page shows it beside their source, for JSON.
    By function: its instructions as ``rows`` of (number of a chain, text), the ``chains`` of places [template or
    function, line] that they came from, innermost first, and how many each line became (``counts``, of the innermost
    lines); ``templates``: the text of those that they name."""
    functions = [function for function in program.functions if function.name in names]
    found, used = {}, set()
    for function in functions:
        (listing,) = listings(program, [function], dict(compiled)).values()
        lines = {function.name: [*map(str, kernel_lines(program, function))]}
        found[function.name] = _shown(listing, lines)
        used |= {place[0] for chain in found[function.name]["chains"] for place in chain} - {function.name}
    return {"functions": found, "templates": {name: library()[name].text for name in sorted(used)}}


def _shown(listing: Listing, own: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What :func:`machine_code` has of one function.
    ``own``: its lines, by its name."""
    chains = {places: number for number, places in enumerate(dict.fromkeys(places for _, places in listing.rows))}
    counts: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for text, places in listing.rows:
        if not text.endswith(":"):
            counts[places[0] if places else ("no line", -1)][_operation(text)] += 1
    return {
        "same": listing.same,
        "instructions": sum(sum(operations.values()) for operations in counts.values()),
        "chains": [[list(place) for place in places] for places in chains],
        "rows": [[chains[places], text] for text, places in listing.rows],
        "counts": [
            {"where": name, "line": line if line >= 0 else None, "text": _line(name, line, own),
             "count": sum(operations.values()),
             "most": ", ".join(f"{count} {operation}" for operation, count in operations.most_common(4))}
            for (name, line), operations in sorted(counts.items(), key=lambda row: -sum(row[1].values()))
        ],
    }  # fmt: skip


def _operation(text: str) -> str:
    """What an instruction does, without its guard and what is behind the first point: ``FADD``."""
    words = text.split()
    return (words[1] if words[0].startswith("@") else words[0]).partition(".")[0]


def _line(name: str, line: int, own: Mapping[str, Sequence[str]]) -> str:
    """The text of a line of a template or function."""
    if line < 0:
        return ""
    return (own[name] if name in own else library()[name].text.splitlines())[line].strip()
