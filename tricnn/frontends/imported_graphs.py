"""Imported graphs, kept as text under a key of all that they depend on.

That is the module's structure, its settings, and the code that its ``forward`` can reach, as it is loaded in this
process.

The key is of content, so that nothing stale is ever found: a method that was changed, a global number that it reads or
another version of PyTorch is another key. A module with something in it that cannot be described (hooks, modules in a
plain list, an object of somebody's extension) has no key, and is imported anew each time.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import stat
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.graph import Graph
from ..ir.text import from_text
from ..system.errors import TricnnError
from ..system.files import read_at_most, write_atomically
from ..system.limits import LARGEST_GRAPH_FILE
from ..system.paths import cache_folder

if TYPE_CHECKING:
    import torch

#: packages that are described by their versions
BY_VERSION = ("torch", "numpy", "triton", "tricnn", *sys.stdlib_module_names)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: what nn.Module keeps in a module's __dict__ besides what its author put there
OWN = (
    "_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", *HOOKS,
)  # fmt: skip
DEEPEST = 40

_found_before: dict[str, Graph] = {}


class Indescribable(Exception):
    """Something that a key cannot be made of."""


def key_of(module: torch.nn.Module, inputs: Sequence[torch.Tensor], *options: Any) -> str | None:
    """The key of what importing a module gives; None if there is none."""
    import torch

    description = _Description()
    try:
        description.add("versions", sys.version, torch.__version__, *_our_code())
        description.add("inputs", *[(tuple(x.shape[1:]), str(x.dtype), x.device.type) for x in inputs])
        description.of(list(options), 0)
        description.module(module)
    except (Indescribable, RecursionError):
        return None
    return description.digest.hexdigest()


def found(key: str | None) -> Graph | None:
    """The graph kept under a key; None if there is none, or what is there is somebody else's or damaged."""
    if key is None:
        return None
    if key in _found_before:
        return _found_before[key]
    path = _place(key)
    try:
        if path is None:
            return None
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
            return None
        graph = from_text(read_at_most(path, LARGEST_GRAPH_FILE).decode())
    except (OSError, TricnnError, UnicodeDecodeError):
        return None
    return _found_before.setdefault(key, graph)


def keep(key: str | None, graph: Graph) -> None:
    """Keep a graph under its key, if it has one and there is a place for it."""
    if key is None:
        return
    _found_before[key] = graph
    path = _place(key)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, str(graph).encode(), durable=False)
        except OSError:  # a full or read-only disk: it is imported again
            return


def _place(key: str) -> Path | None:
    folder = cache_folder()
    return folder / f"imported-{os.getuid()}" / f"{key}.txt" if folder is not None else None


@functools.cache
def _our_code() -> tuple[str, ...]:
    """Digests of what reads modules and of the table of operations."""
    room = Path(__file__).parents[1]
    files = sorted([*(room / "frontends").glob("*.py"), *(room / "ir").rglob("*.py")])
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


