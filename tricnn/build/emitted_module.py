"""Emitted source as a Python module: the file that Triton reads kernels' text from, and the keys it files them under.

Imports the standard library only, and nothing of tricnn: the compile workers load this file by its path.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def emitted_folder(process: int) -> Path:
    """Where a process keeps emitted files until it ends; nobody else can write there."""
    folder = Path(tempfile.mkdtemp(prefix="tricnn-"))

    def remove() -> None:
        if os.getpid() == process:  # not in a copy of the process
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def emitted_file(source: str) -> Path:
    """The file of emitted source, written anew."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    path = emitted_folder(os.getpid()) / f"emitted_{digest}_{os.getpid()}.py"
    path.write_text(source, encoding="utf-8")
    return path


def load_file(path: Path, name: str) -> ModuleType:
    """The module that a file holds, imported under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_module(source: str) -> ModuleType:
    """The module that emitted source is."""
    path = emitted_file(source)
    return load_file(path, path.stem)


def make_keys(module: ModuleType) -> None:
    """Have Triton form the keys of a module's functions, in their order.
    It forms each when it is first asked, from the constants that are known to have been used until then, so that
    another order gives other keys."""
    from triton.runtime import JITFunction

    for function in vars(module).values():
        if isinstance(function, JITFunction):
            _ = function.cache_key
