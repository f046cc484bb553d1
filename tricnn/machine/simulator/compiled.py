"""The simulator's loops as machine code: numba compiles them at the first call, and what it made is kept on disk.

numba takes kept code for that of a function while the one file is the same that the function stands in. The code holds
what the function calls, and constants, from other files, too; so here code is kept under a name that has a digest of
all files of this folder in it, and what is kept under other digests is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit

#: for functions that only compiled ones call: no way in from Python is made for them, which numba's types do not know
_INNER: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inner = njit(**_INNER)


def sources(*further: Path) -> str:
    """SHA-256 (its first 16 digits) of all files of the simulator, and of further ones."""
    digest = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *further):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def kept(function: Callable[..., Any]) -> Any:
    """A function that Python calls, compiled, whose machine code is kept for as long as :func:`sources` are the same.
    It is kept where numba keeps code: in ``$NUMBA_CACHE_DIR``, beside the file, or in the user's cache; where none of
    these can be written, every process compiles it for itself."""
    now = sources()
    function.__qualname__ += f"_{now}"  # names the files
    how: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    try:
        compiled = njit(cache=True, **how)(function)
    except RuntimeError:  # there is no place
        return njit(**how)(function)
    with suppress(OSError):
        for path in Path(compiled.stats.cache_path).glob("*.nb[ci]"):
            if now not in path.name:
                path.unlink(missing_ok=True)
    return compiled
