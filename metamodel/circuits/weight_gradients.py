"""Scores of edges through which a subject's weights can be trained: attribution patching with a graph.

    score(s, d) = (corrupt_s − clean_s) · ∂margin/∂(what d reads)        Syed et al. 2023, EAP

of stacks of subjects, under noising, where each prompt asks one answer. The gradient is taken in the clean
run or, with `points`, averaged over the way of the embeddings to the corrupt ones (EAP-IG, Hanna et al. 2024;
midpoints). All of it is one graph, so that a loss of the scores has a gradient in the weights: a second
derivative. `metamodel.circuits.attribution` gives the same numbers, without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward

LEAST_GAP = 1.0
"""Margin between clean and corrupt prompts, in logits: shares are divided by no less."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackedPrompts:
    """Pairs of prompts of each subject of a stack, one answer a prompt."""

    clean: Int[Tensor, "subject batch pos"]
    corrupt: Int[Tensor, "subject batch pos"]
    position: Int[Tensor, "subject batch"]
    """Where the answer is read."""
    answer: Int[Tensor, "subject batch"]
    """Right answer of the clean prompt."""


def edge_shares(
    weights: Weights, config: SubjectConfig, prompts: StackedPrompts, *, points: int = 0
) -> Float[Tensor, "subject edge"]:
    """Estimated effect of each edge on the margin, as a share of that between clean and corrupt prompts.

    In the order of `component_edges(config)`, negative where the edge helps. Shares of subjects are
    comparable, whatever the sizes of their logits. Differentiable in the weights.

    Args:
        weights: `[subject, ...]`, raw: under noising every gauge gives the same scores.
        points: of the path; 0 takes the gradient in the clean run.
    """
    sites = writing_sites(config)
    clean = forward(weights, config, prompts.clean, taps=sites)
    corrupt = forward(weights, config, prompts.corrupt, taps=sites)
    change = written(weights, config, corrupt.taps) - written(weights, config, clean.taps)
    gap = _margin(clean.logits, prompts) - _margin(corrupt.logits, prompts)
    found, at = None, [(i + 0.5) / points for i in range(points)] or [0.0]
    for share in at:
        moved = share * (corrupt.taps["hook_embed"] - clean.taps["hook_embed"])
        scores = _first_order(weights, config, prompts, change, moved)
        found = scores if found is None else found + scores
    assert found is not None
    return found / len(at) / gap.mean(1, keepdim=True).clamp_min(LEAST_GAP)


def written(
    weights: Weights, config: SubjectConfig, taps: Mapping[str, Tensor]
) -> Float[Tensor, "subject source batch pos d_model"]:
    """What each source of a run writes, in the order of `components` without the unembedding."""
    found = [taps["hook_embed"][:, None], taps["hook_pos_embed"][:, None]]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        z, w_o = taps[f"{block}.attn.hook_z"], weights[f"{block}.attn.W_O"]
        found.append(torch.einsum("sbphd,shdm->shbpm", z, w_o))
        if config.has_mlp:
            found.append(taps[f"{block}.hook_mlp_out"][:, None])
    return torch.cat(found, 1)


def writing_sites(config: SubjectConfig) -> list[str]:
    """Sites that `written` needs."""
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        names.append(f"blocks.{layer}.attn.hook_z")
        names += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
    return names


def _margin(
    logits: Float[Tensor, "subject batch pos d_vocab"], prompts: StackedPrompts
) -> Float[Tensor, "subject batch"]:
    """The right answer's logit minus the best other one."""
    where = prompts.position[..., None, None].expand(-1, -1, 1, logits.shape[-1])
    asked = logits.gather(2, where).squeeze(2)
    index = prompts.answer[..., None]
    others = asked.scatter(-1, index, -torch.inf).amax(-1)
    return asked.gather(-1, index).squeeze(-1) - others


def _first_order(
    weights: Weights,
    config: SubjectConfig,
    prompts: StackedPrompts,
    change: Float[Tensor, "subject source batch pos d_model"],
    moved: Float[Tensor, "subject batch pos d_model"],
) -> Float[Tensor, "subject edge"]:
    """Change of each source times gradient at each destination, summed over positions, mean over prompts."""
    c, shape = config, change[:, 0]
    taps = [f"blocks.{layer}.attn.hook_{x}" for layer in range(c.n_layers) for x in "qkv"]
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(c.n_layers)]
    own = {f"blocks.{layer}.hook_mlp_in": torch.zeros_like(shape) for layer in range(c.n_layers) if c.has_mlp}
    own["hook_unembed_in"] = torch.zeros_like(shape)
    own = {name: value.requires_grad_() for name, value in own.items()}
    here = torch.zeros_like(shape).requires_grad_()  # so that first queries have a graph without weights' too
    with torch.enable_grad():
        run = forward(
            weights,
            c,
            prompts.clean,
            taps=[*taps, *streams],
            addends=own,
            replace={"hook_embed": lambda x: x + moved + here},
        )
        watched = [run.taps[name] for name in taps] + list(own.values())
        graph = any(value.requires_grad for value in weights.values())
        total = _margin(run.logits, prompts).sum()
        found = torch.autograd.grad(total, watched, create_graph=graph)
    gradient = dict(zip([*taps, *own], found, strict=True))
    n, made = 2, []
    for layer in range(c.n_layers):
        block = f"blocks.{layer}"
        for x in "qkv":
            read = torch.einsum(
                "sbphd,shmd->shbpm",
                gradient[f"{block}.attn.hook_{x}"],
                weights[f"{block}.attn.W_{x.upper()}"],
            )
            read = _through_norm(read, run.taps[streams[layer]], weights, c, f"{block}.ln1")
            made.append(_products(read, change[:, :n]).flatten(1))
        n += c.n_heads
        if c.has_mlp:
            made.append(_products(gradient[f"{block}.hook_mlp_in"][:, None], change[:, :n]).flatten(1))
            n += 1
    made.append(_products(gradient["hook_unembed_in"][:, None], change).flatten(1))
    scores = torch.cat(made, 1) / prompts.clean.shape[1]
    return scores if graph else scores.detach()


def _products(
    read: Float[Tensor, "subject head batch pos d_model"],
    change: Float[Tensor, "subject source batch pos d_model"],
) -> Float[Tensor, "subject head source"]:
    return read.flatten(2) @ change.flatten(2).mT


def _through_norm(
    gradient: Float[Tensor, "subject head batch pos d_model"],
    stream: Float[Tensor, "subject batch pos d_model"],
    weights: Weights,
    config: SubjectConfig,
    norm: str,
) -> Float[Tensor, "subject head batch pos d_model"]:
    """A gradient at what a LayerNorm gives, as a gradient at what it reads."""
    if not config.has_norm:
        return gradient
    gradient = gradient * weights[f"{norm}.w"][:, None, None, None]
    scale = (stream.var(-1, correction=0, keepdim=True) + config.eps).sqrt()[:, None]
    normed = (stream - stream.mean(-1, keepdim=True))[:, None] / scale
    along = (gradient * normed).mean(-1, keepdim=True)
    return (gradient - gradient.mean(-1, keepdim=True) - normed * along) / scale
