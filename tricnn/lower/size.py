"""Numbers of elements, tiles and programs as they depend on the batch size N, which is known only when a step runs.

A :class:`Size` is a sum of terms, each of them a unit times numbers, and a unit is one of four things:

    1        N        cdiv(size, number)        min(size, number)

or, in what is only counted and never emitted, a count of its own (`runs.py`).

So ``cdiv(N * 49, 128) * 64`` is written in Python as it is printed. It is linear in the batch but for the ceilings, and
that is enforced: the product of two sizes that both depend on N is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol, overload


@dataclass(frozen=True)
class Batch:
    """The batch size itself."""

    def at(self, batch: int) -> int:
        return batch

    def text(self, cdiv: str) -> str:
        return "N"


@dataclass(frozen=True)
class Ceiling:
    """The least whole number that is not smaller than ``of / by``."""

    of: Size
    by: int

    def at(self, batch: int) -> int:
        return cdiv(self.of.at(batch), self.by)

    def text(self, cdiv: str) -> str:
        return f"{cdiv}({self.of.text(cdiv)}, {self.by})"


@dataclass(frozen=True)
class AtMost:
    """A size where it is less than a number, else the number."""

    of: Size
    most: int

    def at(self, batch: int) -> int:
        return min(self.of.at(batch), self.most)

    def text(self, cdiv: str) -> str:
        minimum = "tl.minimum" if cdiv.startswith("tl.") else "min"
        return f"{minimum}({self.of.text(cdiv)}, {self.most})"


class Unit(Protocol):
    """What a term counts: a number for every batch size, and how it is written in Python."""

    def at(self, batch: int) -> int: ...

    def text(self, cdiv: str) -> str: ...


@dataclass(frozen=True)
class Term:
    """A unit (None stands for 1) times some numbers.
    The numbers stay apart, for they say what the term is made of: ``cdiv(N, 2) * 16 * 192`` is 16 boxes for each two
    images, and 192 numbers for each box."""

    unit: Unit | None
    factors: tuple[int, ...]

    @property
    def coefficient(self) -> int:
        return prod(self.factors)

    def at(self, batch: int) -> int:
        return self.coefficient * (1 if self.unit is None else self.unit.at(batch))

    def text(self, cdiv: str) -> str:
        if self.unit is None:
            return str(self.coefficient)
        return " * ".join([self.unit.text(cdiv), *map(str, self.factors)])

    def times(self, number: int) -> Term:
        if self.unit is None:
            return Term(None, (self.coefficient * number,))
        return self if number == 1 else Term(self.unit, (*self.factors, number))


@dataclass(frozen=True, eq=False)
class Size:
    """A whole number that may depend on the batch size.
    Two are equal if they have the same terms, in whatever order and however their factors are written."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, number: int | Size) -> Size:
        """The size that is this number for every batch; a size is one already."""
        if isinstance(number, Size):
            return number
        return cls((Term(None, (int(number),)),) if number else ())

    @classmethod
    def sum(cls, sizes: Iterable[int | Size]) -> Size:
        """The sum of sizes, each unit named once."""
        terms: dict[Unit | None, Term] = {}
        for term in (term for size in sizes for term in cls.of(size).terms):
            known = terms.get(term.unit)
            terms[term.unit] = Term(term.unit, (known.coefficient + term.coefficient,)) if known else term
        return cls(tuple(terms.values()))

    def at(self, batch: int) -> int:
        """The number at a batch size."""
        return sum(term.at(batch) for term in self.terms)

    @property
    def fixed(self) -> int | None:
        """The number that it is for every batch, or None if it depends on the batch."""
        return self.at(0) if all(term.unit is None for term in self.terms) else None

    @property
    def limited(self) -> bool:
        """Whether a term of it grows up to some number only."""
        return any(isinstance(term.unit, AtMost) for term in self.terms)

    def text(self, cdiv: str = "cdiv") -> str:
        """Python source of the number, in N, with the function of this name for ceilings."""
        return " + ".join(term.text(cdiv) for term in self.terms) or "0"

    def __str__(self) -> str:
        return self.text()

    def __add__(self, other: int | Size) -> Size:
        return Size.sum([self, other])

    __radd__ = __add__

    def __mul__(self, other: int | Size) -> Size:
        """The product of two sizes; ValueError if both depend on the batch."""
        number = other.fixed if isinstance(other, Size) else other
        if number is None:
            if self.fixed is None:
                raise ValueError(f"({self}) * ({other}) is not linear in the batch")
            return Size.of(other) * self.fixed
        return Size(tuple(term.times(number) for term in self.terms) if number else ())

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | Size):
            return NotImplemented
        return self._coefficients == Size.of(other)._coefficients

    def __hash__(self) -> int:
        return hash(self._coefficients)

    @cached_property
    def _coefficients(self) -> frozenset[tuple[Unit | None, int]]:
        return frozenset((term.unit, term.coefficient) for term in self.terms)


N = Size((Term(Batch(), ()),))


def images(batched: bool) -> Size:
    """How many images there are of a value with a batch, and 1 of one without."""
    return N if batched else Size.of(1)


@overload
def cdiv(of: int, by: int) -> int: ...


@overload
def cdiv(of: Size, by: int) -> Size: ...


def cdiv(of: int | Size, by: int) -> int | Size:
    """The quotient ``of / by``, rounded up."""
    if not isinstance(of, Size):
        return -(-of // by)
    if of.fixed is not None:
        return Size.of(cdiv(of.fixed, by))
    return of if by == 1 else Size((Term(Ceiling(of, by), ()),))


def at_most(of: Size, most: int) -> Size:
    """The smaller of a size and a number."""
    if of.fixed is not None:
        return Size.of(min(of.fixed, most))
    return Size((Term(AtMost(of, most), ()),))
