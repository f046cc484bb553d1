"""Where in the user's code something was called: the line that an error names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Module = torch.nn.Module


def library_file(path: str) -> bool:
    """Is it a file of PyTorch itself?"""
    import torch

    return path.startswith((str(Path(torch.__file__).parent), "<", "torch/"))


def code_of_traceback(trace: Any) -> str:
    """The last line of the user's own code in a traceback."""
    import linecache

    found = ""
    here = str(Path(__file__).parent)
    while trace is not None:
        path, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if not library_file(path) and not path.startswith(here):
            found = f"{Path(path).name}:{line} `{linecache.getline(path, line).strip()[:80]}`"
        trace = trace.tb_next
    return found


def code_of(node: Any) -> str:
    """The line of the user's code that an exported node comes from."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not library_file(frame[0])]
    if not own:
        return ""
    path, line, text = own[-1]
    return f"{Path(path).name}:{line} `{text.strip()[:80]}`"
