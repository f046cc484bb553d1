"""Files: written whole or not at all, read up to a limit, a folder held against other writers."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import TricnnError

#: what a file system answers that cannot do what it is asked, rather than fails at it
_CANNOT = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES}
WAIT_SECONDS = 10.0


# --- writing --------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes, mode: int = 0o666, durable: bool = True) -> None:
    """Leave the whole of ``content`` under ``path``, or what was there before.

    It is written beside it, synced, renamed, and the folder synced so that the name lasts as well (``durable``: for
    what cannot be made again).

    ``mode`` are the file's permissions, less the umask's. Raises OSError; nothing is left beside the file then.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have a folder's names last. A file system that cannot is warned of: the file is whole all the same."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        _warn(f"{folder}: its file system does not sync folders ({error.strerror}): a power failure may lose the file")


# --- reading --------------------------------------------------------------------------------------------------------


def read_at_most(path: Path, limit: int) -> bytes:
    """The bytes of a file, at most ``limit + 1`` of them: more than ``limit`` is too many.
    A pipe nobody writes to for ten seconds is an OSError, as is whatever else cannot be read."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for its writer
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        parts, size, until = [], 0, time.monotonic() + WAIT_SECONDS
        while size <= limit:
            if not regular and not select.select([handle], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(errno.ETIMEDOUT, f"nothing was written to it in {WAIT_SECONDS:g} seconds", str(path))
            try:
                part = os.read(handle, min(1 << 20, limit + 1 - size))
            except BlockingIOError:
                continue
            if not part and not (stat.S_ISFIFO(os.fstat(handle).st_mode) and not size and time.monotonic() < until):
                break
            if not part:  # a pipe that nobody has opened yet
                time.sleep(0.02)
                continue
            parts.append(part)
            size, until = size + len(part), time.monotonic() + WAIT_SECONDS
        return b"".join(parts)
    finally:
        os.close(handle)


# --- holding --------------------------------------------------------------------------------------------------------


class Held(TricnnError):
    """Somebody else holds the folder."""


@contextlib.contextmanager
def held(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder against whoever else asks to. The lock goes with the process, however it ends.

    Raises Held if somebody else does, or, given ``waiting``, calls it and waits; OSError if there is no such folder.
    Where the file system, or the operating system, has no such locks, a warning says so and nothing is held.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise Held(f"{folder}: somebody else is writing there") from None
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT:
                raise
            reason = getattr(error, "strerror", None) or error
            _warn(f"{folder}: cannot be locked ({reason}): see to it that no other run writes there")
        yield
    finally:
        os.close(handle)


_warned: set[str] = set()


def _warn(text: str) -> None:
    """Warn of it, once."""
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=4)
