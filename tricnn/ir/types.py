"""Shapes with a symbolic batch size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod


class _Batch:
    """The symbolic batch size, written ``N``. There is one instance, :data:`N`."""

    _instance: _Batch | None = None

    def __new__(cls) -> _Batch:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "N"

    def __reduce__(self) -> tuple[type[_Batch], tuple[()]]:
        return (_Batch, ())


N = _Batch()
Dim = int | _Batch
Shape = tuple[Dim, ...]

#: What a value holds: ``float`` is stored in the type the network is compiled for, ``float32`` always in 32 bits
#: (parameters, their gradients, statistics, the loss), the others are integers.
DTYPES = ("float", "float32", "uint8", "int64")


@dataclass(frozen=True)
class TensorType:
    """The shape (logical NCHW, batch symbolic) and the element kind of one value."""

    shape: Shape
    dtype: str = "float"

    @property
    def batched(self) -> bool:
        return bool(self.shape) and self.shape[0] is N

    @cached_property
    def per_image(self) -> tuple[int, ...]:
        """The dimensions other than the batch."""
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def channels(self) -> int:
        """Extent of axis 1 (``C`` of ``[N, C, H, W]`` or ``[N, C]``)."""
        return self.per_image[0]

    @property
    def channel_axis(self) -> int:
        """Which axis holds the channels: 1 of ``[N, C, ...]`` and of rows ``[R, C]``, 0 of ``[C]``."""
        return min(len(self.shape) - 1, 1)

    @property
    def channel_count(self) -> int:
        """The extent of the channel axis; 1 where there is none (``[N]`` or a scalar)."""
        count = self.shape[self.channel_axis] if self.shape else 1
        return count if isinstance(count, int) else 1

    @property
    def is_weight(self) -> bool:
        """``[K, C, R, S]``, filters first."""
        return len(self.shape) == 4 and not self.batched

    @property
    def without_channels(self) -> Shape:
        axis = self.channel_axis
        return (*self.shape[:axis], *self.shape[axis + 1 :])

    @property
    def spatial(self) -> tuple[int, int]:
        """``(H, W)``; ``(1, 1)`` for ``[N, C]``."""
        return (self.per_image[1], self.per_image[2]) if len(self.shape) == 4 else (1, 1)

    @property
    def pixels(self) -> int:
        """``H * W``, per image."""
        return self.spatial[0] * self.spatial[1]

    def elements(self, batch: int) -> int:
        return prod(self.per_image) * (batch if self.batched else 1)

    def at(self, batch: int) -> tuple[int, ...]:
        """The concrete shape for a batch size."""
        return tuple(d if isinstance(d, int) else batch for d in self.shape)

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.shape))
        return f"[{dims}]" if self.dtype == "float" else f"{self.dtype}[{dims}]"
