"""The table of the networks: their sizes beside the published ones, and what fusion makes of them.

    python docs/zoo.py            writes docs/zoo.md (half a minute)
    python docs/zoo.py --check    exit status 1 if it is stale

Exact figures of the graphs and of the compiled plans, not measurements.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from math import floor, log10
from pathlib import Path

from tricnn.compiler.specialise import for_inference
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered

FOLDER = Path(__file__).parent
TARGET, DTYPE, BATCH = "sm_90", "bf16", 256

HEAD = """\
# The networks

Made by `python docs/zoo.py`; `python docs/zoo.py --check` says whether it is stale.

## Sizes

Trainable parameters (auxiliary heads included), and 10^9 multiply-adds of convolutions and dense layers for one image
at inference. The published figures are those of `docs/published.toml`, with their sources; the tests hold ours to them.

"""

PLANS = f"""
## Launches and memory

The programs for {TARGET}, {DTYPE}, a batch of {BATCH}: launches of kernels, and megabytes through memory for one image
(each operand read once, each result written once; weights are shared by the batch). *Unfused* is one kernel for each
layer; fused are the plans of fewest bytes (`--fuse all`), where the default stores a few more values to save time.

"""


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    return row(header) + row(["---"] + ["---:"] * (len(header) - 1)) + "".join(map(row, rows))


def like(published: str, value: float) -> str:
    """``value`` to as many digits as were published; three that count where nothing was."""
    digits = len(published.partition(".")[2]) if published else max(0, 2 - floor(log10(value)))
    return f"{value:,.{digits}f}"


def sizes() -> str:
    """Ours beside the published."""
    published = tomllib.loads((FOLDER / "published.toml").read_text())
    rows = []
    for name, declare in ARCHITECTURES.items():
        graph, figures = declare(), published.get(name, {})
        parameters, source = figures.get("parameters", ("", ""))
        gmacs, counter = figures.get("gmacs", ("", ""))
        if "gmacs_with_batch_norm" in figures:
            gmacs, counter = figures["gmacs_with_batch_norm"]
            counter += " (batch norm counted too)"
        rows.append([
            f"`{name}`", f"{graph.num_parameters:,}", f"{parameters:,}" if parameters else "", source,
            like(gmacs, for_inference(graph).macs / 1e9), gmacs, counter,
        ])  # fmt: skip
    header = ["network", "parameters", "published", "by", "10^9 multiply-adds", "published", "by"]
    return table(header, rows)


def plans(names: Sequence[str]) -> str:
    """Launches and megabytes an image, fused and unfused, of inference and training."""
    rows = []
    for name in names:
        cells = [f"`{name}`"]
        for mode in ("infer", "train"):
            both = [lowered(ARCHITECTURES[name](), mode, BATCH, DTYPE, TARGET, fuse=fuse) for fuse in ("all", "none")]
            cells += [str(len(p.launches)) for p in both]
            cells += [like("", p.dram_bytes(BATCH) / BATCH / 1e6) for p in both]
        rows.append(cells)
    header = ["network"]
    for mode in ("inference", "training"):
        header += [f"{mode}: launches", "unfused", "MB an image", "unfused"]
    return table(header, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/zoo.md, the table of the networks.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file is stale")
    check = parser.parse_args().check
    path, text = FOLDER / "zoo.md", HEAD + sizes() + PLANS + plans(list(ARCHITECTURES))
    if not check:
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        print("docs/zoo.md is stale; python docs/zoo.py makes it anew", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
