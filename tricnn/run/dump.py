"""``TRICNN_DUMP=folder``: every pass's result as a numbered text file, in a numbered folder for each compilation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..emit.emit import emit
from ..ir.graph import Graph
from ..lower.program import Program
from ..system.errors import TricnnError
from ..system.paths import user_path


class Dump:
    """A folder of numbered text files, one for each value that a compilation makes and calls this with.
    They are ``00-declared.txt``, ``01-for-training.txt``, ..., in a folder of their own in ``folder``:
    ``00-lenet-train`` if it is the first compilation. Nothing is written if ``folder`` is None. Raises TricnnError if
    nothing can be written there."""

    def __init__(self, folder: str | None, of: str = "graph"):
        self.folder = user_path(folder) if folder else None
        self.of, self.count = re.sub(r"[^\w.-]", "_", of), 0

    @classmethod
    def asked_for(cls, graph: Graph, mode: str) -> Dump:
        """The dump of one compilation, where TRICNN_DUMP says (nowhere, if it is not set)."""
        return cls(os.environ.get("TRICNN_DUMP"), f"{graph.name}-{mode}")

    def kernels(self, program: Callable[[], Program]) -> None:
        """Write the emitted file of a program, which is made only if it is wanted."""
        if self.folder is not None:
            self("kernels", emit(program()), "py")

    def __call__(self, stage: str, value: object, suffix: str = "txt") -> None:
        if self.folder is None:
            return
        try:
            if not self.count:
                self.folder = self._own(self.folder)
            (self.folder / f"{self.count:02d}-{stage}.{suffix}").write_text(str(value), encoding="utf-8")
        except OSError as error:
            raise TricnnError(f"TRICNN_DUMP={self.folder}: cannot write there: {error.strerror or error}") from None
        self.count += 1

    def _own(self, folder: Path) -> Path:
        """A folder that no other compilation has, of this process or another one."""
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name.partition("-")[0]) for p in folder.glob("[0-9]*-*") if p.is_dir()), default=-1)
        while True:
            try:
                own = folder / f"{number:02d}-{self.of}"
                own.mkdir()
            except FileExistsError:
                number += 1
            else:
                return own
