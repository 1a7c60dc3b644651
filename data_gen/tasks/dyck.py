"""Dyck words with several kinds of brackets: which bracket closes what is open? Grows heads that gather.

A prompt is `[BOS, marker, bracket, bracket, ...]`, the beginning of a balanced string. After each bracket
behind which one is open, the closing bracket of the innermost open one is asked for; what follows is that
bracket or an opening one.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Dyck(RuleTask):
    """Closing brackets. Symbols: the opening brackets of all kinds, then the closing ones."""

    family = "dyck"
    marker = D_VOCAB - 3
    mechanism = "gathering: first-layer heads bring brackets, and the first MLP writes what closes"
    algorithms = solved_by(
        stack="token->count.v position->depth count->depth depth->innermost.qk token->innermost.kv"
        " position->innermost.k innermost->output"
    )
    corruptions = described(
        kind="The innermost open bracket is of another kind, and so is what closes it.",
        closed="The last opening bracket becomes the closing one of the bracket around it.",
    )
    battery = described(open="Just after an opening bracket.", closed="After a closing one.")
    causal_only = True
    variants = ("base", "two_kinds", "deep")

    kinds: int = 3
    deepest: int = 3

    @classmethod
    def make(cls, variant: str, seed: int) -> "Dyck":
        return {"base": cls(), "two_kinds": cls(kinds=2), "deep": cls(kinds=4, deepest=4)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape = (n, self.length - HEADER)
        opens, depth = [], torch.zeros(n, dtype=torch.long, device=generator.device)
        for turn in torch.rand(shape, generator=generator, device=depth.device).unbind(1):
            opens.append((depth == 0) | ((depth < self.deepest) & (turn < 0.5)))
            depth = depth + torch.where(opens[-1], 1, -1)
        kind = uniform(generator, 0, self.kinds - 1, shape)
        tokens = self.prompt(FIRST_SYMBOL + torch.where(torch.stack(opens, dim=1), kind, self.kinds))
        # A closing bracket takes its kind from what the prefix before it needs.
        needed = tokens.gather(1, self._innermost(tokens)[0]).roll(1, dims=1) + self.kinds
        return torch.where(tokens == FIRST_SYMBOL + self.kinds, needed, tokens)

    def _innermost(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Where the innermost bracket that is open after each position stands, and how many are open."""
        opening = among(tokens, FIRST_SYMBOL, self.kinds)
        closing = among(tokens, FIRST_SYMBOL + self.kinds, self.kinds)
        depth = (opening.long() - closing.long()).cumsum(1)
        reached = ((depth[:, :, None] == depth[:, None, :]) & opening[:, None, :]).tril()
        return (reached * torch.arange(self.n_pos, device=tokens.device)).amax(2), depth

    def targets(self, tokens: Tokens) -> Tokens:
        place, depth = self._innermost(tokens)
        return torch.where(depth > 0, tokens.gather(1, place) + self.kinds, UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (tokens >= FIRST_SYMBOL + self.kinds).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "kind":
            other = FIRST_SYMBOL + uniform(generator, 0, self.kinds - 1, position.shape)
            return put(tokens, at_position(self._innermost(tokens)[0], position), other)
        needed = at_position(self.targets(tokens), position - 1)
        opening = (at_position(tokens, position) < FIRST_SYMBOL + self.kinds) & (needed != UNSUPERVISED)
        return torch.where(opening[:, None], put(tokens, position, needed), tokens)
