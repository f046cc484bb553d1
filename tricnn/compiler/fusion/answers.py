"""What the rules of fusion answered, edge by edge: fused, or refused, with the reason and the values that decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

KEPT = ("op", "policy")  # values that make another kind of reason

Edge = tuple[str, str]  # (a value, the layer that reads it)


@dataclass(frozen=True)
class Why:
    """One reason; ``text`` has a name in braces for every value that decided, which ``facts`` gives."""

    text: str
    facts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text.format(**dict(self.facts))

    @property
    def general(self) -> str:
        """The reason's text with the names of its facts in place of their values, so that equal reasons can be counted.
        The operation's name stays."""
        return self.text.format(**{name: value if name in KEPT else f"<{name}>" for name, value in self.facts})


def why(text: str, **facts: object) -> Why:
    """The reason ``text``, with the values of the names in braces."""
    return Why(text, tuple((name, str(value)) for name, value in facts.items()))


@dataclass(frozen=True)
class Fused:
    """The answer that a rule put a site into one kernel.
    ``equation`` is the rule's, with the site's own operations; ``bytes`` an image (in 16 bits) need not be read there.
    """

    rule: str
    equation: str
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.rule}: {self.equation}"

    general = property(__str__)


@dataclass(frozen=True)
class Refused:
    """A rule left a site as it was, for a reason; ``bytes`` an image (in 16 bits) are read there."""

    rule: str
    why: Why
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.rule}: {self.why}"

    @property
    def general(self) -> str:
        """The refusal in words that hold for any site: the rule, and its reason without this site's values."""
        return f"{self.rule}: {self.why.general}"


Answer = Fused | Refused


@dataclass(frozen=True)
class Decision:
    """What became of one edge of the graph.
    ``answers`` is the one of the rule that fused it; if none did, those of every rule that was tried, the plainest
    last."""

    producer: str
    consumer: str
    answers: tuple[Answer, ...]

    @property
    def fused(self) -> bool:
        """Does the value reach this reader without going through memory?"""
        return isinstance(self.answers[0], Fused)

    @property
    def text(self) -> str:
        """What the rules answered, in words."""
        return "; ".join(map(str, self.answers))

    @property
    def general(self) -> str:
        """What all rules answered, in words that hold for any edge, so that edges with equal answers can be counted."""
        return "; ".join(answer.general for answer in self.answers)


class Answers:
    """A record of what the rules answered, as they were tried."""

    def __init__(self) -> None:
        self._fused: dict[Edge, Fused] = {}
        self._refused: dict[Edge, dict[str, Refused]] = {}
        self._settled: dict[Edge, Refused] = {}

    def add(self, answers: Mapping[Edge, Answer]) -> None:
        """Remember what was answered. A rule's last refusal counts, and any rule's fusing."""
        for edge, answer in answers.items():
            if isinstance(answer, Fused):
                self._fused[edge] = answer
            else:
                self._refused.setdefault(edge, {})[answer.rule] = answer

    def is_fused(self, edge: Edge) -> bool:
        """Did a rule fuse it?"""
        return edge in self._fused

    def settle(self, edge: Edge, answer: Refused) -> None:
        """Remember why an edge goes through memory although a rule was used there: that is all there is to say of it.
        A rule that fuses it later on has the last word."""
        self._fused.pop(edge, None)
        self._settled[edge] = answer

    def forget(self, edges: Iterable[Edge]) -> None:
        """What was fused is so no longer: its kernel is taken apart."""
        for edge in edges:
            self._fused.pop(edge, None)

    def decision(self, value: str, reader: str) -> Decision:
        """What became of an edge; every edge between computed values was a site of some rule."""
        edge = value, reader
        if edge in self._fused:
            return Decision(value, reader, (self._fused[edge],))
        if edge in self._settled:
            return Decision(value, reader, (self._settled[edge],))
        none = {"none": Refused("none", why("no rule was tried"))}
        refused = sorted(self._refused.get(edge, none).values(), key=lambda answer: answer.rule == "epilogue")
        return Decision(value, reader, tuple(refused))