class _Description:
    """A digest of what a module depends on; each method writes something into it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no other object gets the identity of one that was seen

    def add(self, *words: Any) -> None:
        self.digest.update(repr(words).encode() + b"\0")

    def new(self, thing: Any) -> bool:
        """Whether a thing is met for the first time; if not, which of those met it is says enough, and is written."""
        if id(thing) in self.seen:
            self.add("again", self.seen[id(thing)])
            return False
        self.seen[id(thing)] = len(self.seen)
        self.kept.append(thing)
        return True

    def module(self, root: torch.nn.Module) -> None:
        """Write the modules inside one by path, their settings and the code of their classes."""
        for path, module in root.named_modules(remove_duplicate=False):
            self.add("module", path)
            if not self.new(module):
                continue
            if any(getattr(module, hooks, None) for hooks in HOOKS):
                raise Indescribable
            self.add(module.training, sorted(module._non_persistent_buffers_set))
            self.code(type(module), 0)
            for name, x in (*module._parameters.items(), *module._buffers.items()):
                self.add(name)
                self.tensor(x, values=name in module._non_persistent_buffers_set)
            settings = {name: value for name, value in vars(module).items() if name not in OWN}
            self.of(settings, 0)

    def tensor(self, x: Any, *, values: bool) -> None:
        """Write a tensor's type, and, where the graph may hold them, its numbers."""
        if x is None:
            self.add(None)
        elif self.new(x):
            self.add(tuple(x.shape), str(x.dtype), x.requires_grad, str(x.layout))
            if values and not x.is_meta and x.numel() == 1:
                self.add(x.item())

    def of(self, value: Any, depth: int) -> None:
        """Write any value that forward may read."""
        import torch

        if depth > DEEPEST:
            raise Indescribable
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | range | slice):
            self.add(value)
        elif isinstance(value, torch.dtype | torch.Size | torch.device | torch.memory_format | enum.Enum):
            self.add(str(value))
        elif isinstance(value, torch.nn.Module):
            if id(value) not in self.seen:  # one that is not registered: nobody knows its parameters
                raise Indescribable
            self.new(value)
        elif isinstance(value, torch.Tensor):
            self.tensor(value, values=True)
        elif isinstance(value, type | types.FunctionType | types.MethodType | types.BuiltinFunctionType):
            self.code(value, depth)
        elif self.new(value):
            self.composed(value, depth + 1)

    def composed(self, value: Any, depth: int) -> None:
        """Write a value that is made of other values."""
        self.add(type(value).__module__, type(value).__qualname__)
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.of(key, depth)
                self.of(item, depth)
        elif isinstance(value, list | tuple):
            for item in value:
                self.of(item, depth)
        elif isinstance(value, set | frozenset):
            self.add(sorted(map(repr, value)))
        elif isinstance(value, functools.partial):
            self.of([value.func, value.args, value.keywords], depth)
        elif _by_version(type(value)):
            if not isinstance(value, types.ModuleType):
                self.add(getattr(value, "__name__", ""))
        elif hasattr(value, "__dict__"):
            self.code(type(value), depth)
            self.of(vars(value), depth)
        else:
            raise Indescribable

    def code(self, thing: Any, depth: int) -> None:
        """Write a class or a function: its instructions, and the global values that they name."""
        self.add(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None))
        if _by_version(thing) or not self.new(thing) or depth > DEEPEST:
            return
        if isinstance(thing, type):
            for base in thing.__mro__[1:]:
                self.code(base, depth + 1)
            for name, member in vars(thing).items():
                if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"):
                    continue
                self.add(name)
                self.member(member, depth + 1)
            return
        function = getattr(thing, "__func__", thing)
        if not isinstance(function, types.FunctionType):
            return
        self.of([function.__defaults__, function.__kwdefaults__], depth + 1)
        for cell in function.__closure__ or ():
            try:
                self.of(cell.cell_contents, depth + 1)
            except ValueError:  # an empty cell
                self.add("empty")
        self.instructions(function.__code__, function.__globals__, depth + 1)

    def member(self, member: Any, depth: int) -> None:
        """Write one member of a class."""
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, property):
            for part in (member.fget, member.fset):
                self.member(part, depth)
        elif isinstance(member, types.FunctionType | type):
            self.code(member, depth)
        elif not _by_version(type(member)) or isinstance(
            member, int | float | str | tuple | list | dict | types.NoneType
        ):
            self.of(member, depth)

    def instructions(self, code: types.CodeType, scope: Mapping[str, Any], depth: int) -> None:
        """Write byte code, and the values of the globals that it names.
        A name that is no global here, but that of a loaded module, stands for the module."""
        self.add(code.co_code, code.co_names, code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.instructions(constant, scope, depth)
            else:
                self.add(constant)
        for name in code.co_names:
            if name in scope:
                self.named(scope[name], code.co_names, depth)
            elif name in sys.modules:
                self.named(sys.modules[name], code.co_names, depth)

    def named(self, value: Any, names: Sequence[str], depth: int) -> None:
        """Write the value of a global; of a module, those of its values that the code names."""
        if not isinstance(value, types.ModuleType):
            self.of(value, depth)
        elif not _by_version(value) and self.new((value.__name__, names)):
            for name in names:
                if name in vars(value):
                    self.named(vars(value)[name], names, depth + 1)


def _by_version(thing: Any) -> bool:
    """Whether a thing is of a package whose version says what it does."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] in (*BY_VERSION, "builtins")
