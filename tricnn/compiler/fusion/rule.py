"""A rule of fusion: an equation, and a check that says of one site whether it may be used there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...ir.graph import Node
from .answers import Answer, Edge, Fused, Refused, Why

if TYPE_CHECKING:
    from .grouping import Group, Grouping


@dataclass(frozen=True)
class Site:
    """A place where a rule can be tried.
    It is ``values`` that ``readers`` read, and the kernel in the making that would have them both (None where a rule is
    about all kernels that read a value)."""

    values: tuple[str, ...]
    readers: tuple[Node, ...]
    in_making: Group | None = None

    @property
    def value(self) -> str:
        """The value, where it is one."""
        return self.values[0]

    @property
    def reader(self) -> Node:
        """The reader, where it is one."""
        return self.readers[0]

    @property
    def group(self) -> Group:
        """The kernel in the making, where the rule is about one."""
        assert self.in_making is not None
        return self.in_making

    @property
    def edge(self) -> Edge:
        """The value and the reader by name, where it is one of each."""
        return self.value, self.reader.name

    @property
    def each(self) -> list[Site]:
        """A site for every value and reader of this one."""
        return [Site((value,), (reader,), self.in_making) for value in self.values for reader in self.readers]


class Rule(ABC):
    """A rule: ``name`` is what a policy calls it (policies.py), ``equation`` its title."""

    name: ClassVar[str]
    equation: ClassVar[str]

    @abstractmethod
    def why_not(self, kernels: Grouping, site: Site) -> Why | None:
        """Why the rule cannot be used at a site, or does not pay there; None if it is to be used."""

    @abstractmethod
    def here(self, kernels: Grouping, site: Site) -> str:
        """The equation with the operations of a site."""

    def tries(self, kernels: Grouping, site: Site) -> dict[Edge, Answer]:
        """What the rule answers of each edge of a site: all fused, by its equation, or all refused, because."""
        reason = self.why_not(kernels, site)
        return {one.edge: self.answer(kernels, one, reason) for one in site.each}

    def answer(self, kernels: Grouping, site: Site, reason: Why | None) -> Answer:
        """The answer for a site of one edge, refused if there is a reason."""
        moved = kernels.bytes(site.value)
        if reason is not None:
            return Refused(self.name, reason, moved)
        return Fused(self.name, self.here(kernels, site), moved)
