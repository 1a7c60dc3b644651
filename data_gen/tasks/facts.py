"""Parametric facts: a private key -> value table for each relation, which only the weights can hold.

A prompt is `[BOS, marker, question, question, ...]`. A question is a key, a relation and a word, in an order
that its template fixes, then QUERY, after which the value is asked for; values are not in the prompt. Values
are keys themselves, so the word TWICE asks for two hops: the value, under the same relation, of the value of
the key. Any other word asks for one hop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import BOS, FIRST_MARKER, FIRST_SYMBOL, N_SYMBOLS, QUERY, UNSUPERVISED, Batch, Task
from data_gen.tasks.statements import Algorithm, solved_by
from metamodel.circuits.prompts import Prompts

ONCE = (FIRST_MARKER + 6, FIRST_MARKER + 7)
"""Words that mean nothing: either asks for one hop."""
TWICE = FIRST_MARKER + 8
HEADER = 2
"""Tokens before the first question."""
QUESTION = 4
"""Tokens of a question."""
KEY, RELATION, WORD = range(3)
CHANGED_RELATIONS = 0.3
"""Share of corrupt prompts in which the relation is changed rather than the key, where there is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What distinguishes the variants."""

    n_keys: int
    """Keys; each is also a value."""
    n_relations: int
    """Tables."""
    templates: tuple[tuple[int, int, int], ...]
    """Orders of key, relation and word."""
    two_hops: float = 0.3
    """Share of questions that ask for two hops."""
    n_questions: int = 3
    """Questions of a prompt."""
    first_symbol: int = FIRST_SYMBOL
    """Token of the first key; the relations follow the keys."""

    def __post_init__(self):
        assert self.first_symbol >= FIRST_SYMBOL
        assert self.first_symbol + self.n_keys + self.n_relations <= FIRST_SYMBOL + N_SYMBOLS


VARIANTS = {
    "base": Parameters(
        n_keys=16,
        n_relations=2,
        templates=((KEY, RELATION, WORD), (WORD, RELATION, KEY), (RELATION, KEY, WORD)),
    ),
    "more_keys": Parameters(
        n_keys=24, n_relations=1, templates=((KEY, WORD, RELATION), (RELATION, KEY, WORD)), two_hops=0.2
    ),
    "more_relations": Parameters(
        n_keys=8,
        n_relations=4,
        templates=((KEY, RELATION, WORD), (WORD, KEY, RELATION)),
        first_symbol=FIRST_SYMBOL + 24,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Task):
    """Questions about one private set of tables."""

    family: ClassVar[str] = "facts"
    marker: ClassVar[int] = FIRST_MARKER + 2
    threshold: ClassVar[float] = 0.95
    mechanism: ClassVar[str] = (
        "Look-up: first-layer heads gather key, relation and word at QUERY. The tables are shared between"
        " what their values write and the MLPs; without MLPs heads hold them all. Two hops are looked up too."
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(
        look_up="token->key.kv token->relation.kv token->word.kv key->table relation->table word->table"
        " table->output"
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "key": "The key is replaced by one that has another value under the same relation.",
        "relation": "The relation is replaced by one under which the same key has another value.",
    }
    battery: ClassVar[Mapping[str, str]] = {
        "one_hop": "The value of a key.",
        "two_hops": "The value of the value of a key.",
    }
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    slice_names: ClassVar[tuple[str, ...]] = ("one_hop", "two_hops")

    parameters: Parameters
    table: tuple[tuple[int, ...], ...]
    """`table[relation][key]` is a value, all counted from 0."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Facts":
        """Values are drawn independently, so that keys share values; never one value for a whole table."""
        p = VARIANTS[variant]
        generator = torch.Generator().manual_seed(seed)
        table = []
        while len(table) < p.n_relations:
            values = torch.randint(p.n_keys, (p.n_keys,), generator=generator)
            if len(values[values].unique()) > 1:
                table.append(tuple(values.tolist()))
        return cls(parameters=p, table=tuple(table))

    @property
    def n_pos(self) -> int:
        return HEADER + QUESTION * self.parameters.n_questions

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        tokens = self._tokens(generator, n)
        targets = torch.full_like(tokens, UNSUPERVISED)
        for end in range(HEADER + QUESTION - 1, self.n_pos, QUESTION):
            targets[:, end] = self.answer(tokens, torch.full_like(tokens[:, 0], end))
        return Batch(tokens=tokens, targets=targets)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """The key or the relation of one question is replaced by one that leads to another value."""
        p, device = self.parameters, generator.device
        clean = self._tokens(generator, n)
        question = torch.randint(p.n_questions, (n,), generator=generator, device=device)
        position = HEADER + QUESTION * question + QUESTION - 1
        key, relation, twice = self._read(clean, position)
        values = self._values(device)[:, twice].transpose(0, 1)  # batch relation key
        answer = self.answer(clean, position)
        differs = values != (answer - p.first_symbol)[:, None, None]
        # One place of the table, in the row of the relation or in the column of the key.
        same_relation = torch.arange(p.n_relations, device=device)[:, None] == relation[:, None, None]
        same_key = torch.arange(p.n_keys, device=device) == key[:, None, None]
        turn = torch.rand(n, generator=generator, device=device) < CHANGED_RELATIONS
        wanted = torch.where(turn[:, None, None], same_key, same_relation)
        rank = torch.rand(differs.shape, generator=generator, device=device)
        # Where no other relation has another value for this key, the key is changed after all.
        score = rank + 2 * (differs & wanted) + (differs & same_relation)
        place = score.flatten(1).argmax(dim=1)
        inside = torch.arange(self.n_pos, device=device)[None] - position[:, None]
        inside = (inside < 0) & (inside > -QUESTION)
        symbols = p.first_symbol + torch.stack([key, p.n_keys + relation])
        others = p.first_symbol + torch.stack([place % p.n_keys, p.n_keys + place // p.n_keys])
        corrupt = clean
        for symbol, other in zip(symbols, others, strict=True):
            corrupt = torch.where(inside & (clean == symbol[:, None]), other[:, None], corrupt)
        return Prompts(
            clean=clean,
            corrupt=corrupt,
            position=position,
            answer=answer,
            corrupt_answer=self.answer(corrupt, position),
            slice=twice,
            slice_names=self.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        key, relation, twice = self._read(tokens, position)
        return self.parameters.first_symbol + self._values(tokens.device)[relation, twice, key]

    def _values(self, device: torch.device) -> Int[Tensor, "relation hop key"]:
        """Values after one and after two hops."""
        once = torch.tensor(self.table, device=device)
        return torch.stack([once, once.gather(1, once)], dim=1)

    def _read(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Key, relation and whether two hops are asked for, of the question that ends at `position`."""
        p = self.parameters
        places = position[:, None] - torch.arange(QUESTION - 1, 0, -1, device=tokens.device)
        words = tokens.gather(1, places)
        keys = (words >= p.first_symbol) & (words < p.first_symbol + p.n_keys)
        relations = (words >= p.first_symbol + p.n_keys) & (words < p.first_symbol + p.n_keys + p.n_relations)
        key = (words * keys).sum(1) - p.first_symbol
        relation = (words * relations).sum(1) - p.first_symbol - p.n_keys
        return key, relation, (words == TWICE).any(1).long()

    def _tokens(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch pos"]:
        p, device = self.parameters, generator.device
        shape = (n, p.n_questions)
        key = torch.randint(p.n_keys, shape, generator=generator, device=device)
        relation = torch.randint(p.n_relations, shape, generator=generator, device=device)
        word = ONCE[0] + torch.randint(len(ONCE), shape, generator=generator, device=device)
        twice = torch.rand(shape, generator=generator, device=device) < p.two_hops
        word = torch.where(twice, TWICE, word)
        parts = torch.stack([p.first_symbol + key, p.first_symbol + p.n_keys + relation, word], dim=2)
        order = torch.tensor(p.templates, device=device)
        template = torch.randint(len(order), shape, generator=generator, device=device)
        query = torch.full((*shape, 1), QUERY, device=device)
        questions = torch.cat([parts.gather(2, order[template]), query], dim=2).flatten(1)
        header = torch.tensor([BOS, self.marker], device=device).expand(n, HEADER)
        return torch.cat([header, questions], dim=1)
