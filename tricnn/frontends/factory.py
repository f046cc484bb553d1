"""``package.module:factory`` as the name of a network: what the command line takes in MODEL's place."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from ..ir.graph import Graph
from ..system.errors import GraphError, TricnnError
from .assembler import NotImported
from .torch_export import from_torch

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
#: images where nobody says how large they are
IMAGES = (3, 224, 224)


def is_factory(name: str) -> bool:
    """Does ``name`` have the form ``package.module:factory``?"""
    return FORM.fullmatch(name) is not None


def graph_of(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Graph:
    """The graph of what ``package.module:factory`` makes.

    That is an ``nn.Module`` (in the mode that it comes in) or a ``tricnn.Graph``. The factory may be a function or a
    class, called without arguments; or a module or a graph itself.

    given     ``num_classes`` is handed to the factory, ``input_shape`` (C, H, W) is the images' (3, 224, 224).
    defaults  the same, handed over only if the factory has a parameter of that name.

    The module is made on the meta device, without weights, if that can be done. Its file may lie in the current folder.

    Raises GraphError in one line: for a package or a name that is not there, for a factory that fails, for a module
    that cannot be imported.
    """
    import torch

    factory = _find(name)
    arguments = {k: v for k, v in given.items() if k != "input_shape"}
    if isinstance(factory, torch.nn.Module | Graph):
        if arguments:
            raise GraphError(f"{name} is a network already, which {' and '.join(arguments)} cannot change")
        made = factory
    elif callable(factory):
        takes = _parameters(factory)
        optional = {k: v for k, v in defaults.items() if k in takes and k != "input_shape"}
        made = _made(name, factory, {**optional, **arguments})
    else:
        raise GraphError(f"{name} is of type {type(factory).__name__}; MODEL is a function that returns an nn.Module")
    if isinstance(made, Graph):
        return made
    if not isinstance(made, torch.nn.Module):
        raise GraphError(f"{name} returns {type(made).__name__}; MODEL is a function that returns an nn.Module")
    shape = given.get("input_shape", IMAGES)
    try:
        return from_torch(made, (2, *shape), name=name.rpartition(":")[2].lower())[0]
    except GraphError as error:
        if "input_shape" in given or isinstance(error, NotImported):
            raise
        size = ",".join(map(str, IMAGES))
        raise GraphError(f"{error} (with images of {size}; --input C,H,W gives others)") from None


def _find(name: str) -> Any:
    """What the name names."""
    where, _, what = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise GraphError(f"{name}: there is no Python module {error.name} here or among installed ones") from None
        raise GraphError(f"{name}: {where} cannot be imported: {error}") from error
    except Exception as error:  # whatever a file does when it is read
        raise GraphError(f"{name}: {where} cannot be imported: {type(error).__name__}: {_line(error)}") from error
    for part in what.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise GraphError(f"{name}: {where} has no {part}{hint}")
        found = getattr(found, part)
    return found


def _parameters(factory: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _made(name: str, factory: Any, arguments: Mapping[str, Any]) -> Any:
    """What a factory makes, without weights if it can."""
    import torch

    try:
        with torch.device("meta"):
            return factory(**arguments)
    except TricnnError:
        raise
    except Exception:  # it may look at numbers: once more with some
        try:
            return factory(**arguments)
        except Exception as error:
            shown = ", ".join(f"{k}={v}" for k, v in arguments.items())
            raise GraphError(f"{name}({shown}) failed: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
