"""A learned editor in the style of MEND (Mitchell et al. 2022), one for all subjects of the commonest shape.

It reads what the last MLP's two matrices read (u) and the gradient of what they write (δ) on the pairs, and
changes both in their own coordinates before they are multiplied. It starts as a gradient step. Subjects do
not share coordinates, which is why such editors are made for one network (`mend_alone`). Subjects of other
shapes get a tuned gradient step.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.editing.aims import Aims, loss, truth, wanted_distribution
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.fine_tuning import GradientStep
from metamodel.baselines.editing.learning import learn, seeded
from metamodel.baselines.editing.tuning import Choices, Judge, family_of, tuned
from metamodel.config.edits import PAIR
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.subjects.last_mlp import LastMlp, last_mlp_behind, last_mlp_names
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

RANK, STEPS, BATCH, LEARNING_RATE, FIRST_RATE = 32, 400, 6, 1e-3, 0.1
SCALES = (0.3, 1.0, 3.0)
TINY = 1e-6


@torch.no_grad()
def last_mlp(subject: Subject, tokens: Tensor, position: Tensor) -> LastMlp:
    """Runs a subject once."""
    tap = f"blocks.{subject.config.n_layers - 1}.hook_resid_mid"
    rows = torch.arange(len(tokens)), position
    run = forward(subject.stacked, subject.config, tokens, taps=[tap])
    return last_mlp_behind(subject, run.taps[tap][0][rows])


Factors = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(u, δ) of W_in and of W_out, each `[pair, ...]`."""


def factors(subject: Subject, examples: Examples) -> Factors:
    """Of the mean loss on the pairs: `uᵀδ` is the gradient of each matrix."""
    pair = examples.role == PAIR
    end = last_mlp(subject, examples.tokens[pair], examples.position[pair])
    target = wanted_distribution(examples.wanted[pair], examples.answers, subject.config.d_vocab)
    zero = torch.zeros((), requires_grad=True)
    logits, before, hidden, written = end.said(zero, zero)
    total = -(logits.log_softmax(-1) * target).sum(-1).mean()
    into, out = torch.autograd.grad(total, [before, written])
    return (end.read, into), (hidden.detach(), out)


class Factored(nn.Module):
    """One matrix: standardised u and δ plus a low-rank residual, times a learned rate."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]):
        super().__init__()
        read, slope = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        self.scale: Tensor
        self.register_buffer("scale", torch.cat([read, slope], dim=1).square().mean(0).sqrt() + TINY)
        width = len(self.scale)
        self.down, self.up = nn.Linear(width, RANK), nn.Linear(RANK, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.rate = nn.Parameter(torch.tensor(FIRST_RATE).log())
        self.n_in = read.shape[1]

    def forward(self, read: Tensor, slope: Tensor) -> Float[Tensor, "n_in n_out"]:
        both = torch.cat([read, slope], dim=1) / self.scale
        both = (both + self.up(self.down(both).relu())) * self.scale
        return -self.rate.exp() * both[:, : self.n_in].T @ both[:, self.n_in :]


class Mend(Opponent):
    """One editor of the last MLP for the commonest shape."""

    def __init__(self, judge: Judge, *, steps: int = STEPS):
        self._judge, self._steps = judge, steps
        self._otherwise = GradientStep(judge)
        self._shape: SubjectConfig | None = None
        self._networks = nn.ModuleList()
        self.chosen = 1.0
        self.chosen_for: Choices[float] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return "mend"

    def tune(self, episodes: Sequence[Episode]) -> None:
        self._otherwise.tune(episodes)
        shapes = Counter(e.editable.subject.config for e in episodes if e.editable.subject.config.has_mlp)
        if not shapes:
            return
        self._shape = shapes.most_common(1)[0][0]
        own = [episode for episode in episodes if episode.editable.subject.config == self._shape]
        read = [factors(episode.editable.subject, episode.examples) for episode in own]
        with seeded():
            self._networks = nn.ModuleList(Factored([one[i] for one in read]) for i in range(2))
        losses = [
            partial(self._loss, *one) for one in zip(map(_domain, own), map(truth, own), read, strict=True)
        ]
        learn(self._networks, losses, steps=self._steps, batch_size=BATCH, learning_rate=LEARNING_RATE)

        def proposals(episode: Episode) -> Iterable[tuple[float, Changes]]:
            found = self._proposed(episode.editable.subject, episode.examples)
            yield from ((scale, {k: scale * v for k, v in found.items()}) for scale in SCALES)

        self.chosen, self.chosen_for = tuned(own, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        if subject.config != self._shape:
            return self._otherwise.propose(subject, examples, kind)
        scale = self.chosen_for.get(family_of(kind), self.chosen)
        return {k: scale * v for k, v in self._proposed(subject, examples).items()}

    def _loss(self, end: LastMlp, aims: Aims, read: Factors) -> Tensor:
        return loss(end.said(*self._both(read))[0], aims)

    def _both(self, read: Factors) -> list[Tensor]:
        return [network(*one) for network, one in zip(self._networks, read, strict=True)]

    def _proposed(self, subject: Subject, examples: Examples) -> dict[str, Tensor]:
        both = self._both(factors(subject, examples))
        return dict(zip(last_mlp_names(subject.config), both, strict=True))


def _domain(episode: Episode) -> LastMlp:
    tokens = episode.editable.tokens
    return last_mlp(episode.editable.subject, tokens, torch.full((len(tokens),), tokens.shape[1] - 1))
