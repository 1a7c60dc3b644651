"""What an editor observes of subjects on the examples of a specification: invariants, and what to write with.

Subjects come in canonical form, stacked. All that a network sees of this are kernels between examples and
between answers; the vectors themselves (`hidden`, `stream`, the unembedding) are only written with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, KEEP, PADDING, PAIR
from metamodel.features.prompt_kernels import bag_kernels, merged, sharp, token_ids
from metamodel.features.proportions import Proportions, proportions
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward

TINY = 1e-8
HIDDEN = -1e4
"""Logit of what is no candidate."""
N_PROMPT_KERNELS = 4
"""Bags of tokens as the subject tells them apart, broad and sharp, and as they are."""


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
    prompts: Float[Tensor, "subject 4 example example2"]
    """Similarities of all examples to all as prompts: shared tokens and a sharp kernel of it, once with those
    tokens taken for one that the subject does not tell apart, and once as they are."""
    logits: Float[Tensor, "subject example answer"]
    """Of the answers, before the edit."""
    answer_grams: Float[Tensor, "subject 3 answer answer2"]
    """Similarities of answers, about their mean: what is said of one where the other is the answer; how they
    vary together beside that; and cosines between their columns of the unembedding."""
    proportions: Proportions
    """Of what the subject says, on the tokens up to where it answers."""
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
    config, reads = told.config, _last_read(told.config)
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
    ids = token_ids(told.tokens, told.position)
    bags = merged(ids, old.argmax(-1), mask), ids
    n = told.tokens.shape[1]
    prompts = torch.cat([bag_kernels(one, n, mask, mask, logits.dtype) for one in bags], dim=1)
    return Observed(
        role=told.role,
        answer_mask=told.answer_mask,
        answers=told.answers,
        wanted=_wanted(told),
        old=old,
        kernels=_kernels(told, prompts, [*layers, _confidence(among, told.answer_mask), hidden], mask),
        prompts=prompts,
        logits=among,
        answer_grams=answer_grams(told, among, old),
        proportions=proportions(ids, mask, old.argmax(-1), told.answer_mask),
        hidden=hidden,
        stream=layers[-1],
    )


def in_own_order(told: Told, which: int) -> Int[Tensor, " example"]:
    """Indices of one subject's examples without padding, in an order that does not hang on the one they came
    in: what takes many steps multiplies rounding."""
    real = (told.role[which] != PADDING).nonzero()[:, 0]
    rows = torch.cat([told.role[which, :, None], told.tokens[which], told.position[which, :, None]], dim=1)
    rows = rows[real].tolist()
    return real[sorted(range(len(rows)), key=rows.__getitem__)]


@torch.no_grad()
def seen_again(told: Told, seen: Observed, changes: Mapping[str, Tensor]) -> Observed:
    """Runs the subjects once more, with an edit applied: what there is to write with is captured anew.

    What is observed of examples and answers stays as it was before any edit.
    """
    weights = {key: w + changes[key] if key in changes else w for key, w in told.weights.items()}
    hidden, stream = read_at(told.config, weights, told.tokens, told.position)
    return replace(seen, hidden=hidden, stream=stream)


def read_at(
    config: SubjectConfig,
    weights: Mapping[str, Tensor],
    tokens: Int[Tensor, "subject example pos"],
    position: Int[Tensor, "subject example"],
) -> tuple[Float[Tensor, "subject example unit"], Float[Tensor, "subject example d_model"]]:
    """What the last matrix that writes reads at these positions, and the residual stream behind it."""
    last = f"blocks.{config.n_layers - 1}"
    reads, behind = _last_read(config), f"{last}.hook_resid_post"
    run = forward(weights, config, tokens, taps=[reads, behind])
    return _at(run.taps[reads].flatten(3), position), _at(run.taps[behind], position)


def _last_read(config: SubjectConfig) -> str:
    """The site that the last matrix that writes reads."""
    last = f"blocks.{config.n_layers - 1}"
    return f"{last}.mlp.hook_post" if config.has_mlp else f"{last}.attn.hook_z"


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


def _confidence(
    logits: Float[Tensor, "subject example answer"], mask: Bool[Tensor, "subject answer"]
) -> Float[Tensor, "subject example one"]:
    """Log odds of the likeliest answer against the next: a damaged subject is less sure of what is wrong."""
    among = logits.masked_fill(~mask[:, None], HIDDEN)
    best = among.topk(min(2, among.shape[-1]), dim=-1).values
    return best[..., :1] - best[..., -1:]


def _kernels(
    told: Told,
    prompts: Float[Tensor, "subject 4 example example2"],
    sites: list[Tensor],
    mask: Bool[Tensor, "subject example"],
) -> Float[Tensor, "subject kernel known example"]:
    """Those of prompts; the same token, position by position; a broad and a sharp one of each site.

    The last sites are the stream behind the last block, how sure the subject is, and what the last matrix
    reads.
    """
    n, tokens = told.n_known, told.tokens
    same = (tokens[:, :n, None] == tokens[:, None]).to(sites[0].dtype).permute(0, 3, 1, 2)
    known = (told.role[:, :n] == PAIR) | (told.role[:, :n] == KEEP)
    found = [*prompts[:, :, :n].unbind(1)]
    found += same.unbind(1)
    count = mask.sum(1)[:, None, None]
    for site in sites:
        centred = (site - (site * mask[:, :, None]).sum(1, keepdim=True) / count) * mask[:, :, None]
        unit = torch.nn.functional.normalize(centred, dim=-1, eps=TINY)
        square = torch.cdist(centred[:, :n], centred).square()
        typical = 2 * centred.square().sum((1, 2)) / mask.sum(1)
        found += [unit[:, :n] @ unit.mT, sharp(square, typical)]
    both = (known[:, :, None] & mask[:, None])[:, None]
    return torch.stack(found, dim=1) * both


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
