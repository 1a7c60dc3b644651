"""Repeated sequences: what followed this token last time follows it again. Grows induction heads.

A prompt is `[BOS, marker, filler.., u_1..u_k, filler.., u_1..u_k, u_1..]`, cut at a fixed length. Start,
period `k` and the gap between the first copy and the second are random in every prompt: with a fixed layout
small subjects copy by position instead and grow no induction head. Every token whose predecessor was seen
before is supervised.
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
    UNSUPERVISED,
    Batch,
    Task,
)
from data_gen.tasks.statements import Algorithm, solved_by
from metamodel.circuits.prompts import Prompts


class _Layout(NamedTuple):
    """Where things lie in each prompt, `[batch, pos]` or `[batch]`."""

    order: Int[Tensor, "batch pos"]
    """Which of the prompt's distinct symbols stands at each position after the marker."""
    following: Int[Tensor, "batch pos"]
    """Which symbol must follow, or UNSUPERVISED."""
    period: Int[Tensor, " batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated(Task):
    """Sequences that repeat."""

    family: ClassVar[str] = "repeated"
    marker: ClassVar[int] = FIRST_MARKER
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = (
        "induction: a previous-token head, then an induction head that matches and copies"
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(
        induction="position->previous.qk token->previous.v previous->match.k token->match.qv match->output"
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "symbols": "Every symbol is another one in the same layout, so that another one must follow.",
    }
    battery: ClassVar[Mapping[str, str]] = {"period": "One slice a period: how far back the match lies."}
    causal_only: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("base", "long", "few_symbols")

    length: int = 16
    """Tokens of a prompt, BOS and marker included."""
    shortest_period: int = 3
    longest_period: int = 5
    most_filler: int = 3
    """Odd tokens before the first copy."""
    most_gap: int = 2
    """Odd tokens between the first copy and the second."""
    n_symbols: int = N_SYMBOLS
    """Symbols in use, from the first on."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Repeated":
        """The rule is the same for every subject, so `seed` draws nothing: the data differ instead."""
        match variant:
            case "long":
                return cls(shortest_period=5, longest_period=7, most_filler=1, most_gap=2)
            case "few_symbols":
                return cls(n_symbols=24, shortest_period=4, longest_period=6, most_filler=1, most_gap=1)
        return cls()

    @property
    def n_pos(self) -> int:
        return self.length

    def _layout(self, generator: torch.Generator, n: int) -> _Layout:
        def draw(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (n, 1), generator=generator)

        period = draw(self.shortest_period, self.longest_period)
        start, gap = draw(0, self.most_filler), draw(0, self.most_gap)
        at = torch.arange(self.length - 2).expand(n, -1) - start  # position relative to the first copy
        later = at - period - gap  # position relative to the second copy
        in_first, in_later = (at >= 0) & (at < period), later >= 0
        # Fillers take the symbols after the period's own: first those before the copies, then those between.
        filler = period + torch.where(at < 0, at + start, at - period + start)
        order = torch.where(in_first, at, torch.where(in_later, later % period, filler))
        # Where a gap followed the first copy, its last symbol has two successors: the rule is silent once.
        silent = ~in_later | ((later == period - 1) & (gap > 0))
        return _Layout(order, torch.where(silent, UNSUPERVISED, (later + 1) % period), period[:, 0])

    def _symbols(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch symbol"]:
        """A random order of the symbols for each prompt."""
        return torch.rand(n, self.n_symbols, generator=generator).argsort(1) + FIRST_SYMBOL

    def _tokens(self, layout: _Layout, symbols: Tensor) -> Int[Tensor, "batch pos"]:
        head = torch.tensor([BOS, self.marker]).expand(len(symbols), 2)
        return torch.cat([head, symbols.gather(1, layout.order)], dim=1)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        layout, symbols = self._layout(generator, n), self._symbols(generator, n)
        asked = layout.following != UNSUPERVISED
        targets = torch.where(asked, symbols.gather(1, layout.following.clamp(min=0)), UNSUPERVISED)
        silent = torch.full((n, 2), UNSUPERVISED)
        return Batch(tokens=self._tokens(layout, symbols), targets=torch.cat([silent, targets], dim=1))

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """Clean and corrupt share the layout and no symbol, so that every part of the mechanism differs."""
        layout, symbols = self._layout(generator, n), self._symbols(generator, n)
        other = symbols.roll(symbols.shape[1] // 2, dims=1)
        asked = (layout.following != UNSUPERVISED).float()
        at = torch.multinomial(asked, 1, generator=generator)
        index = layout.following.gather(1, at)
        periods = range(self.shortest_period, self.longest_period + 1)
        return Prompts(
            clean=self._tokens(layout, symbols),
            corrupt=self._tokens(layout, other),
            position=at[:, 0] + 2,
            answer=symbols.gather(1, index)[:, 0],
            corrupt_answer=other.gather(1, index)[:, 0],
            slice=layout.period - self.shortest_period,
            slice_names=tuple(f"period {k}" for k in periods),
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """What followed the last earlier occurrence of the token at `position`."""
        here = tokens.gather(1, position[:, None])
        place = torch.arange(tokens.shape[1], device=tokens.device)
        earlier = (tokens == here) & (place < position[:, None])
        last = torch.where(earlier, place, -1).amax(1)
        return tokens.gather(1, (last + 1)[:, None])[:, 0]
