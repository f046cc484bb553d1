"""Every notebook, run and built: ``make notebooks``.

    python notebooks/build.py                 # all of them
    python notebooks/build.py 03 07           # those whose names begin so

A notebook is kept as a script, ``NN-name.py``, in cells that ``# %%`` begins. Here each is run in a fresh kernel and
becomes a page, ``out/notebooks/NN-name.html``; where its cells are no longer those of the ``NN-name.ipynb`` beside it,
that is written anew, with what the cells printed and drew. A line for each says how long it took, by the clock and in
processor time, which other work of the machine does not lengthen. Exit status 1 if a cell fails.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

FOLDER = Path(__file__).parent
PAGES = FOLDER.parent / "out" / "notebooks"
SECONDS = 600  # that one cell may take
QUIET = ["--log-level=ERROR"]  # a kernel warns that it is spoken to over TCP, which is this machine's own


def scripts(begin: tuple[str, ...] = ()) -> list[Path]:
    """The notebooks' scripts in the lecture's order; with ``begin``, those whose names begin with one of them."""
    return [path for path in sorted(FOLDER.glob("[0-9][0-9]-*.py")) if path.name.startswith(begin or "")]


def read(script: Path) -> nbformat.NotebookNode:
    """A script as a notebook that has not run. Cells are numbered, so that the same script gives the same file."""
    notebook = jupytext.read(script, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", {}
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a notebook says and does: the kind and the text of its cells."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def in_step(script: Path) -> bool:
    """Has the built notebook beside a script the script's cells?"""
    built = script.with_suffix(".ipynb")
    return built.exists() and cells(nbformat.read(built, as_version=4)) == cells(read(script))


def processor_seconds() -> float:
    """What the processes that this one has started, and that have ended, took of the processors: kernels, and what they
    started themselves."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Runs the notebooks and builds a page of each.")
    parser.add_argument("begin", nargs="*", help="how the names of those that are wanted begin (all)")
    begin = tuple(parser.parse_args(arguments).begin)
    PAGES.mkdir(parents=True, exist_ok=True)
    failed = 0
    for script in scripts(begin):
        started, used, notebook = time.monotonic(), processor_seconds(), read(script)
        try:
            NotebookClient(
                notebook, timeout=SECONDS, kernel_name="python3", record_timing=False,
                extra_arguments=QUIET, resources={"metadata": {"path": str(FOLDER)}},
            ).execute()  # fmt: skip
        except CellExecutionError as error:
            failed += 1
            print(f"{script.stem}: {error}", file=sys.stderr)
            continue
        page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook, {"metadata": {"name": script.stem}})
        (PAGES / f"{script.stem}.html").write_text(page)
        if not in_step(script):
            nbformat.write(notebook, script.with_suffix(".ipynb"))
        took = f"{time.monotonic() - started:.0f} s, {processor_seconds() - used:.0f} s of processor time"
        print(f"{script.stem}: {took}, {PAGES / script.stem}.html", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
