"""Closed forms at one matrix: ridge regression and its relatives, from keys to what should be added to them.

Keys are what the matrix reads on the pairs, `K [pair, unit]`; residuals `R [pair, out]` what it should write
in addition; and C the second moment of what it reads on inputs that are to stay, or that nothing is known of.

    ridge       (KᵀK/n + wC + λI)⁻¹ KᵀR/n
    rome        C⁻¹Kᵀ (KC⁻¹Kᵀ)⁻¹ R                  Meng et al. 2022; MEMIT's with all pairs at once
    null space  PKᵀ (KPKᵀ + λI)⁻¹ R                 AlphaEdit, Fang et al. 2024; P projects out C's large part
    ultra edit  (KᵀK + wC + λI)⁻¹ KᵀR               UltraEdit, Gu et al. 2025; R from normalised gradients

λ is always relative to the mean eigenvalue of what it is added to.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.editing.aims import wanted_distribution
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.suffix import Suffix, suffix
from metamodel.baselines.editing.tuning import Choices, Judge, family_of, tuned
from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import last_writer
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

NEAR_ENOUGH = 0.01
"""KL divergence from what is wanted, in nats, at which an optimised output is left alone."""
MOST_STEPS = 25
TINY = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """What closed forms at one matrix compute with."""

    keys: Float[Tensor, "pair unit"]
    residual: Float[Tensor, "pair out"]
    keeps: Float[Tensor, "example unit"]
    """What the matrix reads on inputs to keep, and"""
    unlabelled: Float[Tensor, "other unit"]
    """on those that nothing is known of."""

    @property
    def moment(self) -> Float[Tensor, "unit unit2"]:
        """Second moment of both."""
        return second_moment(torch.cat([self.keeps, self.unlabelled]))


def second_moment(x: Float[Tensor, "example unit"]) -> Float[Tensor, "unit unit2"]:
    return x.T @ x / max(len(x), 1)


def optimised(
    start: Float[Tensor, "pair out"],
    said: Callable[[Tensor], Tensor],
    target: Float[Tensor, "pair d_vocab"],
    share: float,
) -> Float[Tensor, "pair out"]:
    """What must be added to `start` so that `said` gives what is wanted: normalised gradient steps, each of
    them `share` of the length of `start`, so that no scale of a subject overshoots."""
    length = share * start.norm(dim=-1, keepdim=True)
    entropy = -torch.special.xlogy(target, target).sum(-1)
    moved = torch.zeros_like(start)
    for _ in range(MOST_STEPS):
        leaf = (start + moved).detach().requires_grad_()
        loss = -(said(leaf).log_softmax(-1) * target).sum(-1)
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
        open_ = (loss.detach() - entropy > NEAR_ENOUGH)[:, None]
        if not bool(open_.any()):
            break
        moved = moved - open_ * length * slope / slope.norm(dim=-1, keepdim=True).clamp_min(TINY)
    return moved


def solved(matrix: Float[Tensor, "unit unit2"], right: Tensor, ridge: float) -> Tensor:
    """`(matrix + ridge · mean eigenvalue · I)⁻¹ right`, in float64."""
    double = matrix.double()
    size = double.diagonal().mean().clamp_min(TINY)
    eye = torch.eye(len(double), dtype=torch.float64)
    return torch.linalg.solve(double + ridge * size * eye, right.double()).to(right.dtype)


def ridge(material: Material, weight: float, ridge: float) -> Float[Tensor, "unit out"]:
    """Least squares between residuals on the pairs and nothing elsewhere."""
    keys, n = material.keys, max(len(material.keys), 1)
    return solved(keys.T @ keys / n + weight * material.moment, keys.T @ material.residual / n, ridge)


def rome(material: Material, ridge: float) -> Float[Tensor, "unit out"]:
    """The change of least effect on unlabelled inputs under which keys give their residuals exactly."""
    keys = material.keys
    turned = solved(second_moment(material.unlabelled), keys.T, ridge)
    gram = (keys @ turned).double()
    return turned @ (torch.linalg.pinv(gram, hermitian=True) @ material.residual.double()).to(keys.dtype)


def null_space(material: Material, threshold: float, ridge: float) -> Float[Tensor, "unit out"]:
    """Ridge inside the directions that inputs to keep and unlabelled ones hardly use.

    Args:
        threshold: relative to the largest eigenvalue of their moment.
    """
    eigenvalue, basis = torch.linalg.eigh(material.moment.double())
    free = basis[:, eigenvalue <= threshold * eigenvalue[-1]].to(material.keys.dtype)
    keys = material.keys @ free
    return free @ (keys.T @ solved(keys @ keys.T, material.residual, ridge))


def ultra_edit(material: Material, weight: float, ridge: float, rate: float) -> Float[Tensor, "unit out"]:
    """Ridge onto normalised gradients, each scaled by the likeness of its key to the normalised key.

    Statistics come from the specification itself, since no two subjects share coordinates: keys are
    standardised over inputs to keep and unlabelled ones, gradients divided by their root mean square.
    """
    keys, others = material.keys, torch.cat([material.keeps, material.unlabelled])
    normal = (keys - others.mean(0)) / others.std(0).clamp_min(1e-3 * others.std().clamp_min(TINY))
    slope = material.residual / material.residual.square().mean().sqrt().clamp_min(TINY)
    residual = rate * (keys * normal).sum(-1, keepdim=True) * slope / keys.shape[1]
    return solved(keys.T @ keys + weight * len(keys) * material.moment, keys.T @ residual, ridge)


def at_last_writer(subject: Subject, examples: Examples, share: float) -> Material:
    """Keys and optimised residuals at the last matrix that writes."""
    end, pair, target = _run(subject, examples)
    chosen = end.only(pair)
    return _material(end.hidden, examples, optimised(chosen.stream, end.said, target, share))


def at_readout(subject: Subject, examples: Examples, share: float) -> Material:
    """Keys and optimised residuals at the unembedding, where a residual is of logits."""
    end, pair, target = _run(subject, examples)
    logits = end.only(pair).logits()
    return _material(end.read, examples, optimised(logits, lambda x: x, target, share))


def downhill(subject: Subject, examples: Examples, share: float) -> Material:
    """Keys at the last matrix that writes, and the direction down the gradient of what it writes."""
    del share
    end, pair, target = _run(subject, examples)
    leaf = end.stream[pair].detach().requires_grad_()
    loss = -(end.said(leaf).log_softmax(-1) * target).sum()
    return _material(end.hidden, examples, -torch.autograd.grad(loss, leaf)[0])


def _run(subject: Subject, examples: Examples) -> tuple[Suffix, Tensor, Tensor]:
    end = suffix(subject, examples.tokens, examples.position)
    pair = examples.role == PAIR
    target = wanted_distribution(examples.wanted[pair], examples.answers, subject.config.d_vocab)
    return end, pair, target.to(end.stream.dtype)


def _material(read: Tensor, examples: Examples, residual: Tensor) -> Material:
    role = examples.role
    return Material(
        keys=read[role == PAIR],
        residual=residual,
        keeps=read[role == KEEP],
        unlabelled=read[role == UNLABELLED],
    )


class ClosedForm(Opponent):
    """One closed form at one matrix, with the step share and the numbers that its formula takes tuned."""

    def __init__(
        self,
        judge: Judge,
        name: str,
        solve: Callable[..., Tensor],
        *grid: Sequence[float],
        at: Callable[[Subject, Examples, float], Material] = at_last_writer,
        shares: Sequence[float] = (0.1, 0.3, 1.0),
    ):
        """Args:
        grid: what is tried for each number that `solve` takes after the material.
        """
        self._judge, self._name, self._solve, self._at = judge, name, solve, at
        self._shares, self._grid = tuple(shares), tuple(itertools.product(*grid))
        middle = self._grid[len(self._grid) // 2]
        self.chosen: tuple[float, ...] = (self._shares[len(self._shares) // 2], *middle)
        self.chosen_for: Choices[tuple[float, ...]] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return self._name

    def tune(self, episodes: Sequence[Episode]) -> None:
        def proposals(episode: Episode) -> Iterable[tuple[tuple[float, ...], Changes]]:
            subject = episode.editable.subject
            for share in self._shares:
                material = self._at(subject, episode.examples, share)
                for numbers in self._grid:
                    yield (share, *numbers), self._changes(subject, material, numbers)

        self.chosen, self.chosen_for = tuned(episodes, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        share, *numbers = self.chosen_for.get(family_of(kind), self.chosen)
        return self._changes(subject, self._at(subject, examples, share), numbers)

    def _changes(self, subject: Subject, material: Material, numbers: Sequence[float]) -> Changes:
        change = self._solve(material, *numbers)
        name = "unembed.W_U" if self._at is at_readout else last_writer(subject.config)
        return {name: change.reshape(subject.weights[name].shape)}


def closed_forms(judge: Judge) -> list[ClosedForm]:
    """All of them, with what is tried."""
    ridges, weights = (1e-3, 1e-2, 1e-1), (3e-3, 3e-2, 0.3)
    return [
        ClosedForm(judge, "ridge", ridge, weights, ridges),
        ClosedForm(judge, "readout_ridge", ridge, weights, ridges, at=at_readout),
        ClosedForm(judge, "rome", rome, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        ClosedForm(judge, "null_space", null_space, (1e-4, 1e-3, 1e-2, 1e-1), (1e-2, 1e-1, 1.0)),
        ClosedForm(
            judge,
            "ultra_edit",
            ultra_edit,
            (0.0, 0.3, 3.0),
            (1e-2, 1e-1),
            (0.1, 1.0, 10.0, 100.0),
            at=downhill,
            shares=(0.0,),
        ),
    ]
