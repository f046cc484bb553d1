"""The command line: ``tricnn list | show | compile | explain | verify | train | tune | bench | report``."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the shell's exit status: 0 done, 1 what was asked is not so, 2 bad input."""
    from .command_line import run

    return run(argv)
