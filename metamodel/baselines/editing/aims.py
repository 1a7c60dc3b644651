"""What a method aims at: a distribution over tokens for each input, and how much each input counts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.baselines.editing.base import Episode
from metamodel.config.edits import CHANCE, DERIVED, IN_SCOPE, KEEP, PAIR
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

UNLIKELY = 1.5
"""A removed answer may be so many times as likely as chance; scores allow somewhat more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aims:
    """Inputs with what they should be answered."""

    tokens: Int[Tensor, "example pos"]
    position: Int[Tensor, " example"]
    """Where the answer is asked for."""
    target: Float[Tensor, "example d_vocab"]
    weight: Float[Tensor, " example"]
    """Pairs, and what else is to change, sum to 1; inputs that stay sum to 1 as well, if there are any."""

    def only(self, among: Tensor) -> "Aims":
        """Those of some examples, chosen by a mask or by index."""
        return Aims(
            tokens=self.tokens[among],
            position=self.position[among],
            target=self.target[among],
            weight=self.weight[among],
        )


def loss(logits: Float[Tensor, "*rest example d_vocab"], aims: Aims) -> Float[Tensor, "*rest"]:
    """Weighted cross entropy. For inputs that stay it is the KL divergence from the answers before, and a
    constant."""
    return -((logits.log_softmax(-1) * aims.target).sum(-1) * aims.weight).sum(-1)


def old_logits(
    subject: Subject, tokens: Int[Tensor, "example pos"], position: Int[Tensor, " example"]
) -> Float[Tensor, "example d_vocab"]:
    """What a subject says before an edit."""
    with torch.no_grad():
        run = forward(subject.stacked, subject.config, tokens)
    return run.logits[0, torch.arange(len(tokens)), position]


def wanted_distribution(
    wanted: Int[Tensor, " example"], answers: Int[Tensor, " answer"], d_vocab: int
) -> Float[Tensor, "example d_vocab"]:
    """One token each, or all answers alike where CHANCE is wanted."""
    uniform = torch.zeros(d_vocab)
    uniform[answers] = 1 / len(answers)
    one = torch.nn.functional.one_hot(wanted.clamp_min(0), d_vocab).float()
    return torch.where((wanted == CHANCE)[:, None], uniform, one)


def told(subject: Subject, examples: Examples, *, keeps: bool = True) -> Aims:
    """The aims that a specification states: its pairs and, with `keeps`, its inputs to keep."""
    known = examples.role == PAIR
    known = known | (examples.role == KEEP) if keeps else known
    tokens, position = examples.tokens[known], examples.position[known]
    pair = examples.role[known] == PAIR
    old = old_logits(subject, tokens, position).softmax(-1)
    new = wanted_distribution(examples.wanted[known], examples.answers, subject.config.d_vocab)
    target = torch.where(pair[:, None], new.to(old.dtype), old)
    return Aims(tokens=tokens, position=position, target=target, weight=balanced(pair, target))


def right(
    logits: Float[Tensor, "*rest example d_vocab"],
    wanted: Int[Tensor, " example"],
    old: Int[Tensor, " example"],
    n_answers: int,
) -> Bool[Tensor, "*rest example"]:
    """Whether inputs are answered as wanted; CHANCE is wanted of the answer before, `old`."""
    likely = (logits.softmax(-1) * torch.nn.functional.one_hot(old, logits.shape[-1])).sum(-1)
    return torch.where(wanted == CHANCE, likely <= UNLIKELY / n_answers, logits.argmax(-1) == wanted)


def truth(episode: Episode) -> Aims:
    """What is truly wanted of all inputs of a domain: for the oracle, and to train what is trained."""
    subject, edit, tokens = episode.editable.subject, episode.edit, episode.editable.tokens
    position = torch.full((len(tokens),), tokens.shape[1] - 1)
    changes = (edit.scope == IN_SCOPE) | (edit.scope == DERIVED)
    old = old_logits(subject, tokens, position).softmax(-1)
    new = wanted_distribution(edit.wanted, episode.editable.answers, subject.config.d_vocab)
    target = torch.where(changes[:, None], new.to(old.dtype), old)
    return Aims(tokens=tokens, position=position, target=target, weight=balanced(changes, target))


def balanced(changes: Tensor, like: Tensor) -> Float[Tensor, " example"]:
    """Weights under which inputs that change and inputs that stay sum to 1 each."""
    n_changes, n_stays = changes.sum().clamp_min(1), (~changes).sum().clamp_min(1)
    return torch.where(changes, 1 / n_changes, 1 / n_stays).to(like.dtype)
