"""PyTorch's files that hold other objects beside tensors: those come as stand-ins that hold nothing and do nothing.

Training scripts keep their options (``argparse.Namespace``), a configuration or a date beside the weights, which
``torch.load(weights_only=True)`` refuses. Here a pickle gets no other class or function than those that make tensors:
for any other name it is given a stand-in, so nothing that is not PyTorch's own runs. Names of modules that no weights
file has a use for, such as ``os``, are refused all the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

#: what tensors are made by
TENSORS = {
    ("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device"), ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "UntypedStorage"),
}  # fmt: skip
#: modules of functions that act on a machine, and the built-in types that act on nothing
ACTING = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "importlib", "runpy", "pty", "ctypes", "code",
    "pickle", "_pickle", "builtins",
}  # fmt: skip
TYPES = {
    "set", "frozenset", "slice", "range", "complex", "bytearray", "object", "dict", "list", "tuple", "int", "float",
    "str", "bool", "bytes",
}  # fmt: skip


class StandIn(MutableMapping[Any, Any]):
    """An object of a class that is not known here: of its state only entries of a dictionary are kept.
    It equals itself alone, so that it may be a key or in a set, as members of an enumeration are."""

    dump_patches = False  # PyTorch asks classes of layers for it
    entries: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        made.entries = {}  # here, for a pickle may make an object without __init__
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __getitem__(self, key: Any) -> Any:
        return self.entries[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.entries[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    __eq__, __hash__ = object.__eq__, object.__hash__

    def append(self, _: Any) -> None:
        pass

    extend = append


class Unpickler(pickle.Unpickler):
    """Reads a pickle whose tensors alone are what it says."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name, or a stand-in. Raises UnpicklingError for what acts on a machine."""
        import torch

        if (module, name) in TENSORS or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        module = "builtins" if module == "__builtin__" else module
        if module.partition(".")[0] in ACTING and not (module == "builtins" and name in TYPES):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return StandIn


def load(path: Any) -> Any:
    """What a file of ``torch.save`` holds, with stand-ins for objects of classes that no tensor is made of.
    Raises what ``torch.load`` raises."""
    import torch

    module = SimpleNamespace(
        __name__=__name__, Unpickler=Unpickler, load=lambda f, **options: Unpickler(f, **options).load()
    )
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
