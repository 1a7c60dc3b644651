"""The exact sweep over a subject: each edge is patched alone, and the answer is recomputed.

An edge (source, destination) is patched by changing what this destination alone reads of this source
(`metamodel.circuits.base_run` says to what). LayerNorms are recomputed, or frozen if that is asked for;
nothing is linearised. The sweep equals a full forward for each edge; it takes about as long as a few, since

- all sources of one destination layer share one normalisation and one projection of `residual + delta`;
- of the destination layer only the patched head's output, or the MLP's, changes;
- only later blocks run, and in the last one only the answer's position (`metamodel.circuits.suffix`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import Measure
from metamodel.circuits.suffix import Suffix

_CHUNK = 1_000_000
"""Numbers in the widest array of one chunk of patches: small for the caches, large for few calls."""


@torch.no_grad()
def edge_effects(run: BaseRun, measures: Sequence[Measure]) -> Float[Tensor, "metric edge batch"]:
    """Effects of patching each edge of `component_edges` alone, prompt by prompt."""
    stage = torch.tensor(component_edges(run.config).source_stages, device=run.outputs.device)
    return source_effects(run, measures, run.delta, stage)


@torch.no_grad()
def source_effects(
    run: BaseRun,
    measures: Sequence[Measure],
    delta: Float[Tensor, "source batch pos d_model"],
    stage: Int[Tensor, " source"],
) -> Float[Tensor, "metric edge batch"]:
    """Effects of any changes of what is written, each seen by one destination at a time.

    Args:
        delta: by what each source's output changes.
        stage: when each source has been computed, in ascending order: 0 for embeddings, 2l + 1 behind the
            attention of block l, 2l + 2 behind its MLP. Edges run by destination (in the order of
            `ComponentEdges.destinations`), then by source.
    """
    # Sources that write the same on both prompts, as positions do, have edges of no effect: exactly zero.
    active = delta.flatten(1).any(1).nonzero().squeeze(1)
    reference = torch.stack([measure(run.logits) for measure in measures])
    patch = _Patch(run=run, measures=tuple(measures), reference=reference, delta=delta[active])
    made = []

    def before(stages: int) -> tuple[int, int]:
        """Sources and active sources that are computed by then."""
        return int((stage <= stages).sum()), int((stage[active] <= stages).sum())

    def add(n_sources: int, n_active: int, run_patches: Callable[[int], Tensor], *destinations: int) -> None:
        if n_active:
            effects = run_patches(n_active)
        else:
            effects = delta.new_zeros(len(measures), *destinations, 0, len(run.prompts))
        made.append(_with_silent(effects, active[:n_active], n_sources))

    for layer in range(run.config.n_layers):
        add(*before(2 * layer), partial(patch.heads, layer), 3, run.config.n_heads)
        if run.config.has_mlp:
            add(*before(2 * layer + 1), partial(patch.mlp, layer))
    add(len(stage), len(active), patch.logits)
    return torch.cat(made, dim=1)


def _with_silent(
    effects: Float[Tensor, "metric *destination active batch"], active: Int[Tensor, " active"], n_sources: int
) -> Float[Tensor, "metric edge batch"]:
    """Puts the effects of active sources among zeros for the others, in the order of the edges."""
    whole = effects.new_zeros(*effects.shape[:-2], n_sources, effects.shape[-1])
    whole[..., active, :] = effects
    return whole.flatten(1, -2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Patch:
    """Runs patches of active sources at one destination layer."""

    run: BaseRun
    measures: tuple[Measure, ...]
    reference: Float[Tensor, "metric batch"]
    delta: Float[Tensor, "source batch pos d_model"]

    @property
    def suffix(self) -> Suffix:
        return self.run.suffix

    def effect(self, logits: Float[Tensor, "patch ask d_vocab"]) -> Float[Tensor, "metric patch batch"]:
        value = torch.stack([measure(logits) for measure in self.measures])
        return value - self.reference.unsqueeze(1)

    def ends(self, layer: int, resid: Float[Tensor, "patch batch d_model"]) -> Tensor:
        """Effects of residual streams before the last MLP, at the answer position."""
        suffix, c = self.suffix, self.suffix.config
        size = max(1, _CHUNK // (resid.shape[1] * max(c.d_mlp, c.d_vocab)))

        def one(x: Tensor) -> Tensor:
            end = x + suffix.mlp(layer, x, at_answer=True) if c.has_mlp else x
            return self.effect(suffix.unembed(end))

        return torch.cat([one(chunk) for chunk in resid.split(size)], dim=1)

    def chunk(self) -> int:
        """How many patches run at once through whole blocks."""
        c, (_, n_prompts, n_pos, _) = self.suffix.config, self.delta.shape
        widest = max(c.d_model, c.d_mlp, c.n_heads * c.d_head, c.n_heads * n_pos)
        return max(1, _CHUNK // (n_prompts * max(n_pos * widest, c.d_vocab)))

    def heads(self, layer: int, n_active: int) -> Float[Tensor, "metric channel head source batch"]:
        """Edges into q, k and v of every head of a block."""
        c, (_, n_prompts, n_pos, _) = self.suffix.config, self.delta.shape
        size = max(1, 2 * _CHUNK // (n_prompts * n_pos * max(c.d_model, c.n_heads * max(n_pos, c.d_head))))
        run = self._last_heads if self.suffix.is_last(layer) else self._inner_heads
        return torch.cat([run(layer, delta) for delta in self.delta[:n_active].split(size)], dim=3)

    def _inner_heads(self, layer: int, delta: Tensor) -> Tensor:
        suffix, taps, block = self.suffix, self.run.taps, f"blocks.{layer}"
        q, k, v, z = (taps[f"{block}.attn.hook_{x}"].transpose(1, 2) for x in "qkvz")
        normed = suffix.norm(taps[f"{block}.hook_resid_pre"] + delta, f"{block}.ln1")
        patched = [
            suffix.attend(suffix.project(layer, "Q", normed), k) @ v,
            suffix.attend(q, suffix.project(layer, "K", normed)) @ v,
            taps[f"{block}.attn.hook_pattern"] @ suffix.project(layer, "V", normed),
        ]
        # [channel, source, batch, head, pos, d_head] -> [channel · head · source, batch · pos, d_head]
        change = (torch.stack(patched) - z).permute(0, 3, 1, 2, 4, 5)
        shape = change.shape[:3]
        change = change.flatten(0, 2).flatten(1, 2)
        write = suffix.weights[f"{block}.attn.W_O"]
        head = torch.arange(shape[1], device=delta.device).repeat_interleave(shape[2]).repeat(shape[0])
        mid = taps[f"{block}.hook_resid_mid"]
        made = []
        for part, which in zip(change.split(self.chunk()), head.split(self.chunk()), strict=True):
            resid = torch.baddbmm(mid.flatten(0, 1).expand(len(part), -1, -1), part, write[which])
            resid = resid.view(-1, *mid.shape)
            if suffix.config.has_mlp:
                resid = resid + suffix.mlp(layer, resid)
            made.append(self.effect(suffix.logits_after(layer, resid)))
        return torch.cat(made, dim=1).unflatten(1, shape)

    def _last_heads(self, layer: int, delta: Tensor) -> Tensor:
        suffix, taps, block = self.suffix, self.run.taps, f"blocks.{layer}"
        pre = taps[f"{block}.hook_resid_pre"]
        normed, patched = suffix.norm(pre, f"{block}.ln1"), suffix.norm(pre + delta, f"{block}.ln1")
        probe = suffix.answer_query(layer, suffix.at_answer(normed))
        pattern = suffix.answer_pattern(probe, normed)
        query = suffix.answer_query(layer, suffix.at_answer(patched))
        mixtures = [
            suffix.answer_pattern(query, normed) @ normed,
            suffix.answer_pattern(probe, patched) @ normed,
            pattern @ patched,
        ]
        change = suffix.write(layer, torch.stack(mixtures)) - suffix.write(layer, pattern @ normed)
        # [channel, source, batch, head, d_head] -> [head, channel · source · batch, d_head]
        n_head, shape = change.shape[3], change.shape[:3]
        out = torch.bmm(change.permute(3, 0, 1, 2, 4).flatten(1, 3), suffix.weights[f"{block}.attn.W_O"])
        resid = suffix.at_answer(taps[f"{block}.hook_resid_mid"]) + out.view(n_head, *shape, -1)
        effects = self.ends(layer, resid.flatten(0, 2))
        return effects.unflatten(1, (n_head, *shape[:2])).transpose(1, 2)

    def mlp(self, layer: int, n_active: int) -> Float[Tensor, "metric source batch"]:
        """Edges into the MLP of a block."""
        suffix, delta = self.suffix, self.delta[:n_active]
        mid = self.run.taps[f"blocks.{layer}.hook_resid_mid"]
        last = suffix.is_last(layer)
        if last:
            mid, delta = suffix.at_answer(mid), suffix.at_answer(delta)
        made = []
        for part in delta.split(self.chunk()):
            resid = mid + suffix.mlp(layer, mid + part, at_answer=last)
            made.append(self.effect(suffix.unembed(resid) if last else suffix.logits_after(layer, resid)))
        return torch.cat(made, dim=1)

    def logits(self, n_active: int) -> Float[Tensor, "metric source batch"]:
        """Edges into the logits."""
        suffix, delta = self.suffix, self.delta[:n_active]
        last = suffix.config.n_layers - 1
        final = suffix.at_answer(self.run.taps[f"blocks.{last}.hook_resid_post"])
        made = [
            self.effect(suffix.unembed(final + part)) for part in suffix.at_answer(delta).split(self.chunk())
        ]
        return torch.cat(made, dim=1)
