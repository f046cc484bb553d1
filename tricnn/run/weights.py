"""Weights files: ``.safetensors``, and PyTorch's ``.pth`` and ``.pt``.
No code in PyTorch's runs: other objects beside the tensors come as stand-ins (inert_pickles.py). What torchvision and
timm publish is read as it is; names come to fit a network in weight_names.py.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..system.errors import CheckpointError, shown
from ..system.files import write_atomically
from ..system.paths import user_path
from . import inert_pickles
from .weight_names import unwrapped

PYTORCH = (".pth", ".pt", ".bin", ".tar")
ACCEPTED = "a .safetensors file, or a .pth or .pt file of torch.save(model.state_dict(), file)"
MOMENTUM = "momentum/"  # the optimiser's part of tricnn's own checkpoints
#: auxiliary heads in torchvision's files, which a network may be declared without
AUXILIARY = ("aux1", "aux2", "AuxLogits")


def load_weights(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """The tensors of a file by name, as torch tensors on the CPU in the types they are stored in.

    A state_dict inside a container (``{"state_dict": ...}``, ``{"model": ...}``) is found, and ``module.`` before every
    name is taken away; so is the optimiser's part of a checkpoint of ``tricnn train``. ``key`` chooses among several,
    as ``"model_ema"`` or ``"state_dict_ema"``.

    Raises CheckpointError, in one line, for a file that is absent, damaged, of another format, or holds no tensors or
    code that acts on a machine (which is not run), and for a ``key`` that it has not.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"weights of type {type(path).__name__}; accepted: tensors by name, {ACCEPTED}")
    path = user_path(path)
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise CheckpointError(f"{path}: {what}; accepted: {ACCEPTED}")
    if path.suffix == ".safetensors":
        stored = _read_safetensors(path)
    elif path.suffix in PYTORCH:
        stored = _read_pytorch(path)
    else:
        raise CheckpointError(f"{path}: not a name of a weights file; accepted: {ACCEPTED}")
    state = unwrapped(stored, key, f"{path}: ")
    for name, x in state.items():
        if not _is_dense(x):
            raise CheckpointError(f"{path}: {shown(name)} is {_kind(x)}, not a dense tensor; accepted: {ACCEPTED}")
    return {name: x for name, x in state.items() if not name.startswith(MOMENTUM)}


def save_weights(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as ``.safetensors`` or (``.pth``, ``.pt``) as ``torch.save`` would.
    They are float32 and in PyTorch's layout. What is there afterwards is the whole file, or what was there before.
    Raises CheckpointError for another suffix, and a place that cannot be written."""
    path = user_path(path)
    arrays = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in state.items()}
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        content = save(arrays, {"format": "pt"})
    elif path.suffix in (".pth", ".pt"):
        import torch

        buffer = io.BytesIO()
        torch.save({name: torch.from_numpy(x) for name, x in arrays.items()}, buffer)
        content = buffer.getvalue()
    else:
        raise CheckpointError(f"{path}: weights are saved as .safetensors, .pth or .pt")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def without_absent_heads(state: Mapping[str, Any], declared: set[str]) -> dict[str, Any]:
    """``state`` less the auxiliary heads that a network with the tensors ``declared`` does not have."""
    absent = set(AUXILIARY) - {name.partition(".")[0] for name in declared}
    return {name: x for name, x in state.items() if name.partition(".")[0] not in absent}


def as_array(x: Any) -> np.ndarray:
    """A tensor or an array as NumPy; half precisions become float32, float64 stays."""
    if hasattr(x, "detach"):
        if x.is_meta:
            raise CheckpointError(f"a meta tensor of shape {tuple(x.shape)} has no values to take")
        x = x.detach().cpu()
        return (x if str(x.dtype) == "torch.float64" else x.float()).numpy()
    return np.asarray(x)


# --- reading --------------------------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type that PyTorch has not
        raise CheckpointError(f"{path}: a damaged safetensors file ({_reason(error)}); accepted: {ACCEPTED}") from None


def _read_pytorch(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's version: it is read, or refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle or archive leads to
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        try:
            if code and _has_tensors(stored := inert_pickles.load(path)):
                return stored
        except Exception as acting:
            code = re.search(r"GLOBAL ([\w.]+)", str(acting)) or code
        if code:
            problem = f"it holds {code[1]}, which is code and not weights, and is not run"
        else:
            problem = f"not PyTorch's format, or damaged ({_reason(error)})"
        raise CheckpointError(f"{path}: {problem}; accepted: {ACCEPTED}") from None


def _has_tensors(stored: Any) -> bool:
    return any(map(_has_tensors, stored.values())) if isinstance(stored, Mapping) else _is_dense(stored)


def _reason(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    text = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2]
    return re.split(r"(?<=\w)[.:!]\s|\sCheck the ", text)[0][:100] or type(error).__name__


def _is_dense(x: Any) -> bool:
    import torch

    return (
        isinstance(x, torch.Tensor)
        and x.layout == torch.strided
        and not x.is_meta
        and not (x.is_quantized or x.is_complex())
    )


def _kind(x: Any) -> str:
    if getattr(x, "is_meta", False):
        return "a meta tensor, which has no values"
    return f"a tensor ({x.layout}, {x.dtype})" if hasattr(x, "layout") else f"of type {type(x).__name__}"
