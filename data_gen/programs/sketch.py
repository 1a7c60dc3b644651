"""Writes programs down with functions instead of tables."""

from collections.abc import Callable
from fractions import Fraction

from data_gen.programs.language import (
    POSITIONS,
    TOKENS,
    UNDEFINED,
    Aggregate,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Step,
    means,
)

Number = int | Fraction


class Sketch:
    """Collects steps; every method returns the name of the variable that it adds.

    Functions are called with values: whole numbers, and fractions for means.
    """

    def __init__(self, *, n_symbols: int, length: int):
        self.n_symbols, self.length = n_symbols, length
        self.steps: list[Step] = []
        self._domains: dict[str, tuple[Number, ...]] = {
            TOKENS: tuple(range(n_symbols)),
            POSITIONS: tuple(range(length)),
        }

    def map(self, name: str, value: str, function: Callable[[Number], int]) -> str:
        table = tuple(int(function(x)) for x in self._domains[value])
        return self._add(Map(name=name, value=value, table=table), range(max(table) + 1))

    def sequence_map(
        self, name: str, first: str, second: str, function: Callable[[Number, Number], int]
    ) -> str:
        table = tuple(tuple(int(function(a, b)) for b in self._domains[second]) for a in self._domains[first])
        step = SequenceMap(name=name, first=first, second=second, table=table)
        return self._add(step, range(max(map(max, table)) + 1))

    def select(self, query: str, key: str, predicate: Callable[[Number, Number], bool]) -> Select:
        """`predicate(query value, key value)`: whether the place is selected."""
        table = tuple(tuple(bool(predicate(q, k)) for k in self._domains[key]) for q in self._domains[query])
        return Select(query=query, key=key, table=table)

    def aggregate(self, name: str, select: Select, value: str, *, default: int = UNDEFINED) -> str:
        """The common value of the selected places; `default` may be a value more than `value` has."""
        step = Aggregate(name=name, select=select, value=value, default=default)
        return self._add(step, range(max(len(self._domains[value]), default + 1)))

    def mean(self, name: str, select: Select, value: str, number: Callable[[Number], int]) -> str:
        """Mean over the selected places of the number that each value counts as; 0 where there is none."""
        numbers = tuple(number(x) for x in self._domains[value])
        domain = means(numbers, self.length)
        step = Aggregate(
            name=name, select=select, value=value, default=domain.index(Fraction(0)), numbers=numbers
        )
        return self._add(step, domain)

    def width(self, name: str, select: Select) -> str:
        return self._add(SelectorWidth(name=name, select=select), range(self.length + 1))

    def shift(self, name: str, value: str = TOKENS, by: int = 1) -> str:
        """What stood `by` places before; where nothing did, one value more than `value` has."""
        before = self.select(POSITIONS, POSITIONS, lambda q, k: k == q - by)
        return self.aggregate(name, before, value, default=len(self._domains[value]))

    def program(
        self,
        name: str,
        output: str,
        description: str,
        *,
        causal: bool = True,
        first: int = 0,
        symbols_at: tuple[tuple[int, ...], ...] | None = None,
    ) -> Program:
        return Program(
            name=name,
            description=description,
            n_symbols=self.n_symbols,
            length=self.length,
            steps=tuple(self.steps),
            output=output,
            causal=causal,
            first=first,
            symbols_at=symbols_at,
        )

    def _add(self, step: Step, domain: range | tuple[Fraction, ...]) -> str:
        self.steps.append(step)
        self._domains[step.name] = tuple(domain)
        return step.name
