"""What an editor observes of subjects on the examples of a specification: invariants, and what to write with.

Subjects come in canonical form, stacked. All that a network sees of this are kernels between examples and
between answers; the vectors themselves (`hidden`, `stream`, the unembedding) are only written with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, KEEP, PADDING, PAIR
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward

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
    n_known: int
    """All pairs and inputs to keep are among the first so many examples."""


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
    kernels: Float[Tensor, "subject kernel known example"]
    """Similarities of the known examples, which come first, to all, each at most 1; zero for those among the
    first that are not known after all."""
    prompts: Float[Tensor, "subject 2 example example2"]
    """Similarities of all examples to all as prompts: shared tokens, and a sharp kernel of it."""
    answer_grams: Float[Tensor, "subject 3 answer answer2"]
    """Similarities of answers, about their mean: what is said of one where the other is the answer; how they
    vary together beside that; and cosines between their columns of the unembedding."""
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
        prompts=_prompt_kernels(_token_ids(told), told.tokens.shape[1], mask, mask, logits.dtype),
        answer_grams=answer_grams(told, among, old),
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
) -> Float[Tensor, "subject kernel known example"]:
    """Two of prompts; the same token, position by position; a broad and a sharp one of each site.

    The last sites are the stream behind the last block and what the last matrix reads.
    """
    n, tokens = told.n_known, told.tokens
    same = (tokens[:, :n, None] == tokens[:, None]).to(sites[0].dtype).permute(0, 3, 1, 2)
    dtype = sites[0].dtype
    known = (told.role[:, :n] == PAIR) | (told.role[:, :n] == KEEP)
    found = [*_prompt_kernels(_token_ids(told), n, known, mask, dtype).unbind(1)]
    found += same.unbind(1)
    count = mask.sum(1)[:, None, None]
    for site in sites:
        centred = (site - (site * mask[:, :, None]).sum(1, keepdim=True) / count) * mask[:, :, None]
        unit = torch.nn.functional.normalize(centred, dim=-1, eps=TINY)
        square = torch.cdist(centred[:, :n], centred).square()
        typical = 2 * centred.square().sum((1, 2)) / mask.sum(1)
        found += [unit[:, :n] @ unit.mT, _sharp(square, typical)]
    both = (known[:, :, None] & mask[:, None])[:, None]
    return torch.stack(found, dim=1) * both


def _token_ids(told: Told) -> Int[Tensor, "subject example pos"]:
    """Tokens counted from 1, only those that occur; 0 behind the token at which the answer is asked for."""
    ids = told.tokens.unique(return_inverse=True)[1] + 1
    behind = torch.arange(ids.shape[2], device=ids.device) > told.position[:, :, None]
    return ids.masked_fill(behind, 0)


def _prompt_kernels(
    ids: Int[Tensor, "subject example pos"],
    n_known: int,
    mask: Bool[Tensor, "subject known"],
    mask2: Bool[Tensor, "subject example"],
    dtype: torch.dtype,
) -> Float[Tensor, "subject kernel known example"]:
    """The share of tokens that two prompts have in common, wherever they stand, and a sharp kernel of it.

    Args:
        n_known: how many examples are compared with all.
    """
    # a token that comes a second time counts as another one, so that the minimum of counts is a product
    count = _counted(ids, dtype)
    shared = count[:, :n_known] @ count.mT / ids.shape[2]
    both = (mask[:, :, None] & mask2[:, None]).to(dtype)
    typical = ((1 - shared) * both).sum((1, 2)) / both.sum((1, 2)).clamp_min(1)
    return torch.stack([shared, _sharp(1 - shared, typical)], dim=1) * both[:, None]


def _counted(ids: Int[Tensor, "subject example pos"], dtype: torch.dtype) -> Tensor:
    """`[subject, example, occurrence * token]`: whether a token comes at least so often."""
    count = torch.nn.functional.one_hot(ids, int(ids.max()) + 1).sum(2)[:, :, 1:]
    levels = torch.arange(1, ids.shape[2] + 1, device=ids.device)
    return (count[:, :, None] >= levels[:, None]).to(dtype).flatten(2)


def _sharp(
    square: Float[Tensor, "subject known example"], typical: Float[Tensor, " subject"]
) -> Float[Tensor, "subject known example"]:
    """exp(-d^2 / 2w^2), with a width relative to the typical square distance."""
    return torch.exp(-square / (2 * RBF_WIDTH**2 * typical.clamp_min(TINY))[:, None, None])


def answer_grams(
    told: Told,
    logits: Float[Tensor, "subject example answer"],
    old: Float[Tensor, "subject example answer"],
) -> Float[Tensor, "subject 3 answer answer2"]:
    """The similarities of answers.

    Without a norm any invertible map of the stream is a gauge, and the Gram matrix of the unembedding has no
    metric to be taken in. What a subject says is the same in every gauge.

    Args:
        logits: of the answers, on the examples.
        old: distributions over answers.
    """
    among = told.answer_mask[:, None].to(logits.dtype)
    n = among.sum(-1, keepdim=True)
    shown = (told.role != PADDING)[..., None].to(logits.dtype)
    said = (logits - (logits * among).sum(-1, keepdim=True) / n) * among * shown
    right = torch.nn.functional.one_hot(old.argmax(-1), old.shape[-1]).to(logits.dtype) * shown
    mean = right.mT @ said / right.sum(1).clamp_min(1)[..., None]
    beside = said - right @ mean
    w_u = told.weights["unembed.W_U"]
    columns = w_u.gather(2, told.answers[:, None].expand(-1, w_u.shape[1], -1)).mT
    found = [(mean + mean.mT) / 2, beside.mT @ beside, columns @ columns.mT]
    return torch.stack([_cosines(gram, told.answer_mask) for gram in found], dim=1)


def _cosines(
    gram: Float[Tensor, "subject answer answer2"], mask: Bool[Tensor, "subject answer"]
) -> Float[Tensor, "subject answer answer2"]:
    """A Gram matrix about the mean of its vectors, with a diagonal of one."""
    among = mask.to(gram.dtype)
    n = among.sum(1)[:, None, None]
    both = among[:, :, None] * among[:, None]
    gram = gram * both
    rows = gram.sum(2, keepdim=True) / n
    gram = (gram - rows - rows.mT + rows.sum(1, keepdim=True) / n) * both
    size = gram.diagonal(dim1=1, dim2=2).clamp_min(TINY).sqrt()
    return gram / (size[:, :, None] * size[:, None])
