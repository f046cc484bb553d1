"""Paths as people write them, and the folder that is a user's own."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import TricnnError, shown

CACHE = "TRICNN_CACHE"


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a person or a setting names: ``~`` at its head is their home, ``~name`` that of another user.

    Raises TricnnError for a home that nobody has, and for a NUL character, which no path can hold.
    """
    text = os.fspath(text)
    if "\0" in text:
        raise TricnnError(f"{shown(text)} is no path: it holds a NUL character")
    head, _, rest = text.partition("/")
    if not head.startswith("~"):
        return Path(text)
    if head == "~":
        folder = home()
        if folder is None:
            raise TricnnError(f"{shown(text)}: there is no home folder (HOME is not set, and this user has no account)")
        return folder / rest
    expanded = os.path.expanduser(head)
    if expanded != head:
        return Path(expanded) / rest
    if os.path.lexists(text):  # a file's own name
        return Path(text)
    raise TricnnError(f"{shown(text)}: there is no user {shown(head[1:])}; ./{head[:40]} is a name that begins with ~")


def home() -> Path | None:
    """The user's folder: ``$HOME``, else what the account says; None where there is neither."""
    if os.path.isabs(chosen := os.environ.get("HOME", "")):
        return Path(chosen)
    try:
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):
        return None


def cache_folder() -> Path | None:
    """Where tricnn keeps what it can make or fetch again; None where there is no home either.
    It is ``$TRICNN_CACHE``, else ``$XDG_CACHE_HOME/tricnn``, else ``~/.cache/tricnn``."""
    if chosen := os.environ.get(CACHE):
        return user_path(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification says to ignore a relative one
        return Path(xdg) / "tricnn"
    folder = home()
    return None if folder is None else folder / ".cache" / "tricnn"
