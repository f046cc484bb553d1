"""``TRICNN_DUMP=folder``: every pass's result as a numbered text file."""

from __future__ import annotations

from ..ir.errors import TricnnError
from ..system.paths import user_path


class Dump:
    """Called with each value a compilation makes; writes ``00-declared.txt``, ``01-for-training.txt``, ..., unless its
    folder is None. Raises TricnnError if the folder cannot be written."""

    def __init__(self, folder: str | None):
        self.folder = user_path(folder) if folder else None
        self.count = 0

    def __call__(self, stage: str, value: object, suffix: str = "txt") -> None:
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{self.count:02d}-{stage}.{suffix}").write_text(str(value), encoding="utf-8")
        except OSError as error:
            raise TricnnError(f"TRICNN_DUMP={self.folder}: cannot write there: {error.strerror or error}") from None
        self.count += 1
