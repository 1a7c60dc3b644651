"""Random programs: sampled from the grammar, kept if every step matters and nothing known behaves alike."""

import hashlib
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.programs.inputs import n_inputs, random_inputs
from data_gen.programs.interpreter import interchange, output, valid
from data_gen.programs.language import POSITIONS, TOKENS, Program
from data_gen.programs.library import MAKE, library_program
from data_gen.programs.sketch import Sketch
from data_gen.seeds import derived_seed, generator_for
from metamodel.config.errors import InputError

BATTERY = 256
"""Prompts on which behavior is compared."""
SMALLEST_EFFECT = 0.02
"""Share of prompts on which exchanging a step's variable must change some answer, for the step to matter."""
MOST_COMMON = 0.9
"""Largest share of answers that may be the same one."""
SMALLEST_DEFINED = 0.2
"""Share of prompts on which a program must be defined."""
_TRIES = 400
_SYMBOLS, _LENGTHS, _STEPS = range(3, 7), range(5, 8), range(2, 5)
LONGEST = max(_LENGTHS)
"""Places of the longest random program."""
_MOST_VALUES = 7
"""Most values of a variable, so that layouts stay small."""


def behavior(program: Program) -> str:
    """Hash of what a program answers on a fixed battery of prompts, up to the names of its answers."""
    generator = generator_for("battery", program.n_symbols, program.length)
    shape = (BATTERY, program.length)
    symbols = torch.randint(program.n_symbols, shape, generator=generator)
    answers = output(program, symbols).flatten().tolist()
    names: dict[int, int] = {}
    renamed = [names.setdefault(answer, len(names)) for answer in answers]
    shape = (program.n_symbols, program.length, program.causal, program.first)
    return hashlib.sha256(repr((shape, renamed)).encode()).hexdigest()[:16]


def every_step_matters(program: Program) -> bool:
    """Whether the answers vary, and exchanging any step's variable changes some of them."""
    generator = generator_for("effects", program.n_symbols, program.length)
    symbols = torch.randint(program.n_symbols, (2 * BATTERY, program.length), generator=generator)
    if valid(program, symbols).double().mean() < SMALLEST_DEFINED:
        return False
    if program.symbols_at is not None or n_inputs(program) < BATTERY:
        return False
    base, source = random_inputs(program, generator, 2 * BATTERY).chunk(2)
    answers = output(program, base)[:, program.first :]
    if answers.flatten().bincount().max() > MOST_COMMON * answers.numel():
        return False
    for step in program.steps:
        changed = interchange(program, base, source, step.name)[:, program.first :] != answers
        if changed.any(1).double().mean() < SMALLEST_EFFECT:
            return False
    return True


def random_program(seed: int) -> Program:
    """One program from a seed, unlike any of the library's. Two seeds may draw programs that behave alike."""
    return random_programs(seed, 1)[0]


@lru_cache(maxsize=256)
def random_programs(seed: int, n: int) -> tuple[Program, ...]:
    """`n` programs from a seed of which no two, and none and one of the library, behave alike."""
    found: list[Program] = []
    known: set[str] = set()
    for i in range(n):
        program = _draw(derived_seed("random program", seed, i), known)
        known.add(behavior(program))
        found.append(program)
    return tuple(found)


def _draw(seed: int, known: set[str]) -> Program:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_TRIES):
        program = _Grammar(generator).program(f"random-{seed % 10**8:08d}")
        if program is None or not every_step_matters(program):
            continue
        name = behavior(program)
        if name not in known and name not in _library(program.n_symbols, program.length):
            return program
    raise InputError(
        f"random program {seed}",
        expected=f"a new program in {_TRIES} tries",
        got="none",
        do="Take another seed, or fewer programs.",
    )


@lru_cache(maxsize=64)
def _library(n_symbols: int, length: int) -> frozenset[str]:
    """Behavior of the named programs that exist at this size."""
    return frozenset(
        behavior(library_program(name, n_symbols=n_symbols, length=length)) for name in MAKE if name != "ioi"
    )


