"""Adam on some of a subject's weights, for several settings at once: the same subject stacked."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.editing.aims import Aims, loss
from metamodel.baselines.editing.suffix import suffix, suffix_names
from metamodel.features.observed import last_writer
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import logits_at
from metamodel.subjects.subject import Subject

BETAS, TINY = (0.9, 0.999), 1e-8
SUBSETS = ("all", "mlps", "last_writer", "attention", "unembedding")
"""Which matrices are trained, with their biases; `all` are embeddings and norms too."""

Weights = Mapping[str, Tensor]
Logits = Callable[[Weights], Float[Tensor, "setting example d_vocab"]]


def names_of(config: SubjectConfig, subset: str) -> tuple[str, ...]:
    """Names of the weights of a subset; none if the subject has no such part."""
    every = tuple(weight_shapes(config))
    match subset:
        case "all":
            return every
        case "mlps":
            return tuple(name for name in every if ".mlp." in name)
        case "last_writer":
            return suffix_names(config)[:2]
        case "attention":
            return tuple(name for name in every if ".attn." in name)
        case "unembedding":
            return suffix_names(config)[2:]
    raise AssertionError(subset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How to fine-tune."""

    steps: int
    learning_rate: float
    subset: str


def logits_of(subject: Subject, aims: Aims, names: Collection[str]) -> Logits:
    """A function from stacked weights, which differ in `names` only, to what they say of the aims' inputs."""
    config = subject.config
    if set(names) <= set(suffix_names(config)):
        return suffix(subject, aims.tokens, aims.position).with_weights
    n, n_pos = aims.tokens.shape
    rows = torch.arange(n) * n_pos + aims.position

    def whole(weights: Weights) -> Float[Tensor, "setting example d_vocab"]:
        n_settings = weights[last_writer(config)].shape[0]
        tokens, flat = aims.tokens.expand(n_settings, -1, -1), rows.expand(n_settings, -1)
        return logits_at(weights, config, tokens, flat)

    return whole


def trained(
    subject: Subject,
    aims: Aims,
    settings: Sequence[tuple[float, str]],
    steps: Sequence[int],
    stop: Callable[[Tensor], bool] | None = None,
) -> dict[int, list[dict[str, Tensor]]]:
    """Changes after each number of `steps`, one for each (learning rate, subset).

    Args:
        stop: told the logits `[setting, example, d_vocab]` before each step; training may end there, and the
            changes are those of the last number of steps.
    """
    config = subject.config
    chosen = [names_of(config, subset) for _, subset in settings]
    names = [name for name in subject.weights if any(name in one for one in chosen)]
    if not names:
        return {k: [{} for _ in settings] for k in steps}
    said = logits_of(subject, aims, names)
    start = torch.cat([subject.weights[name].flatten() for name in names])
    sizes = [subject.weights[name].numel() for name in names]
    rate = torch.stack(
        [
            torch.cat(
                [start.new_full((size,), r * (name in one)) for name, size in zip(names, sizes, strict=True)]
            )
            for (r, _), one in zip(settings, chosen, strict=True)
        ]
    )
    flat = start.repeat(len(settings), 1)
    leaves = {
        name: part.detach().view(-1, *subject.weights[name].shape).requires_grad_()
        for name, part in zip(names, flat.split(sizes, dim=1), strict=True)
    }
    weights = {k: v.expand(len(settings), *v.shape) for k, v in subject.weights.items()} | leaves
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    kept: dict[int, Tensor] = {}
    for step in range(1, max(steps) + 1):
        logits = said(weights)
        if stop is not None and stop(logits):
            kept[max(steps)] = flat.clone()
            break
        slopes = torch.autograd.grad(loss(logits, aims).sum(), list(leaves.values()), allow_unused=True)
        slope = torch.cat(
            [
                (torch.zeros_like(leaf) if g is None else g).flatten(1)
                for g, leaf in zip(slopes, leaves.values(), strict=True)
            ],
            dim=1,
        )
        with torch.no_grad():
            first.lerp_(slope, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
            size = (second / (1 - BETAS[1] ** step)).sqrt_().add_(TINY)
            flat -= rate * first / (1 - BETAS[0] ** step) / size
        if step in steps:
            kept[step] = flat.clone()
    return {
        k: [
            _changes(subject, now - start, names, sizes, one)
            for now, one in zip(kept[k], chosen, strict=True)
        ]
        for k in steps
        if k in kept
    }


def _changes(
    subject: Subject, moved: Tensor, names: list[str], sizes: list[int], among: tuple[str, ...]
) -> dict[str, Tensor]:
    parts = zip(names, moved.split(sizes), strict=True)
    return {name: part.view(subject.weights[name].shape) for name, part in parts if name in among}
