"""A small language of programs that a transformer can run: the algorithms of subjects with a known circuit.

After RASP (Weiss et al. 2021): a program is a directed graph of named steps over the places of a prompt, each
step one variable with finitely many values at every place. Selects and aggregates are what heads do, maps and
sequence maps what MLPs do. Variables are stored as indices into the values that they can take, so that a
program is plain data: it can be run, compiled, sampled, compared and written down.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from metamodel.config.errors import require

TOKENS, POSITIONS = "tokens", "positions"
"""The inputs of every program: the symbol at a place, and the place, both counted from 0."""
UNDEFINED = -1
"""Value of a variable where the program does not say what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Which places a query selects: those whose key stands in a relation to it."""

    query: str
    """Variable at the place that selects."""
    key: str
    """Variable at the place that may be selected."""
    table: tuple[tuple[bool, ...], ...]
    """`table[q][k]`: whether query value q selects key value k."""

    @property
    def reads_query(self) -> bool:
        """Whether it depends on the query at all."""
        return any(row != self.table[0] for row in self.table)

    @property
    def reads_key(self) -> bool:
        """Whether it depends on the key at all."""
        return any(any(row) != all(row) for row in self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A function of one variable, place by place."""

    name: str
    value: str
    table: tuple[int, ...]
    """Value for each value of the argument."""

    @property
    def reads(self) -> dict[str, str]:
        return {"value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceMap:
    """A function of two variables at the same place."""

    name: str
    first: str
    second: str
    table: tuple[tuple[int, ...], ...]
    """`table[a][b]`: value for each pair."""

    @property
    def reads(self) -> dict[str, str]:
        return {"first": self.first, "second": self.second}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What the selected places hold: their common value, or, with `numbers`, a mean.

    Without `numbers` the selected places must agree: where they do not, the result is UNDEFINED.
    """

    name: str
    select: Select
    value: str
    default: int = UNDEFINED
    """Value where nothing is selected. Of a mean: the index of 0 among its values, or UNDEFINED."""
    numbers: tuple[int, ...] | None = None
    """For a mean, the number that each value counts as."""

    @property
    def reads(self) -> dict[str, str]:
        return _read_by(self.select) | {"value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorWidth:
    """How many places are selected."""

    name: str
    select: Select

    @property
    def reads(self) -> dict[str, str]:
        return _read_by(self.select)


Step = Map | SequenceMap | Aggregate | SelectorWidth


def _read_by(select: Select) -> dict[str, str]:
    read = {"query": select.query} if select.reads_query else {}
    return read | ({"key": select.key} if select.reads_key else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Steps in the order in which they can be computed, and which of them is the output.

    Raises: InputError if a step reads what no earlier step or input gives, or a table does not fit.
    """

    name: str
    description: str
    """One sentence: what the output at a place is."""
    n_symbols: int
    """Symbols that a prompt is made of."""
    length: int
    """Places of a prompt, BOS not counted."""
    steps: tuple[Step, ...]
    output: str
    """Step whose value is the answer at every place that is asked. Never a mean."""
    causal: bool = True
    """Whether a place sees itself and what stands before it only."""
    first: int = 0
    """First place that is asked."""
    symbols_at: tuple[tuple[int, ...], ...] | None = None
    """Symbols that each place may hold; None for all of them everywhere."""

    def __post_init__(self):
        known = {TOKENS: self.n_symbols, POSITIONS: self.length}
        for step in self.steps:
            where = f"program {self.name}: {step.name}"
            require(step.name not in known, where, expected="a new name", got="one twice", do="Rename it.")
            for read in _arguments(step):
                require(
                    read in known,
                    where,
                    expected=f"to read one of {', '.join(known)}",
                    got=repr(read),
                    do="Put the step that it reads before it.",
                )
            got, expected = _table_shape(step), _shape_read(step, known)
            require(
                got == expected,
                where,
                expected=f"a table of {expected}",
                got=got,
                do="Give every value once.",
            )
            known[step.name] = len(_domain(step, known, self.length))
        require(
            self.output in known and not self.is_mean(self.output) and self.output not in (TOKENS, POSITIONS),
            f"program {self.name}: output",
            expected="a step that is not a mean",
            got=repr(self.output),
            do="Map it to what is answered.",
        )

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def is_mean(self, name: str) -> bool:
        """Whether a variable is a mean, which a subject holds as one number rather than as a one-hot."""
        return any(
            isinstance(step, Aggregate) and step.numbers is not None and step.name == name
            for step in self.steps
        )

    @property
    def domains(self) -> dict[str, tuple[Fraction, ...]]:
        """What each index of each variable stands for: itself, or the value of a mean, ascending."""
        return _domains(self)

    @property
    def n_values(self) -> dict[str, int]:
        """How many values each variable can take."""
        return {name: len(domain) for name, domain in self.domains.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of `tokens` and `positions` that some step reads."""
        read = {name for step in self.steps for name in step.reads.values()}
        return tuple(name for name in (TOKENS, POSITIONS) if name in read)


def uses(program: Program) -> Iterator[tuple[str, str, str]]:
    """All (variable, step, argument) of a program: who reads what, as what."""
    for step in program.steps:
        for argument, name in step.reads.items():
            yield name, step.name, argument


@lru_cache(maxsize=512)
def means(numbers: tuple[int, ...], length: int) -> tuple[Fraction, ...]:
    """All means of one to `length` of these numbers, and 0, ascending."""
    found, sums = {Fraction(0)}, {0}
    for n in range(1, length + 1):
        sums = {total + number for total in sums for number in set(numbers)}
        found |= {Fraction(total, n) for total in sums}
    return tuple(sorted(found))


@lru_cache(maxsize=512)
def _domains(program: Program) -> dict[str, tuple[Fraction, ...]]:
    found = {TOKENS: _count(program.n_symbols), POSITIONS: _count(program.length)}
    for step in program.steps:
        sizes = {name: len(domain) for name, domain in found.items()}
        found[step.name] = _domain(step, sizes, program.length)
    return found


def _count(n: int) -> tuple[Fraction, ...]:
    return tuple(map(Fraction, range(n)))


def _domain(step: Step, sizes: dict[str, int], length: int) -> tuple[Fraction, ...]:
    match step:
        case Map():
            return _count(max(step.table) + 1)
        case SequenceMap():
            return _count(max(map(max, step.table)) + 1)
        case SelectorWidth():
            return _count(length + 1)
        case Aggregate(numbers=None):
            return _count(max(sizes[step.value], step.default + 1))
        case Aggregate(numbers=numbers):
            assert numbers is not None
            return means(numbers, length)


def _arguments(step: Step) -> tuple[str, ...]:
    """All that a step names, read or not."""
    match step:
        case Map():
            return (step.value,)
        case SequenceMap():
            return (step.first, step.second)
        case SelectorWidth():
            return (step.select.query, step.select.key)
        case Aggregate():
            return (step.select.query, step.select.key, step.value)


def _table_shape(step: Step) -> tuple[int, ...]:
    match step:
        case Map():
            return (len(step.table),)
        case SequenceMap():
            return (len(step.table), *{len(row) for row in step.table})
        case SelectorWidth():
            return (len(step.select.table), *{len(row) for row in step.select.table})
        case Aggregate():
            shape = (len(step.select.table), *{len(row) for row in step.select.table})
            return shape if step.numbers is None else (*shape, len(step.numbers))


def _shape_read(step: Step, sizes: dict[str, int]) -> tuple[int, ...]:
    shape = tuple(sizes[name] for name in _arguments(step))
    return shape[:2] if isinstance(step, Aggregate) and step.numbers is None else shape
