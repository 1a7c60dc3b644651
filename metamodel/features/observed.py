"""What an editor observes of subjects on the examples of a specification: invariants, and what to write with.

Subjects come in canonical form, stacked. All that a network sees of this are kernels between examples and
between answers; the vectors themselves (`hidden`, `stream`, the unembedding) are only written with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.triples.edits import CHANCE, PADDING, PAIR

RBF_WIDTH = 0.35
"""Width of the sharp kernels, as a share of the median distance between examples."""
TINY = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """A batch of specifications, one for each of stacked subjects of one shape."""

    config: SubjectConfig
    weights: Mapping[str, Tensor]
    """`[subject, ...]`, in canonical form."""
    tokens: Int[Tensor, "subject example pos"]
    position: Int[Tensor, "subject example"]
    role: Int[Tensor, "subject example"]
    wanted: Int[Tensor, "subject example"]
    """Token or CHANCE, for pairs."""
    answers: Int[Tensor, "subject answer"]
    answer_mask: Bool[Tensor, "subject answer"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """What was observed, and what was told in terms of answers."""

    role: Int[Tensor, "subject example"]
    answer_mask: Bool[Tensor, "subject answer"]
    answers: Int[Tensor, "subject answer"]
    wanted: Float[Tensor, "subject example answer"]
    """What is wanted of a pair, as a distribution; zero elsewhere."""
    old: Float[Tensor, "subject example answer"]
    """What the subject says before the edit, as a distribution over answers."""
    kernels: Float[Tensor, "subject kernel example example2"]
    """Similarities of examples, each at most 1."""
    answer_gram: Float[Tensor, "subject answer answer2"]
    """Cosines between the answers' columns of the unembedding, about their mean."""
    hidden: Float[Tensor, "subject example unit"]
    """What the last matrix that writes reads, at the answer position."""
    stream: Float[Tensor, "subject example d_model"]
    """The residual stream behind it."""


def last_writer(config: SubjectConfig) -> str:
    """Name of the last matrix that writes into the residual stream."""
    block = f"blocks.{config.n_layers - 1}"
    return f"{block}.mlp.W_out" if config.has_mlp else f"{block}.attn.W_O"


@torch.no_grad()
def observed(told: Told) -> Observed:
    """Runs the subjects on their examples once."""
    config, last = told.config, f"blocks.{told.config.n_layers - 1}"
    reads = f"{last}.mlp.hook_post" if config.has_mlp else f"{last}.attn.hook_z"
    streams = ["blocks.0.hook_resid_pre"] + [
        f"blocks.{layer}.hook_resid_{at}" for layer in range(config.n_layers) for at in ("mid", "post")
    ]
    run = forward(told.weights, config, told.tokens, taps=[reads, *streams])
    hidden = _at(run.taps[reads].flatten(3), told.position)
    layers = [_at(run.taps[name], told.position) for name in streams]
    logits = _at(run.logits, told.position)
    among = logits.gather(2, told.answers[:, None].expand(-1, logits.shape[1], -1))
    old = among.masked_fill(~told.answer_mask[:, None], -torch.inf).softmax(-1)
    mask = told.role != PADDING
    return Observed(
        role=told.role,
        answer_mask=told.answer_mask,
        answers=told.answers,
        wanted=_wanted(told),
        old=old,
        kernels=_kernels(told, [*layers, hidden], mask),
        answer_gram=_answer_gram(told),
        hidden=hidden,
        stream=layers[-1],
    )


def _at(
    x: Float[Tensor, "subject example pos width"], position: Int[Tensor, "subject example"]
) -> Float[Tensor, "subject example width"]:
    return x.gather(2, position[:, :, None, None].expand(-1, -1, 1, x.shape[3])).squeeze(2)


def _wanted(told: Told) -> Float[Tensor, "subject example answer"]:
    """CHANCE is the same for every answer."""
    among = told.answer_mask.float()
    uniform = (among / among.sum(-1, keepdim=True))[:, None]
    one = (told.wanted[:, :, None] == told.answers[:, None]).float() * among[:, None]
    wanted = torch.where((told.wanted == CHANCE)[:, :, None], uniform, one)
    return (wanted * (told.role == PAIR)[:, :, None]).to(told.weights["unembed.W_U"].dtype)


def _kernels(
    told: Told, sites: list[Tensor], mask: Bool[Tensor, "subject example"]
) -> Float[Tensor, "subject kernel example example2"]:
    """Same token at a position; shared tokens; and at each site of the subject a broad and a sharp kernel."""
    tokens = told.tokens
    same = (tokens[:, :, None] == tokens[:, None]).float().permute(0, 3, 1, 2)
    count = torch.nn.functional.one_hot(tokens, told.config.d_vocab).float().sum(2)
    shared = torch.minimum(count[:, :, None], count[:, None]).sum(-1) / tokens.shape[2]
    found = [*same.unbind(1), shared, _sharp(1 - shared, mask)]
    for site in sites:
        n = mask.sum(1)[:, None, None]
        centred = (site - (site * mask[:, :, None]).sum(1, keepdim=True) / n) * mask[:, :, None]
        unit = torch.nn.functional.normalize(centred, dim=-1, eps=TINY)
        found += [unit @ unit.mT, _sharp(torch.cdist(centred, centred).square(), mask)]
    both = (mask[:, :, None] & mask[:, None])[:, None]
    return torch.stack(found, dim=1) * both


def _sharp(
    square: Float[Tensor, "subject example example2"], mask: Bool[Tensor, "subject example"]
) -> Float[Tensor, "subject example example2"]:
    """exp(-d^2 / 2w^2), with a width relative to the mean square distance."""
    both = (mask[:, :, None] & mask[:, None]).float()
    typical = (square * both).sum((1, 2)) / both.sum((1, 2))
    return torch.exp(-square / (2 * RBF_WIDTH**2 * typical.clamp_min(TINY))[:, None, None])


def _answer_gram(told: Told) -> Float[Tensor, "subject answer answer2"]:
    w_u = told.weights["unembed.W_U"]
    columns = w_u.gather(2, told.answers[:, None].expand(-1, w_u.shape[1], -1)).mT
    among = told.answer_mask[:, :, None].float()
    centred = (columns - (columns * among).sum(1, keepdim=True) / among.sum(1, keepdim=True)) * among
    unit = torch.nn.functional.normalize(centred, dim=-1, eps=TINY)
    return unit @ unit.mT
