"""Indirect-object identification: two are named, one acts, and the other is asked for. Grows name movers.

A prompt is `[BOS, marker, episode, episode, ...]`, cut at a fixed length. An episode names two, says
where or what, repeats one name (the subject of the second clause) and asks, at QUERY, for the other one
(the indirect object), who is then named. Templates differ in order, length and fillers; either name may be
repeated (ABBA, BABA), so that no position tells the answer. Every QUERY is supervised: with one question a
prompt, training stalls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import (
    BOS,
    FIRST_MARKER,
    FIRST_SYMBOL,
    N_SYMBOLS,
    QUERY,
    UNSUPERVISED,
    Batch,
    Task,
)
from data_gen.tasks.statements import Algorithm, solved_by
from metamodel.circuits.prompts import Prompts

FIRST, SECOND, REPEATED, PLACE, VERB, ASK, OTHER = range(7)
"""Roles of tokens: the two names, the repeated one, a place, a verb, QUERY and the name that answers it."""
_ROLE = {"A": FIRST, "B": SECOND, "S": REPEATED, "p": PLACE, "v": VERB, "?": ASK, "X": OTHER}
HEADER = 2
"""Tokens before the first episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What distinguishes the variants."""

    templates: tuple[str, ...]
    """One letter a token: names A and B, the repeated name S, p place, v verb, ? QUERY, X the answer."""
    n_names: int = 30
    """Symbols that are names; the rest are shared out between places and verbs."""

    def __post_init__(self):
        assert 8 <= self.n_names <= N_SYMBOLS - 2
        assert all(set(t) <= set(_ROLE) and t.endswith("?X") for t in self.templates)


VARIANTS = {
    "base": Parameters(templates=("ABS?X", "ABpS?X", "pABS?X", "AvBS?X", "ABSv?X")),
    "wordy": Parameters(templates=("ABpvS?X", "ApBvS?X", "vABpS?X", "ABvSp?X"), n_names=24),
    "few_names": Parameters(templates=("ABvS?X", "ApBS?X", "ABSp?X"), n_names=12),
}


class _Layout(NamedTuple):
    """Where things lie in each prompt, `[batch, pos]` after the header, and who is repeated."""

    role: Int[Tensor, "batch pos"]
    episode: Int[Tensor, "batch pos"]
    template: Int[Tensor, "batch pos"]
    repeats_second: Int[Tensor, "batch episode"]
    """1 where the second name is repeated (ABBA), 0 where the first is (BABA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndirectObject(Task):
    """Who was the other one?"""

    family: ClassVar[str] = "ioi"
    marker: ClassVar[int] = FIRST_MARKER + 1
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = (
        "name movers: heads that attend to the two names and copy the one that is not repeated"
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(
        inhibition="token->repeated.qkv repeated->mover.q token->mover.kv mover->output",
        counting="position->named.k token->named.kv named->output",
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "cast": "Every episode takes the names of another one and repeats the other of its two names, so that"
        " both who may be asked for and who is differ.",
    }
    battery: ClassVar[Mapping[str, str]] = {
        "BABA": "One slice a template: the first name is repeated, the second asked for.",
        "ABBA": "One slice a template: the second name is repeated, the first asked for.",
    }
    causal_only: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)

    parameters: Parameters
    words: tuple[int, ...]
    """This subject's vocabulary: first its names, then places, then verbs, drawn from all symbols."""
    length: int = 16
    """Tokens of a prompt, BOS and marker included."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "IndirectObject":
        """Which symbols are names, places and verbs is drawn from `seed`."""
        order = torch.randperm(N_SYMBOLS, generator=torch.Generator().manual_seed(seed)) + FIRST_SYMBOL
        return cls(parameters=VARIANTS[variant], words=tuple(order.tolist()))

    @property
    def n_pos(self) -> int:
        return self.length

    @property
    def _n_places(self) -> int:
        return (N_SYMBOLS - self.parameters.n_names) // 2

    def _layout(self, generator: torch.Generator, n: int) -> _Layout:
        templates = self.parameters.templates
        lengths = torch.tensor([len(t) for t in templates])
        longest = int(lengths.max())
        roles = torch.tensor([[_ROLE[c] for c in t.ljust(longest, "X")] for t in templates])
        n_pos = self.length - HEADER
        n_episodes = -(-n_pos // int(lengths.min()))
        chosen = torch.randint(len(templates), (n, n_episodes), generator=generator)
        ends = lengths[chosen].cumsum(1)
        place = torch.arange(n_pos).expand(n, -1).contiguous()
        episode = torch.searchsorted(ends, place, right=True)
        template = chosen.gather(1, episode)
        inside = place - (ends - lengths[chosen]).gather(1, episode)
        repeats_second = torch.randint(2, (n, n_episodes), generator=generator)
        return _Layout(roles[template, inside], episode, template, repeats_second)

    def _cast(self, generator: torch.Generator, n: int, n_episodes: int) -> Int[Tensor, "batch episode role"]:
        """Words of each role in each episode; no name is cast twice in a prompt. Roles as in the legend."""
        words = torch.tensor(self.words)
        n_names, n_places = self.parameters.n_names, self._n_places
        names = (
            torch.rand(n, n_names, generator=generator).argsort(1)[:, : 2 * n_episodes].view(n, n_episodes, 2)
        )
        place = torch.randint(n_places, (n, n_episodes, 1), generator=generator) + n_names
        verb = torch.randint(n_places, (n, n_episodes, 1), generator=generator) + n_names + n_places
        return words[torch.cat([names, place, verb], dim=2)]

    def _tokens(self, layout: _Layout, cast: Tensor, repeats_second: Tensor) -> Int[Tensor, "batch pos"]:
        first, second, place, verb = cast.unbind(2)
        swap = repeats_second.bool()
        repeated, other = torch.where(swap, second, first), torch.where(swap, first, second)
        by_role = torch.stack([first, second, repeated, place, verb, torch.full_like(first, QUERY), other], 2)
        body = by_role.flatten(1).gather(1, layout.episode * by_role.shape[2] + layout.role)
        head = torch.tensor([BOS, self.marker]).expand(len(body), HEADER)
        return torch.cat([head, body], dim=1)

    def _answers(self, layout: _Layout, cast: Tensor, repeats_second: Tensor) -> Int[Tensor, "batch pos"]:
        """The answer of the episode that each position belongs to."""
        other = torch.where(repeats_second.bool(), cast[:, :, FIRST], cast[:, :, SECOND])
        return other.gather(1, layout.episode)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        layout = self._layout(generator, n)
        cast = self._cast(generator, n, layout.repeats_second.shape[1])
        answers = self._answers(layout, cast, layout.repeats_second)
        targets = torch.where(layout.role == ASK, answers, UNSUPERVISED)
        return Batch(
            tokens=self._tokens(layout, cast, layout.repeats_second),
            targets=torch.cat([torch.full((n, HEADER), UNSUPERVISED), targets], dim=1),
        )

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """The corrupt prompt has the same templates, other names, and repeats the other one of each pair."""
        layout = self._layout(generator, n)
        n_episodes = layout.repeats_second.shape[1]
        cast = self._cast(generator, n, n_episodes)
        other = cast.roll(1, dims=1)  # names of another episode, so that none stays where it was
        flipped = 1 - layout.repeats_second
        at = torch.multinomial((layout.role == ASK).float(), 1, generator=generator)
        order = layout.repeats_second.gather(1, layout.episode.gather(1, at))
        return Prompts(
            clean=self._tokens(layout, cast, layout.repeats_second),
            corrupt=self._tokens(layout, other, flipped),
            position=at[:, 0] + HEADER,
            answer=self._answers(layout, cast, layout.repeats_second).gather(1, at)[:, 0],
            corrupt_answer=self._answers(layout, other, flipped).gather(1, at)[:, 0],
            slice=(2 * layout.template.gather(1, at) + order)[:, 0],
            slice_names=tuple(f"{t} {o}" for t in self.parameters.templates for o in ("BABA", "ABBA")),
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """Of the three names before the QUERY at `position`, the one that occurs once."""
        return self._named(tokens, position, times=1)

    def candidate(self, prompts: Prompts) -> Int[Tensor, " batch"]:
        """Of the same three, the name that is repeated."""
        return self._named(prompts.clean, prompts.position, times=2)

    def _named(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"], *, times: int
    ) -> Int[Tensor, " batch"]:
        names = torch.tensor(self.words[: self.parameters.n_names], device=tokens.device)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        named = torch.isin(tokens, names) & (place < position[:, None])
        last = torch.where(named, place, -1).topk(3, dim=1).values
        three = tokens.gather(1, last)
        found = (three[:, :, None] == three[:, None, :]).sum(2) == times
        return three.gather(1, found.float().argmax(1, keepdim=True))[:, 0]
