"""The architectures, declared. Each is a function that returns a :class:`tricnn.ir.Graph`."""

from .lenet import lenet, lenet_sigmoid

ARCHITECTURES = {f.__name__: f for f in (lenet, lenet_sigmoid)}

__all__ = ["ARCHITECTURES", *ARCHITECTURES]
