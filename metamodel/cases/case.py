"""A solved edit: what was asked of one subject, and by which vectors its stream was moved."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.cases.signature import signature
from metamodel.features.observed import Observed, Told, last_writer
from metamodel.subjects.canonical import folded, whitening
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One solved edit of one subject, on the examples of its specification."""

    name: str
    """Of its subject."""
    tokens: Int[Tensor, "example pos"]
    role: Int[Tensor, " example"]
    said: Int[Tensor, " example"]
    """Answers before, as indices into the candidate answers in the order of tokens."""
    streams: Float[Tensor, "2 example d_model"]
    """The residual stream in front of the last matrix that writes and behind it, before the edit, in
    canonical form."""
    moved: Float[Tensor, "example d_model"]
    """What the edit added to it."""
    answers: Int[Tensor, " answer"]
    """Candidate answers, and"""
    readout: Float[Tensor, "answer d_model"]
    """their columns of the unembedding, in canonical form."""
    signature: Float[Tensor, " statistic"]


@torch.no_grad()
def case_of(name: str, told: Told, seen: Observed, moved: Float[Tensor, "example d_model"]) -> Case:
    """What was asked of one subject, and the vectors by which its stream was moved on the same examples.

    On the CPU, wherever the subject is.
    """
    parts = {
        "tokens": told.tokens[0],
        "role": told.role[0],
        "said": ranked(told, seen),
        "streams": streams_of(told, seen),
        "moved": moved,
        "answers": answers_of(told),
        "readout": readout_of(told),
        "signature": signature(told, seen),
    }
    return Case(name=name, **{key: part.cpu() for key, part in parts.items()})


@torch.no_grad()
def moved_stream(subject: Subject, edited: Subject, told: Told) -> Float[Tensor, "example d_model"]:
    """What an edit added to the last residual stream where answers are asked for, in canonical form."""
    config, tap = subject.config, f"blocks.{subject.config.n_layers - 1}.hook_resid_post"
    tokens, position = told.tokens[0], told.position[0]
    before, after = (
        forward(one.double().stacked, config, tokens, taps=[tap]).taps[tap][0] for one in (subject, edited)
    )
    moved = (after - before)[torch.arange(len(tokens), device=tokens.device), position]
    if config.has_norm:
        # what all coordinates have in common no reader sees
        return moved - moved.mean(-1, keepdim=True)
    return moved @ whitening(folded(subject.double()))[0]


def streams_of(told: Told, seen: Observed) -> Float[Tensor, "2 example d_model"]:
    """A subject's residual stream on one specification, in front of its last matrix and behind it."""
    behind = seen.stream[0]
    matrix = told.weights[last_writer(told.config)][0].flatten(0, -2)
    return torch.stack([behind - seen.hidden[0] @ matrix, behind])


def answers_of(told: Told) -> Int[Tensor, " answer"]:
    """Candidate answers of one specification."""
    return told.answers[0][told.answer_mask[0]]


def readout_of(told: Told) -> Float[Tensor, "answer d_model"]:
    """Their columns of the unembedding: a rotation of the stream is one of them too."""
    return told.weights["unembed.W_U"][0][:, answers_of(told)].T


def ranked(told: Told, seen: Observed) -> Int[Tensor, " example"]:
    """Answers before, as ranks among the candidates in the order of their tokens: these have no other."""
    order = told.answers[0].argsort().argsort()
    return order[seen.old[0].argmax(-1)]
