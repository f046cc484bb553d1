"""Side sums that programs keep in registers over all their tiles, each leaving one part of them at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..compiler.plan import Kernel
from ..machine import tiles
from . import traffic
from .body import Body
from .call import Helper
from .epilogue import leave_sums
from .last_programs import Ends, ends
from .lowering import Lowering
from .partial_sums import finish_sides, side_buffers
from .size import Size


@dataclass(frozen=True)
class KeptSums:
    """The side sums of ``store``, of so many channels, left in so many parts; and what a template is given for them.
    ``end`` is how the launch finishes them, None where launches of their own do."""

    store: Body
    parts: Size
    channels: int
    end: Ends | None = None
    constants: Mapping[str, int] = field(default_factory=dict)
    keywords: Mapping[str, Helper] = field(default_factory=dict)
    moved: tuple[traffic.Traffic, ...] = ()

    @property
    def handed_on(self) -> Mapping[str, Size]:
        """How many elements of each buffer of parts the last programs store once more, if they add the parts up."""
        return self.end.handed_on if self.end else {}

    def launch(self, state: Lowering, kernel: Kernel) -> None:
        """Launch what finishes them, if the programs have not."""
        if self.end is None:
            finish_sides(state, kernel, self.store, self.parts, self.channels)


def kept_sums(
    state: Lowering, kernel: Kernel, store: Body, parts: Size, channels: int, tile: tiles.Tile, blocks: int,
    rounds: int = 1,
) -> KeptSums:  # fmt: skip
    """The side sums that a function ``store`` returns, whose template keeps them, with room for their parts.
    The programs have ``blocks`` of ``tile.n`` channels; ``rounds`` as of :func:`ends`."""
    if not store.terms:
        return KeptSums(store, parts, channels)
    leave = state.body(kernel)
    function = leave_sums(leave, store, channels, f"{kernel.name}_leave_sums")
    end = ends(state, kernel, store, parts, channels, tile, blocks, rounds)
    side_buffers(state, store, parts, channels)
    keywords = {"leave_sums": function, **({"finish": end.finish} if end else {})}
    moved = (traffic.left(leave, channels, parts, tile), *(end.moved if end else ()))
    return KeptSums(store, parts, channels, end, {"SUMS": len(store.terms)}, keywords, moved)
