"""Is it the kernel, or the place it is compiled in? A full disk or a folder that is gone is no fault of a kernel's.

Imports the standard library only, and nothing of tricnn: the compile workers load this file by its path.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from pathlib import Path

ROOM = 1 << 16  # bytes; less than a compilation writes
_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_WORDS = re.compile("|".join(re.escape(os.strerror(number)) for number in _PLACE))


def place_at_fault(error: BaseException, folder: Path) -> str | None:
    """What is wrong with ``folder``, or the machine, if that is why a compilation in it failed with ``error``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _PLACE:
            return f"{folder}: {cause.strerror}"
        if isinstance(cause, MemoryError):
            return os.strerror(errno.ENOMEM)
        if said := _WORDS.search(str(cause)):  # a tool's words
            return f"{folder}: {said[0]}"
        cause = cause.__cause__ or cause.__context__
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".room-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(bytes(ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as problem:
        return f"{folder}: {problem.strerror}"
    return None
