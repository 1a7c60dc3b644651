"""Families given by a rule: they draw prompts, say what follows each position, corrupt. The rest is here.

What a new family writes is `make`, whose seed may draw a private truth, `draw`, `targets`, `corrupt` and,
if its probes fall into slices, `slices`. `docs/tasks.md` leads through one.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.tasks.base import BOS, UNSUPERVISED, Batch, Task
from data_gen.tasks.drawing import at_position, pick
from metamodel.circuits.prompts import Prompts
from metamodel.config import require
from metamodel.config.errors import require_one_of

Tokens = Int[Tensor, "batch pos"]
Mask = Bool[Tensor, "batch pos"]
Positions = Int[Tensor, " batch"]
"""One position of each prompt."""
HEADER = 2
"""Tokens before the body of a prompt: BOS and the marker."""
MOST_ROUNDS = 50
"""Draws of candidates after which a corruption that hardly ever changes the answer is given up."""


class RuleTask(Task):
    """A task whose targets are a function of the prompt."""

    threshold: ClassVar[float] = 0.9
    length: ClassVar[int] = 16
    """Tokens of a prompt, BOS and marker included."""

    @abstractmethod
    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        """`n` whole prompts, vectorised; `self.prompt(body)` puts BOS and marker before them."""

    @abstractmethod
    def targets(self, tokens: Tokens) -> Tokens:
        """The right token after each position, or UNSUPERVISED. Looks at no token behind that position."""

    @abstractmethod
    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        """Prompts changed in the way that `corruptions` calls `name`, such that the answer may change.

        Changes of the header and behind `position` are undone, and pairs of no use are dropped, so neither
        needs care.
        """

    def slices(self, tokens: Tokens) -> Tokens:
        """To which slice of `battery` the question after each position belongs, where one is asked."""
        return torch.zeros_like(tokens)

    @property
    def n_pos(self) -> int:
        return self.length

    def prompt(self, body: Int[Tensor, "batch place"]) -> Tokens:
        """BOS, marker, body."""
        header = torch.tensor([BOS, self.marker], device=body.device).expand(len(body), HEADER)
        return torch.cat([header, body], dim=1)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        tokens = self.draw(generator, n)
        return Batch(tokens=tokens, targets=self.targets(tokens))

    def answer(self, tokens: Tokens, position: Positions) -> Positions:
        return at_position(self.targets(tokens), position)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """As of `Task`: each pair is corrupted in one of the ways, at random."""
        names = tuple(self.corruptions)
        way = torch.randint(len(names), (n,), generator=generator, device=generator.device)
        pairs = [
            self._pairs(name, generator, count)
            for name, count in zip(names, way.bincount(minlength=len(names)).tolist(), strict=True)
            if count > 0
        ]
        back = way.argsort(stable=True).argsort()  # pairs lie sorted by way; each goes where it was drawn
        clean, corrupt, position = (torch.cat(parts)[back] for parts in zip(*pairs, strict=True))
        return self._as_prompts(clean, corrupt, position)

    def prompts_of(self, corruption: str, generator: torch.Generator, n: int) -> Prompts:
        """As `prompts`, all corrupted in one way.

        Raises: InputError for an unknown corruption, or one that hardly ever changes the answer.
        """
        require_one_of(corruption, self.corruptions, f"task.{self.family}.corruption")
        return self._as_prompts(*self._pairs(corruption, generator, n))

    def _pairs(self, corruption: str, generator: torch.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean and corrupt prompts and the positions of their answers: the first `n` pairs of use."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        n_found = 0
        for _ in range(MOST_ROUNDS):
            clean = self.draw(generator, 2 * n + 32)
            asked = self.targets(clean) != UNSUPERVISED
            wanted = torch.randint(
                len(self.battery), (len(clean), 1), generator=generator, device=clean.device
            )
            position = pick(generator, asked & (self.slices(clean) == wanted)).clamp(min=HEADER)
            corrupt = self.corrupt(corruption, generator, clean, position)
            place = torch.arange(self.n_pos, device=clean.device)
            corrupt = torch.where((place >= HEADER) & (place <= position[:, None]), corrupt, clean)
            good = self._of_use(clean, corrupt, position) & (
                at_position(self.slices(clean), position) == wanted[:, 0]
            )
            found.append((clean[good], corrupt[good], position[good]))
            n_found += int(good.sum())
            if n_found >= n:
                break
        require(
            n_found >= n,
            f"task.{self.family}.corrupt({corruption!r})",
            expected=f"{n} pairs of prompts whose right answers differ",
            got=f"{n_found} in {MOST_ROUNDS} draws of {2 * n + 32}",
            do="Let the corruption change the answer more often.",
        )
        clean, corrupt, position = (torch.cat(parts)[:n] for parts in zip(*found, strict=True))
        return clean, corrupt, position

    def _of_use(
        self,
        clean: Tokens,
        corrupt: Tokens,
        position: Positions,
    ) -> Bool[Tensor, " batch"]:
        """Whether both answers are defined and differ, and outputs in the prompt before them stay right."""
        targets, others = self.targets(clean), self.targets(corrupt)
        answer, other = at_position(targets, position), at_position(others, position)
        good = (answer != other) & (answer != UNSUPERVISED) & (other != UNSUPERVISED)
        if not self.causal_only:
            return good
        right, still_right = clean[:, 1:] == targets[:, :-1], corrupt[:, 1:] == others[:, :-1]
        before = torch.arange(self.n_pos - 1, device=clean.device) < position[:, None]
        return good & (still_right | ~right | ~before).all(dim=1)

    def _as_prompts(self, clean: Tensor, corrupt: Tensor, position: Tensor) -> Prompts:
        return Prompts(
            clean=clean,
            corrupt=corrupt,
            position=position,
            answer=self.answer(clean, position),
            corrupt_answer=self.answer(corrupt, position),
            slice=at_position(self.slices(clean), position),
            slice_names=tuple(self.battery),
        )
