"""Damaged copies: one component of a subject is scrambled, until a good part of its answers is wrong."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from data_gen.domains.base import Domain
from data_gen.episodes.training import answers_of
from metamodel.subjects.subject import Subject

LEAST_WRONG, MOST_WRONG = 0.1, 0.9
"""Shares of wrong answers, to what specifications may show, between which a copy counts as damaged."""
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""What is tried: the component removed, or noise of so many times its own size added."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Damaged:
    """A damaged copy."""

    subject: Subject
    what: str
    wrong: Bool[Tensor, " input"]
    """Inputs that it answers wrongly."""


def damaged(subject: Subject, domain: Domain, generator: torch.Generator, name: str) -> Damaged | None:
    """A copy one of whose heads or MLPs writes something else; None where nothing tried hurts moderately."""
    layers = range(subject.config.n_layers)
    places = [
        (f"blocks.{layer}.attn.W_O", head) for layer in layers for head in range(subject.config.n_heads)
    ]
    if subject.config.has_mlp:
        places += [(f"blocks.{layer}.mlp.W_out", None) for layer in layers]
    for which in torch.randperm(len(places), generator=generator).tolist():
        key, head = places[which]
        for strength in STRENGTHS:
            weight = subject.weights[key].clone()
            part = weight if head is None else weight[head]
            noise = torch.randn(part.shape, generator=generator) * part.std() * strength
            part.copy_(noise if strength == 0 else part + noise)
            copy = subject.with_weights({**subject.weights, key: weight}).named(name)
            wrong = answers_of(copy.stacked, copy.config, domain.tokens[None])[0] != domain.answer()
            if LEAST_WRONG <= float(wrong[~domain.unseen].float().mean()) <= MOST_WRONG:
                where = key.split(".")[1] + (".mlp" if head is None else f".head{head}")
                return Damaged(subject=copy, what=f"layer {where} x{strength:g}", wrong=wrong)
    return None
