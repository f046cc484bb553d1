"""Values that an epilogue computes again of what its kernel loads for other reasons, instead of loading them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .answers import Why, why
from .group import Group
from .rule import Rule, Site

if TYPE_CHECKING:
    from .grouping import Grouping


class AtHand(Rule):
    """The rule that an epilogue computes a value from images that it loads at that place anyway, and does not load it.
    An example is the sign of relu(bn(z) + bn(s)), where both batch norms' gradients need z and s."""

    name = "at_hand"
    equation = "f(z), g(z) loaded = f[recomputed](z), g(z) loaded    z is loaded there anyway"

    def __init__(self) -> None:
        self._loaded: tuple[Group | None, set[str]] = (None, set())

    def sites(self, kernels: Grouping, group: Group, reads: Iterable[str]) -> Iterator[Site]:
        """Each value that another kernel stores, and that pointwise members behind the anchor alone read here."""
        behind = {n.name for n in group.members if n is not group.anchor and n.name not in group.hosted}
        for value in reads:
            if not kernels.graph.by_name[value].row.chains:
                continue
            here = tuple(n for n in kernels.readers[value] if kernels.home(n.name) is group)
            elsewhere = len(here) < len(kernels.readers[value])
            if elsewhere and here and all(n.name in behind and n.row.chains for n in here):
                yield Site((value,), here, group)

    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with this operation."""
        f = kernels.graph.by_name[site.value].op
        return f"{f}(z, ...) from what the kernel loads for other reasons"

    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the kernel does not compute the value again; None if it does."""
        node, anchor = kernels.graph.by_name[site.value], site.group.anchor
        images = [v for v in kernels.leaves(node) if kernels.bytes(v)]
        loaded = self._loaded_behind(kernels, site.group)
        missing = next((v for v in images if v == node.name or v not in loaded), None)
        if missing is not None:
            return why("{value} takes {operand}, which the epilogue of {anchor} does not load", value=node.name,
                       operand=missing, anchor=anchor.name)  # fmt: skip
        if not images:
            return why("{value} is computed of no image", value=node.name)
        if not kernels.alike(node, anchor.name):
            return why("the epilogue of {anchor} sees {value} under another shape", anchor=anchor.name, value=node.name)
        return None

    def _loaded_behind(self, kernels: Grouping, group: Group) -> set[str]:
        """What the members behind the anchor load, themselves or for what they recompute."""
        if self._loaded[0] is not group:
            behind = [n for n in group.members if n is not group.anchor and n.name not in group.hosted]
            operands = {v for n in behind for v in map(kernels.base, n.inputs)}
            found = operands - kernels.inlined
            for value in operands & kernels.inlined:
                found.update(kernels.leaves(kernels.graph.by_name[value]))
            self._loaded = group, found
        return self._loaded[1]
