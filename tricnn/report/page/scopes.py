"""A network folded by its layers' names: ``layer1.0.conv1`` lies in block ``layer1.0`` of stage ``layer1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...compiler.plan import Plan
from ...ir.graph import Graph, Node


@dataclass
class Scope:
    """A part of a network.
    ``path`` is what its layers' names begin with (empty: the network); ``members`` its layers and its parts, in the
    order in which they run."""

    path: str
    members: list[str | Scope] = field(default_factory=list)

    @property
    def scopes(self) -> list[Scope]:
        """Its parts that have parts."""
        return [member for member in self.members if isinstance(member, Scope)]

    @property
    def layers(self) -> list[str]:
        """The layers that are in none of its parts."""
        return [member for member in self.members if isinstance(member, str)]

    def walk(self) -> Iterator[Scope]:
        """Itself, and every part of it, the outer before the inner."""
        yield self
        for scope in self.scopes:
            yield from scope.walk()

    def every_layer(self) -> Iterator[str]:
        """All layers in it, its parts' too."""
        for member in self.members:
            if isinstance(member, str):
                yield member
            else:
                yield from member.every_layer()


def folded(layers: Iterable[str]) -> Scope:
    """The scope of a whole network with these layers. A part that holds nothing but one other part is left out."""
    root = Scope("")
    scopes = {"": root}
    for layer in layers:
        parts, scope = layer.split(".")[:-1], root
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            if path not in scopes:
                scopes[path] = Scope(path)
                scope.members.append(scopes[path])
            scope = scopes[path]
        scope.members.append(layer)
    for scope in [*root.walk()]:
        scope.members = [_shortest(member) for member in scope.members]
    return root


def _shortest(member: str | Scope) -> str | Scope:
    """A part without the parts that hold nothing but it; a part of one layer is that layer."""
    while isinstance(member, Scope) and len(member.members) == 1:
        member = member.members[0]
    return member


class Homes:
    """Where in a declared network each node of its compiled graph belongs."""

    def __init__(self, declared: Graph, plan: Plan):
        self.declared, self.plan = declared, plan
        self._layers = {node.name for node in declared.nodes if node.row.source is None}
        self._scopes = {name.rpartition(".")[0] for name in self._layers}

    def layer(self, name: str) -> str:
        """The declared layer that a node computes or was made of.
        What passes made of several layers (merged siblings) belongs to the first of them; what none of them reads (the
        loss) is a layer by its own name."""
        named = self._named(name)
        return self.parts[named][0] if named in self.parts else named

    def made_of(self, name: str) -> list[str]:
        """The layers that a node was made of."""
        named = self._named(name)
        return self.parts.get(named, [named])

    @cached_property
    def parts(self) -> Mapping[str, list[str]]:
        """The layers that passes made of several declared ones, each with those, which read it going forward."""
        found: dict[str, list[str]] = {}
        for node in reversed(self.plan.graph.nodes):
            reader = self._named(node.name)
            if node.name in self.backward or (reader not in self._layers and reader not in found):
                continue
            for value in node.inputs:
                made = self._named(value)
                if made in self._layers or made == reader or self.plan.graph.by_name[value].row.source is not None:
                    continue
                readers = [reader] if reader in self._layers else found[reader]
                found[made] = list(dict.fromkeys([*readers, *found.get(made, [])]))
        return found

    def _named(self, name: str) -> str:
        """The declared layer in a node's name; without one the first part of the name behind its scope."""
        head = name
        while head:
            if head in self._layers:
                return head
            head = head.rpartition(".")[0]
        parts = name.split(".")
        for count in range(len(parts) - 1, 0, -1):
            if (scope := ".".join(parts[:count])) in self._scopes:
                return f"{scope}.{parts[count]}"
        return parts[0]

    @cached_property
    def backward(self) -> frozenset[str]:
        """The nodes of the backward pass: those that the gradient of the loss reaches."""
        reached: set[str] = set()
        for node in self.plan.graph.nodes:
            if node.row.begins_backward or reached.intersection(node.inputs):
                reached.add(node.name)
        return frozenset(reached)

    @cached_property
    def nodes(self) -> Mapping[str, list[Node]]:
        """Each layer's nodes in the compiled graph, in order."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.declared.nodes if node.row.source is None}
        for node in self.plan.graph.nodes:
            if node.row.source is None:
                found.setdefault(self.layer(node.name), []).append(node)
        return found

    @cached_property
    def scope(self) -> Scope:
        """The whole network, with what passes added to it."""
        return folded(self.nodes)
