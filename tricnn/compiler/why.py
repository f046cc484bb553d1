"""Why a rule of fusion did not put an edge within a kernel: what was checked, with the values that decided."""

from __future__ import annotations

from dataclasses import dataclass

KEPT = ("op", "policy")  # facts that make another kind of reason


@dataclass(frozen=True)
class Why:
    """One refusal; ``text`` has a name in braces for every value that decided."""

    text: str
    facts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text.format(**dict(self.facts))

    @property
    def general(self) -> str:
        """The same without the values (but for the operation's name), so that equal reasons can be counted."""
        return self.text.format(**{name: value if name in KEPT else f"<{name}>" for name, value in self.facts})


def why(text: str, **facts: object) -> Why:
    return Why(text, tuple((name, str(value)) for name, value in facts.items()))