class _Grammar:
    """Draws one program."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def program(self, name: str) -> Program | None:
        """A program of a few steps that all lead to its output, or None where a draw leads nowhere."""
        sketch = Sketch(n_symbols=self.choose(_SYMBOLS), length=self.choose(_LENGTHS))
        self.sizes = {TOKENS: sketch.n_symbols, POSITIONS: sketch.length}
        self.means: set[str] = set()
        self.unread: list[str] = []
        n_steps = self.choose(_STEPS)
        for i in range(n_steps):
            self.add(sketch, f"v{i}")
        while len(self.unread) > 1 or (self.unread and self.unread[0] in self.means):
            if len(sketch.steps) > n_steps + 2 or not self.join(sketch, f"v{len(sketch.steps)}"):
                return None
        program = sketch.program(name, self.unread[0], "A random program.")
        attends = any("select" in type(step).__slots__ for step in program.steps)
        return program if attends else None

    def choose(self, options: range | list) -> int:
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def integers(self, high: int, *shape: int) -> Int[Tensor, "*rest"]:
        return torch.randint(high, shape, generator=self.generator)

    def add(self, sketch: Sketch, name: str) -> None:
        kinds = ["map", "sequence_map", "aggregate", "aggregate", "mean", "width", "width"]
        kind = kinds[self.choose(range(len(kinds)))]
        exact = [v for v in self.sizes if v not in self.means]
        recent = [v for v in self.unread if v not in self.means] or [TOKENS]
        match kind:
            case "map":
                value = self.pick(list(self.unread) or [TOKENS])
                self.random_map(sketch, name, value)
            case "sequence_map":
                self.random_sequence_map(sketch, name, self.pick(recent), self.pick([TOKENS, *exact]))
            case "aggregate":
                by = 1 + self.choose(range(2))
                select = [
                    sketch.select(POSITIONS, POSITIONS, lambda q, k: k == q - by),
                    sketch.select(POSITIONS, POSITIONS, lambda q, k: k == by - 1),
                ][self.choose(range(2))]
                value = self.pick([TOKENS, *recent])
                sketch.aggregate(name, select, value, default=self.sizes[value])
                self.added(name, self.sizes[value] + 1, value)
            case "mean":
                value = self.pick([TOKENS, *recent])
                marked = self.choose(range(self.sizes[value]))
                select = sketch.select(TOKENS, TOKENS, lambda q, k: True)
                sketch.mean(name, select, value, lambda x: int(x == marked))
                self.means.add(name)
                self.added(name, 0, value)
            case "width":
                key = self.pick([TOKENS, *recent])
                same = [v for v in exact if v != POSITIONS and self.sizes[v] == self.sizes[key]]
                query = self.pick(same)
                marked = self.choose(range(self.sizes[key]))
                predicates = [
                    lambda q, k: q == k,
                    lambda q, k: k > q,
                    lambda q, k: k < q,
                    lambda q, k: k == marked,
                ]
                select = sketch.select(query, key, predicates[self.choose(range(4))])
                sketch.width(name, select)
                self.added(name, sketch.length + 1, query, key)

    def join(self, sketch: Sketch, name: str) -> bool:
        """Reads what is not read yet; False where that is too large."""
        numeric = [v for v in self.unread if v in self.means]
        if numeric:
            self.random_map(sketch, name, numeric[0])
            return True
        first, second = self.unread[:2]
        if self.sizes[first] * self.sizes[second] > 64:
            return False
        self.random_sequence_map(sketch, name, first, second)
        return True

    def random_map(self, sketch: Sketch, name: str, value: str) -> None:
        if value in self.means:
            cut = (1 + self.choose(range(4))) / 5
            sketch.map(name, value, lambda x: (x > 0) + (x > cut))
            self.added(name, 3, value)
            return
        n_values = 2 + self.choose(range(2))
        table = self.integers(n_values, self.sizes[value]).tolist()
        sketch.map(name, value, lambda x: table[int(x)])
        self.added(name, max(table) + 1, value)

    def random_sequence_map(self, sketch: Sketch, name: str, first: str, second: str) -> None:
        a, b = self.sizes[first], self.sizes[second]
        tests = [
            lambda x, y: int(x == y),
            lambda x, y: int(x > y) + 2 * int(x < y),
            lambda x, y: table[int(x)][int(y)],
            lambda x, y: int(x + y) % 3,
        ]
        table = self.integers(3, a, b).tolist()
        function = tests[self.choose(range(4))]
        sketch.sequence_map(name, first, second, function)
        self.added(name, 1 + max(function(x, y) for x in range(a) for y in range(b)), first, second)

    def pick(self, names: list[str]) -> str:
        small = [name for name in names if name in self.means or self.sizes[name] <= _MOST_VALUES + 1]
        return (small or [TOKENS])[self.choose(range(len(small or [TOKENS])))]

    def added(self, name: str, size: int, *read: str) -> None:
        self.sizes[name] = size
        self.unread = [v for v in self.unread if v not in read] + [name]
