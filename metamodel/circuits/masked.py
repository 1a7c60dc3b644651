"""Runs of circuits: any set of edges carries what flows in the run, all other edges carry their patch.

A destination reads, for each source, either what that source writes in this very run or what it would write
when patched. The exact sweep does this for one edge at a time, and faster; here many sets run at once.
Destinations are read in stages: 2l is the attention of block l, 2l + 1 its MLP, 2·n_layers the logits.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.graph import component_edges, reading_stage
from metamodel.circuits.suffix import Suffix

_CHUNK = 1_000_000
"""Numbers in the widest array of one chunk of masks: small for the caches, twice as fast as 4 million."""


def masked_logits(
    run: BaseRun, kept: Bool[Tensor, "mask edge"], *, stage: int = 0
) -> Float[Tensor, "mask ask d_vocab"]:
    """Logits where answers are asked, one run for each set of kept edges.

    With all edges kept these are the logits of the run itself; with none, each source's direct path carries
    its patch. LayerNorms follow the run's setting (recomputed, or frozen).

    Args:
        stage: the first one that is run. All edges into earlier destinations must be kept: what those sources
            write is then known from the run.
    """
    c, (_, n_prompts, n_pos, d_model) = run.config, run.outputs.shape
    widest = 3 * c.n_heads * n_prompts * n_pos * max(d_model, c.d_mlp // (3 * c.n_heads), n_pos)
    parts = kept.split(max(1, _CHUNK // widest))
    return torch.cat([_logits(run, part, stage) for part in parts])


@dataclass(slots=True, kw_only=True, eq=False)
class _Written:
    """What sources have written so far, as a sum of what edges choose between."""

    shared: Tensor
    """Outputs minus patches of sources that write the same under all masks, `[source, ..., d_model]`."""
    constant: Tensor
    """Sum of all patches, and of what no source owns, `[..., d_model]`."""
    own: list[Tensor] = field(default_factory=list)
    """The same differences for later sources, each `[mask, ..., d_model]`."""

    def add(self, output: Float[Tensor, "mask *rest d_model"], patch: Float[Tensor, "*rest d_model"]) -> None:
        self.own.append(output - patch)
        self.constant = self.constant + patch

    def read(self, keep: Float[Tensor, "destination mask source"]) -> Tensor:
        """What each destination reads under each mask, `[destination, mask, ..., d_model]`."""
        n = len(self.shared)
        total = (keep[..., :n] @ self.shared.flatten(1)) + self.constant.flatten()
        if self.own:
            stacked = torch.stack(self.own, dim=1).flatten(2)
            total = total + (keep[..., n:].transpose(0, 1) @ stacked).transpose(0, 1)
        return total.unflatten(-1, self.constant.shape)

    def at_answer(self, suffix: Suffix) -> "_Written":
        return _Written(
            shared=suffix.at_answer(self.shared),
            constant=suffix.at_answer(self.constant),
            own=[suffix.at_answer(x) for x in self.own],
        )


def _logits(run: BaseRun, kept: Bool[Tensor, "mask edge"], stage: int) -> Tensor:
    c, suffix, weights = run.config, run.suffix, run.suffix.weights
    edges = component_edges(c)
    keep = kept.to(run.outputs.dtype).T
    stages = [reading_stage(edge.destination, c) for edge in edges.edges]
    first = sum(s < stage for s in stages)
    patch, n_sources = run.patch, 2 + (stage // 2) * (c.n_heads + c.has_mlp) + (stage % 2) * c.n_heads
    unowned = [weights[f"blocks.{layer}.attn.b_O"] for layer in range((stage + 1) // 2)]
    written = _Written(
        shared=run.outputs[:n_sources] - patch[:n_sources],
        constant=sum(unowned, patch[:n_sources].sum(0)),
    )

    def chosen(n_destinations: int) -> Float[Tensor, "destination mask source"]:
        """Which sources the next destinations read; edges run by destination, then by source."""
        nonlocal first
        start, first = first, first + n_destinations * n_sources
        return keep[start:first].unflatten(0, (n_destinations, n_sources)).transpose(1, 2)

    for layer in range(stage // 2, c.n_layers):
        block, last = f"blocks.{layer}", suffix.is_last(layer)
        if stage <= 2 * layer:
            answered = written.at_answer(suffix) if last else written
            q = answered.read(chosen(c.n_heads)).unsqueeze(-2) if last else written.read(chosen(c.n_heads))
            k, v = written.read(chosen(2 * c.n_heads)).unflatten(0, (2, c.n_heads))
            z = _attend(suffix, layer, q, k, v)
            out = (z.flatten(1, -2) @ weights[f"{block}.attn.W_O"]).unflatten(1, z.shape[1:-1])
            written = answered
            written.constant = written.constant + weights[f"{block}.attn.b_O"]
            for i in range(c.n_heads):
                own = patch[n_sources + i]
                written.add(out[i].squeeze(-2) if last else out[i], suffix.at_answer(own) if last else own)
            n_sources += c.n_heads
        elif last:
            written = written.at_answer(suffix)
        if c.has_mlp:
            resid = written.read(chosen(1)).squeeze(0)
            own = patch[n_sources]
            written.add(suffix.mlp(layer, resid, at_answer=last), suffix.at_answer(own) if last else own)
            n_sources += 1
    if suffix.everywhere or stage == 2 * c.n_layers:  # else the last block is at the answer already
        written = written.at_answer(suffix)
    final = written.read(chosen(1)).squeeze(0)
    assert first == len(edges)
    return suffix.unembed(final)


def _attend(suffix: Suffix, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`z [head, mask, batch, pos, d_head]` of heads, each with streams of its own for q, k and v."""
    block, one_query = f"blocks.{layer}", q.shape[-2] != k.shape[-2]

    def project(which: str, stream: Tensor) -> Tensor:
        w, b = (suffix.weights[f"{block}.attn.{x}_{which}"] for x in "Wb")
        at_answer = which == "Q" and one_query
        if at_answer:
            normed = suffix.norm(stream.squeeze(-2), f"{block}.ln1", at_answer=True).unsqueeze(-2)
        else:
            normed = suffix.norm(stream, f"{block}.ln1")
        made = torch.baddbmm(b.unsqueeze(1), normed.flatten(1, -2), w)
        return made.unflatten(1, stream.shape[1:-1])

    visible = suffix.seen_from_answer().unsqueeze(1) if one_query else None
    return suffix.attend(project("Q", q), project("K", k), visible=visible) @ project("V", v)
