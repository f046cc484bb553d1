"""Compiled kernels on disk: one file for each, named by the hash of everything that went into it.

A file is

    magic (one line) | sha256 of the rest | length of the header | header (JSON) | zlib of all blobs

and the header repeats the key, so a file that is truncated, damaged, or another key's under this one's name is seen,
and counts as absent. Files appear whole (written beside their place, then renamed), so any number of processes may
share a directory. The checksum guards against accidents; whoever can write the directory can forge an entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAGIC = b"tricnn kernel 1\n"
_CHECKSUM = 32
_LENGTH = 4


@dataclass(frozen=True)
class Entry:
    facts: Mapping[str, Any]  # JSON values
    blobs: Mapping[str, bytes]


def default_directory() -> Path | None:
    """$TRICNN_CACHE, else $XDG_CACHE_HOME/tricnn, else ~/.cache/tricnn; None where there is no home either."""
    if chosen := os.environ.get("TRICNN_CACHE"):
        return Path(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification says to ignore a relative one
        return Path(xdg) / "tricnn"
    try:
        return Path.home() / ".cache" / "tricnn"
    except RuntimeError:
        return None


#: directories that could not be written
_refused: set[Path] = set()


class KernelCache:
    """A directory of entries. Reading never raises; the first write that fails warns, and ends writing there."""

    def __init__(self, directory: Path | None):
        self._directory = None if directory is None else Path(directory) / "kernels"

    def path(self, key: str) -> Path | None:
        """Where the entry of `key` (a hexadecimal hash) lies."""
        return None if self._directory is None else self._directory / key[:2] / f"{key}.kernel"

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None if there is none that is whole."""
        path = self.path(key)
        if path is None:
            return None
        try:
            return _decode(key, path.read_bytes())
        except (OSError, ValueError, TypeError, KeyError, zlib.error):
            return None

    def put(self, key: str, entry: Entry) -> None:
        path = self.path(key)
        if path is None or self._directory is None or self._directory in _refused:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_encode(key, entry))
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            _refused.add(self._directory)
            warnings.warn(
                f"kernels are not cached: cannot write {self._directory} ({error.strerror or error}); "
                "set TRICNN_CACHE to a directory that can be written",
                RuntimeWarning,
                stacklevel=3,
            )


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
    joined = zlib.decompress(body[end:])
    blobs, start = {}, 0
    for name, size in header["blobs"]:
        blobs[name] = joined[start : start + size]
        start += size
    if start != len(joined):
        raise ValueError("damaged")
    return Entry(header["facts"], blobs)
