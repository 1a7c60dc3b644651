"""Two ways to write a rule that was inferred without training: preconditioned steps, and fine-tuning.

The second, self-labelling, was the strongest opponent of the pilot.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.editing.adam import Setting, trained
from metamodel.baselines.editing.aims import Aims, balanced
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.closed_form import solved
from metamodel.baselines.editing.inferred import SAID, UNEMBEDDING, inferred
from metamodel.baselines.editing.suffix import Suffix, suffix
from metamodel.baselines.editing.tuning import Choices, Judge, family_of, tuned
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

FLOOR = 0.01
"""Part of what is wanted that is spread over all tokens: certainty would ask for infinite logits."""
STEPS = (1, 2, 4, 8, 16)
RATES = (3.0, 10.0, 30.0, 100.0)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
ADAM_STEPS = (10, 20, 50, 100)
ADAM_RATES = (3e-3, 1e-2)
SUBSETS = ("all", "mlps", "last_writer")


def self_labelled(subject: Subject, examples: Examples, gram: int) -> tuple[Aims, Suffix]:
    """All examples with what the inferred rule wants of them; what stays keeps its whole distribution.

    Args:
        gram: which Gram matrix of the answers is matched.
    """
    found = inferred(subject, examples, gram)
    end = suffix(subject, examples.tokens, examples.position)
    old = end.logits().softmax(-1)
    new = torch.zeros_like(old)
    new[:, examples.answers] = found.wanted.to(old.dtype)
    new = (1 - FLOOR) * new + FLOOR / old.shape[-1]
    target = torch.where(found.inside[:, None], new, old)
    aims = Aims(
        tokens=examples.tokens,
        position=examples.position,
        target=target,
        weight=balanced(found.inside, target),
    )
    return aims, end


def preconditioned(
    end: Suffix, aims: Aims, steps: int, rate: float, ridge: float
) -> dict[int, Float[Tensor, "unit d_model"]]:
    """Changes of the last writing matrix after 1 to `steps` steps of `-rate (C + λI)⁻¹ Uᵀ D`, where U is what
    the matrix reads, C its second moment under the aims' weights, and D the gradient of what it writes."""
    weight = (aims.weight / aims.weight.sum())[:, None]
    read = end.hidden
    project = solved(read.T @ (weight * read), (weight * read).T, ridge)
    change = read.new_zeros(read.shape[1], end.stream.shape[1])
    found = {}
    for step in range(1, steps + 1):
        leaf = (end.stream + read @ change).detach().requires_grad_()
        loss = -(end.said(leaf).log_softmax(-1) * aims.target).sum()
        change = change - rate * (project @ torch.autograd.grad(loss, leaf)[0])
        found[step] = change
    return found


class ProfileMatch(Opponent):
    """The inferred rule, written by preconditioned steps at the last writing matrix."""

    def __init__(self, judge: Judge):
        self._judge = judge
        self.chosen = (8, 3.0, 1e-2, SAID)
        """Steps, rate, ridge, and Gram matrix of the answers."""
        self.chosen_for: Choices[tuple[int, float, float, int]] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return "profile_match"

    def tune(self, episodes: Sequence[Episode]) -> None:
        def proposals(episode: Episode) -> Iterable[tuple[tuple[int, float, float, int], Changes]]:
            for gram in (SAID, UNEMBEDDING):
                aims, end = self_labelled(episode.editable.subject, episode.examples, gram)
                for rate, ridge in itertools.product(RATES, RIDGES):
                    found = preconditioned(end, aims, max(STEPS), rate, ridge)
                    yield from (((k, rate, ridge, gram), end.written(found[k])) for k in STEPS)

        self.chosen, self.chosen_for = tuned(episodes, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        steps, rate, ridge, gram = self.chosen_for.get(family_of(kind), self.chosen)
        aims, end = self_labelled(subject, examples, gram)
        return end.written(preconditioned(end, aims, steps, rate, ridge)[steps])


class SelfLabel(Opponent):
    """The inferred rule labels every example, and Adam is trained on all of them."""

    def __init__(self, judge: Judge):
        self._judge = judge
        self.chosen = Setting(steps=50, learning_rate=1e-2, subset="mlps"), SAID
        """And which Gram matrix of the answers is matched."""
        self.chosen_for: Choices[tuple[Setting, int]] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return "self_label"

    def tune(self, episodes: Sequence[Episode]) -> None:
        pairs = list(itertools.product(ADAM_RATES, SUBSETS))

        def proposals(episode: Episode) -> Iterable[tuple[tuple[Setting, int], Changes]]:
            subject = episode.editable.subject
            for gram in (SAID, UNEMBEDDING):
                aims, _ = self_labelled(subject, episode.examples, gram)
                for k, changes in trained(subject, aims, pairs, ADAM_STEPS).items():
                    for (rate, subset), change in zip(pairs, changes, strict=True):
                        yield (Setting(steps=k, learning_rate=rate, subset=subset), gram), change

        self.chosen, self.chosen_for = tuned(episodes, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        pick, gram = self.chosen_for.get(family_of(kind), self.chosen)
        aims, _ = self_labelled(subject, examples, gram)
        found = trained(subject, aims, [(pick.learning_rate, pick.subset)], [pick.steps])
        return found[pick.steps][0]
