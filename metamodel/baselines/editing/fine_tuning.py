"""Gradient methods: none, one step, tuned Adam, and Adam on the readout alone.

Properly tuned fine-tuning is the gate: it beats most published editors.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from metamodel.baselines.editing.adam import SUBSETS, Setting, logits_of, names_of, trained
from metamodel.baselines.editing.aims import Aims, loss, told
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.tuning import (
    ALL,
    Choices,
    Judge,
    best,
    chosen,
    family_of,
    mean_scores,
    tuned,
)
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

STEPS = (1, 2, 5, 10, 20, 50, 100)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
GRADIENT_RATES = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class NoOp(Opponent):
    """Changes nothing."""

    @property
    def name(self) -> str:
        return "no_op"

    def tune(self, episodes: Sequence[Episode]) -> None:
        """Nothing to choose."""

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        return {}


def gradient(subject: Subject, aims: Aims, names: Sequence[str]) -> dict[str, Tensor]:
    """Gradient of the loss with respect to some weights."""
    leaves = {name: subject.weights[name].detach()[None].requires_grad_() for name in names}
    if not leaves:
        return {}
    total = loss(logits_of(subject, aims, names)(subject.stacked | leaves), aims).sum()
    slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {name: g[0] for name, g in zip(leaves, slopes, strict=True) if g is not None}


class GradientStep(Opponent):
    """One step down the gradient of the pairs' loss; what is to be kept has no gradient before the step."""

    def __init__(self, judge: Judge):
        self._judge = judge
        self.chosen: tuple[float, str] = (0.1, "last_writer")
        """Learning rate and subset of matrices."""
        self.chosen_for: Choices[tuple[float, str]] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return "gradient_step"

    def tune(self, episodes: Sequence[Episode]) -> None:
        def proposals(episode: Episode) -> Iterable[tuple[tuple[float, str], Changes]]:
            for subset in SUBSETS:
                slope = self._gradient(episode.editable.subject, episode.examples, subset)
                for rate in GRADIENT_RATES:
                    yield (rate, subset), {k: -rate * v for k, v in slope.items()}

        self.chosen, self.chosen_for = tuned(episodes, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        rate, subset = self.chosen_for.get(family_of(kind), self.chosen)
        return {k: -rate * v for k, v in self._gradient(subject, examples, subset).items()}

    @staticmethod
    def _gradient(subject: Subject, examples: Examples, subset: str) -> dict[str, Tensor]:
        return gradient(subject, told(subject, examples, keeps=False), names_of(subject.config, subset))


class FineTuning(Opponent):
    """Adam with the best number of steps, learning rate and subset of matrices."""

    def __init__(
        self, judge: Judge, *, keeps: bool = True, subsets: tuple[str, ...] = SUBSETS, name: str = ""
    ):
        """Args:
        keeps: whether inputs to keep are trained on, with the KL divergence from the answers before.
        """
        self._judge, self._keeps, self._subsets = judge, keeps, subsets
        self._name = name or ("fine_tuning" if keeps else "fine_tuning_without_keeps")
        self.chosen = Setting(steps=50, learning_rate=1e-2, subset=subsets[0])
        self.best_at = {k: Setting(steps=k, learning_rate=1e-2, subset=subsets[0]) for k in STEPS}
        """The best setting with each number of steps."""
        self.chosen_for: Choices[Setting] = {}
        self.best_at_for: dict[str, dict[int, Setting]] = {}
        """Both by family of kinds."""

    @property
    def name(self) -> str:
        return self._name

    def tune(self, episodes: Sequence[Episode]) -> None:
        pairs = list(itertools.product(RATES, self._subsets))

        def proposals(episode: Episode) -> Iterable[tuple[Setting, Changes]]:
            aims = self._aims(episode.editable.subject, episode.examples)
            for k, changes in trained(episode.editable.subject, aims, pairs, STEPS).items():
                for (rate, subset), change in zip(pairs, changes, strict=True):
                    yield Setting(steps=k, learning_rate=rate, subset=subset), change

        found = mean_scores(episodes, proposals, self._judge)
        self.chosen, self.chosen_for = chosen(found, self.chosen)
        for family in found:
            at = {
                k: best({s: v for s, v in found[family].items() if s.steps == k}, self.best_at[k])
                for k in STEPS
            }
            self.best_at_for[family] = at
        self.best_at = self.best_at_for[ALL]

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        chosen = self.chosen_for.get(family_of(kind), self.chosen)
        return self.with_setting(subject, examples, chosen)

    def with_setting(self, subject: Subject, examples: Examples, setting: Setting) -> Changes:
        """What a setting proposes that was perhaps not chosen."""
        chosen = [(setting.learning_rate, setting.subset)]
        return trained(subject, self._aims(subject, examples), chosen, [setting.steps])[setting.steps][0]

    def scores_by_steps(self, episode: Episode) -> dict[int, float]:
        """S after each number of steps, each with the best learning rate and subset for it."""
        subject = episode.editable.subject
        aims = self._aims(subject, episode.examples)
        alike: dict[tuple[float, str], list[int]] = {}
        best_at = self.best_at_for.get(family_of(episode.edit.kind), self.best_at)
        for k, setting in best_at.items():
            alike.setdefault((setting.learning_rate, setting.subset), []).append(k)
        found = {}
        for (
            how,
            steps,
        ) in alike.items():  # one training serves all numbers of steps with the same rate and subset
            for k, changes in trained(subject, aims, [how], steps).items():
                found[k] = self._judge(episode, changes[0])
        return dict(sorted(found.items()))

    def _aims(self, subject: Subject, examples: Examples) -> Aims:
        return told(subject, examples, keeps=self._keeps)


def readout(judge: Judge) -> FineTuning:
    """Fine-tuning of the unembedding alone."""
    return FineTuning(judge, subsets=("unembedding",), name="readout")
