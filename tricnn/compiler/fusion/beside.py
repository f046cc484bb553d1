"""What the rules have in common that give one loop a second result."""

from __future__ import annotations

from abc import abstractmethod

from ...ir.graph import Node
from .grouping import Grouping
from .rule import Rule


class Beside(Rule):
    """A rule that puts a node beside another one, ``first``, whose loop over the same operands gives its result too."""

    @abstractmethod
    def about(self, kernels: Grouping, first: Node, node: Node) -> bool:
        """Is it the rule for these two?"""
