"""How a metric changes with what each destination reads, and what all sources' changes are worth by that.

One forward and one backward serve every edge. The backward stops at queries, keys and values; from there a
gradient is pulled back to what each head reads by its own matrix and the LayerNorm's derivative, since by
autograd every head would need a residual stream and a LayerNorm of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.metrics import Measure

_CHUNK = 2_000_000
"""Numbers in the widest array of one chunk of points."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """Of the metric of each prompt, in what destinations read; a prompt's own rows hold all of its own.

    Where each prompt asks one answer, the last block's queries, its MLP and the logits read the answer's
    position alone: there `pos` is one, or is left out.
    """

    q: tuple[Float[Tensor, "head batch ... d_model"], ...]
    """Of each block; so are the next three."""
    k: tuple[Float[Tensor, "head batch pos d_model"], ...]
    v: tuple[Float[Tensor, "head batch pos d_model"], ...]
    mlp: tuple[Float[Tensor, "batch ... d_model"], ...]
    logits: Float[Tensor, "ask d_model"]


def mean_gradients(
    run: BaseRun, measure: Measure, at: Float[Tensor, " point"], moved: Sequence[int] = ()
) -> Gradients:
    """Gradients, averaged over points of the path on which the sources `moved` go to what they carry patched.

    Args:
        at: how far, 0 for the run itself and 1 for the end.
        moved: indices of sources; each writes its output plus `at` times the change.
    """
    c, (_, n_prompts, n_pos, _) = run.config, run.outputs.shape
    widest = n_prompts * n_pos * max(c.d_mlp, 3 * c.n_heads * c.d_model, c.n_heads * n_pos)
    size = max(1, _CHUNK // widest)
    parts = [(len(part), _gradients(run, measure, part, moved)) for part in at.split(size)]

    def mean(arrays: Sequence[Tensor]) -> Tensor:
        return sum((n * x for (n, _), x in zip(parts, arrays, strict=True)), arrays[0].new_zeros(())) / len(
            at
        )

    def by_layer(name: str) -> tuple[Tensor, ...]:
        return tuple(map(mean, zip(*(getattr(part, name) for _, part in parts), strict=True)))

    return Gradients(
        q=by_layer("q"),
        k=by_layer("k"),
        v=by_layer("v"),
        mlp=by_layer("mlp"),
        logits=mean([part.logits for _, part in parts]),
    )


@torch.enable_grad()
def _gradients(
    run: BaseRun, measure: Measure, at: Float[Tensor, " point"], moved: Sequence[int]
) -> Gradients:
    """The mean over a few points, all at once."""
    c, suffix = run.config, run.suffix

    def shift(first: int, n: int) -> Tensor | float:
        """What the moved ones of the next `n` sources add to the stream, `[point, batch, pos, d_model]`."""
        chosen = [i for i in moved if first <= i < first + n]
        change = run.patch[chosen].sum(0) - run.outputs[chosen].sum(0)
        return at.view(-1, 1, 1, 1) * change if chosen else 0.0

    start = run.taps["blocks.0.hook_resid_pre"]
    resid = (start.expand(len(at), *start.shape) + shift(0, 2)).clone().requires_grad_()
    streams, watched, first = [], [], 2
    for layer in range(c.n_layers):
        last = suffix.is_last(layer)
        streams.append(resid)
        normed = suffix.norm(resid, f"blocks.{layer}.ln1")
        asking = suffix.at_answer(normed).unsqueeze(-2) if last else normed
        q = suffix.project(layer, "Q", asking)
        k, v = suffix.project(layer, "K", normed), suffix.project(layer, "V", normed)
        watched += [q, k, v]
        visible = suffix.seen_from_answer()[:, None, None] if last else None
        z = (suffix.attend(q, k, visible=visible) @ v).transpose(-2, -3).flatten(-2)
        name = f"blocks.{layer}.attn"
        out = z @ suffix.weights[f"{name}.W_O"].flatten(0, 1) + suffix.weights[f"{name}.b_O"]
        resid = resid + shift(first, c.n_heads)
        resid = suffix.at_answer(resid) + out.squeeze(-2) if last else resid + out
        first += c.n_heads
        if c.has_mlp:
            read = resid.clone()  # what the MLP reads, apart from what goes on beside it
            watched.append(read)
            resid = resid + suffix.mlp(layer, read, at_answer=last)
            change = shift(first, 1)
            resid = resid + (suffix.at_answer(change) if last and isinstance(change, Tensor) else change)
            first += 1
    final = resid.clone() if suffix.is_last(c.n_layers - 1) else suffix.at_answer(resid)
    total = measure(suffix.unembed(final)).sum()
    *inner, at_logits = torch.autograd.grad(total, [*watched, final])
    return _pulled_back(run, [x.detach() for x in streams], inner, at_logits, len(at))


@torch.no_grad()
def _pulled_back(
    run: BaseRun, streams: list[Tensor], inner: list[Tensor], at_logits: Tensor, n: int
) -> Gradients:
    """Gradients at what destinations read, from those at queries, keys, values, MLPs and logits."""
    suffix, c = run.suffix, run.config
    found: dict[str, list[Tensor]] = {"q": [], "k": [], "v": [], "mlp": []}
    remaining = iter(inner)
    for layer in range(c.n_layers):
        name = f"blocks.{layer}"
        for channel in "qkv":
            gradient = next(remaining)  # [point, batch, head, pos, d_head]
            weights = suffix.weights[f"{name}.attn.W_{channel.upper()}"]
            read = (gradient @ weights.transpose(-1, -2)).permute(2, 0, 1, 3, 4)
            stream, at_answer = streams[layer], channel == "q" and suffix.is_last(layer)
            if at_answer:
                stream, read = suffix.at_answer(stream), read.squeeze(-2)
            read = suffix.norm_pullback(stream, read, f"{name}.ln1", at_answer=at_answer).mean(1)
            found[channel].append(read.unsqueeze(-2) if at_answer else read)
        if c.has_mlp:
            found["mlp"].append(next(remaining).mean(0))
    q, k, v, mlp = (tuple(found[x]) for x in ("q", "k", "v", "mlp"))
    return Gradients(q=q, k=k, v=v, mlp=mlp, logits=at_logits.mean(0))


@torch.no_grad()
def first_order_effects(
    run: BaseRun, gradients: Gradients, delta: Float[Tensor, "source batch pos d_model"]
) -> Float[Tensor, "edge batch"]:
    """Change of each source times gradient in what each destination reads, summed over positions."""
    c, suffix, n_sources = run.config, run.suffix, 2
    at_answer, made = suffix.at_answer(delta), []
    for layer in range(c.n_layers):
        last, before = suffix.is_last(layer), delta[:n_sources]
        asking = at_answer[:n_sources].unsqueeze(-2) if last else before
        for channel, change in (("q", asking), ("k", before), ("v", before)):
            gradient = getattr(gradients, channel)[layer]
            made.append(torch.einsum("hbpm,sbpm->hsb", gradient, change).flatten(0, 1))
        n_sources += c.n_heads
        if c.has_mlp:
            if last:
                made.append(torch.einsum("bm,sbm->sb", gradients.mlp[layer], at_answer[:n_sources]))
            else:
                made.append(torch.einsum("bpm,sbpm->sb", gradients.mlp[layer], delta[:n_sources]))
            n_sources += 1
    by_ask = torch.einsum("am,sam->sa", gradients.logits, at_answer)
    by_prompt = by_ask.new_zeros(len(by_ask), len(run.prompts))
    made.append(by_prompt.index_add(1, suffix.row, by_ask))
    return torch.cat(made)
