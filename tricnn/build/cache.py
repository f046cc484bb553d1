"""Compiled kernels on disk: one file for each, named by the hash of everything that went into it.

A file is

    magic (one line) | sha256 of the rest | length of the header | header (JSON) | zlib of all blobs

and the header repeats the key, so a file that is truncated, damaged, or another key's under this one's name is seen,
and counts as absent. Files appear whole (written beside their place, then renamed), so any number of processes may
share a directory.

Whoever can write an entry could put any machine code into it, so *whose* it is decides whether it is read: a user reads
entries of their own, of root, and of the users whom TRICNN_CACHE_TRUST names, and of those only files that nobody else
can write. Each user's entries lie in a folder of their own, ``kernels-<user id>``: a shared directory serves many, and
nobody replaces what another one wrote. Entries are readable by whomever the umask lets read them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.errors import TricnnError, shown
from ..system.files import write_atomically
from ..system.limits import LARGEST_ENTRY
from ..system.paths import CACHE

TRUST = "TRICNN_CACHE_TRUST"
_MAGIC = b"tricnn kernel 1\n"
_CHECKSUM = 32
_LENGTH = 4


@dataclass(frozen=True)
class Entry:
    facts: Mapping[str, Any]  # JSON values
    blobs: Mapping[str, bytes]


#: directories that could not be written
_refused: set[Path] = set()


class KernelCache:
    """A directory of entries. Reading never raises; the first write that fails warns, and ends writing there."""

    def __init__(self, directory: Path | None):
        self._directory = None if directory is None else Path(directory)

    def path(self, key: str, user: int | None = None) -> Path | None:
        """Where the entry of `key` (a hexadecimal hash) lies, if this user, or another one, wrote it."""
        if self._directory is None:
            return None
        return self._directory / f"kernels-{_me() if user is None else user}" / key[:2] / f"{key}.kernel"

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None if there is none that is whole and can be trusted."""
        for user in trusted():
            path = self.path(key, user)
            if path is None:
                break
            try:
                return _decode(key, _read_own(path, user))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error):
                continue
        return None

    def put(self, key: str, entry: Entry) -> None:
        path = self.path(key)
        if path is None or self._directory is None or self._directory in _refused:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _encode(key, entry), mode=0o644, durable=False)
            _read_own(path, _me(), 0)
        except OSError as error:
            _refused.add(self._directory)
            warnings.warn(
                f"kernels are not cached: cannot write {self._directory} ({error.strerror or error}); "
                f"set {CACHE} to a directory that can be written",
                RuntimeWarning,
                stacklevel=3,
            )


def trusted() -> tuple[int, ...]:
    """The users whose entries are read, oneself first. Raises TricnnError for a name that no user has."""
    found = [_me(), 0]
    for word in filter(None, re.split(r"[,\s]+", os.environ.get(TRUST, ""))):
        try:
            found.append(int(word) if word.isdigit() else _user_id(word))
        except (KeyError, ImportError, ValueError):
            raise TricnnError(f"{TRUST}: there is no user {shown(word)}; accepted: names or ids, with commas") from None
    return tuple(dict.fromkeys(found))


def _me() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _user_id(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid


def _read_own(path: Path, user: int, most: int = LARGEST_ENTRY) -> bytes:
    """The first ``most`` bytes of a file that is the user's, and that nobody else can write; OSError if it is not."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)  # Windows has neither
    handle = os.open(path, flags)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_ENTRY:
            raise OSError(errno.EINVAL, "not an entry")
        if hasattr(os, "getuid") and (status.st_uid != user or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise PermissionError(errno.EPERM, "its files are somebody else's, or others can write them")
        return file.read(min(most, status.st_size))


def _encode(key: str, entry: Entry) -> bytes:
    sizes = [[name, len(blob)] for name, blob in entry.blobs.items()]
    header = json.dumps({"key": key, "facts": dict(entry.facts), "blobs": sizes}).encode()
    body = len(header).to_bytes(_LENGTH, "little") + header + zlib.compress(b"".join(entry.blobs.values()), 1)
    return _MAGIC + hashlib.sha256(body).digest() + body


def _decode(key: str, data: bytes) -> Entry:
    checksum, body = data[len(_MAGIC) : len(_MAGIC) + _CHECKSUM], data[len(_MAGIC) + _CHECKSUM :]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        raise ValueError("damaged")
    end = _LENGTH + int.from_bytes(body[:_LENGTH], "little")
    header = json.loads(body[_LENGTH:end])
    if header["key"] != key:
        raise ValueError("the entry of another kernel")
    whole = sum(size for _, size in header["blobs"])
    unpacker = zlib.decompressobj()
    joined = unpacker.decompress(body[end:], min(whole, LARGEST_ENTRY) + 1)  # no more than it says it holds
    blobs, start = {}, 0
    for name, size in header["blobs"]:
        blobs[name] = joined[start : start + size]
        start += size
    if start != len(joined) or not unpacker.eof:
        raise ValueError("damaged")
    return Entry(header["facts"], blobs)
