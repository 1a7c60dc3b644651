"""Exact score of every edge of a subject: each edge is patched alone, and the answer is recomputed.

An edge (source, destination) is patched by changing what this destination alone reads of this source: to what
the source wrote on the corrupt prompt (`noising`), or to nothing (`zero`). LayerNorms are recomputed, nothing
is linearised. The sweep equals a full forward for each edge; it takes about as long as a few of them, since

- all sources of one destination layer share one normalisation and one projection of `residual + delta`;
- of the destination layer only the patched head's output, or the MLP's, changes;
- only later blocks run, and in the last one only the answer's position (`metamodel.circuits.suffix`).

Zero ablation depends on the gauge of raw weights, so that scores are taken on the folded subject: there both
interventions are gauge-invariant. Sources are the embeddings, each head's `z W_O` (value biases folded into
`b_O`, which no source owns) and each MLP's output with its bias.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import kl, margin
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.suffix import Suffix, check_prompts
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject

Intervention = Literal["noising", "zero"]
_CHUNK = 1_000_000
"""Numbers in the widest array of one chunk of patches: small for the caches, large for few calls."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EdgeScores:
    """Effect of patching each edge of `component_edges`: metric(patched) - metric(clean), signed."""

    margin: Float[Tensor, " edge"]
    """Change of the right answer's logit minus the runner-up's, averaged; negative if the edge helps."""
    margin_se: Float[Tensor, " edge"]
    """Standard error of that mean over prompts; NaN for a single prompt."""
    kl: Float[Tensor, " edge"]
    """KL(clean ‖ patched) of the answer distribution in nats, mean over prompts."""
    clean_margin: Float[Tensor, ""]
    """Mean margin of the clean run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clean:
    """A clean run of a folded subject, and what each source writes in it."""

    suffix: Suffix
    taps: dict[str, Tensor]
    """Sites of the forward without their subject axis."""
    outputs: Float[Tensor, "source batch pos d_model"]
    corrupt_outputs: Float[Tensor, "source batch pos d_model"]
    logits: Float[Tensor, "batch d_vocab"]
    """At the answer position."""


def source_outputs(
    config: SubjectConfig, taps: dict[str, Tensor]
) -> Float[Tensor, "source batch pos d_model"]:
    """What each source of a run writes, in the order of `components` without the unembedding."""
    found = [taps["hook_embed"].unsqueeze(0), taps["hook_pos_embed"].unsqueeze(0)]
    for layer in range(config.n_layers):
        found.append(taps[f"blocks.{layer}.attn.hook_result"].permute(2, 0, 1, 3))
        if config.has_mlp:
            found.append(taps[f"blocks.{layer}.hook_mlp_out"].unsqueeze(0))
    return torch.cat(found)


def run_clean(subject: Subject, prompts: Prompts) -> Clean:
    """Clean and corrupt run in one batch.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    check_prompts(subject, prompts)
    whole, config = folded(subject), subject.config
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_resid_pre", f"{block}.hook_resid_mid", f"{block}.hook_resid_post"]
        names += [f"{block}.attn.hook_{x}" for x in ("q", "k", "v", "pattern", "z", "result")]
        names += [f"{block}.hook_mlp_out"] if config.has_mlp else []
    run = whole.run(torch.cat([prompts.clean, prompts.corrupt]), taps=names)
    taps = {name: value[0] for name, value in run.taps.items()}
    outputs = source_outputs(config, taps)
    n = len(prompts)
    suffix = Suffix.of(whole, prompts)
    return Clean(
        suffix=suffix,
        taps={name: value[:n] for name, value in taps.items()},
        outputs=outputs[:, :n],
        corrupt_outputs=outputs[:, n:],
        logits=suffix.at_answer(run.logits[0, :n]),
    )


@torch.no_grad()
def edge_scores(subject: Subject, prompts: Prompts, intervention: Intervention) -> EdgeScores:
    """Patches every edge of `component_edges(subject.config)` exactly and alone.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    clean = run_clean(subject, prompts)
    delta = -clean.outputs if intervention == "zero" else clean.corrupt_outputs - clean.outputs
    # Sources that write the same on both prompts, as positions do, have edges of no effect: exactly zero.
    active = delta.flatten(1).any(1).nonzero().squeeze(1)
    patch = _Patch(clean=clean, answer=prompts.answer, delta=delta[active])
    edges, made = component_edges(subject.config), []
    n_before = 2
    for layer in range(subject.config.n_layers):
        n_active = int((active < n_before).sum())
        effects = patch.heads(layer, n_active)
        made.append(_with_silent(effects, active[:n_active], n_before))
        n_before += subject.config.n_heads
        if subject.config.has_mlp:
            n_active = int((active < n_before).sum())
            made.append(_with_silent(patch.mlp(layer, n_active), active[:n_active], n_before))
            n_before += 1
    made.append(_with_silent(patch.logits(), active, n_before))
    effect = torch.cat(made, dim=1)
    assert effect.shape[1] == len(edges)
    mean = effect.mean(-1)
    return EdgeScores(
        margin=mean[0],
        margin_se=standard_error(effect[0]),
        kl=mean[1],
        clean_margin=margin(clean.logits, prompts.answer).mean(),
    )


def standard_error(x: Float[Tensor, "*rest batch"]) -> Float[Tensor, "*rest"]:
    """Standard error of the mean over prompts; NaN for a single one."""
    n = x.shape[-1]
    return x.std(-1) / n**0.5 if n > 1 else torch.full_like(x[..., 0], torch.nan)


def _with_silent(
    effects: Float[Tensor, "metric *destination active batch"], active: Int[Tensor, " active"], n_sources: int
) -> Float[Tensor, "metric edge batch"]:
    """Puts the effects of active sources among zeros for the others, in the order of the edges."""
    whole = effects.new_zeros(*effects.shape[:-2], n_sources, effects.shape[-1])
    whole[..., active, :] = effects
    return whole.flatten(1, -2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Patch:
    """Runs patches of active sources at one destination layer. Effects are (margin, KL) by prompt."""

    clean: Clean
    answer: Int[Tensor, " batch"]
    delta: Float[Tensor, "source batch pos d_model"]
    """What each active source writes under the intervention, minus what it writes in the clean run."""

    def effect(self, logits: Float[Tensor, "patch batch d_vocab"]) -> Float[Tensor, "metric patch batch"]:
        reference = margin(self.clean.logits, self.answer)
        return torch.stack([margin(logits, self.answer) - reference, kl(self.clean.logits, logits)])

    def ends(self, layer: int, resid: Float[Tensor, "patch batch d_model"]) -> Tensor:
        """Effects of residual streams before the last MLP, at the answer position."""
        suffix = self.clean.suffix
        c = suffix.config
        size = max(1, _CHUNK // (resid.shape[1] * max(c.d_mlp, c.d_vocab)))

        def one(x: Tensor) -> Tensor:
            return self.effect(suffix.unembed(x + suffix.mlp(layer, x) if c.has_mlp else x))

        return torch.cat([one(chunk) for chunk in resid.split(size)], dim=1)

    def chunk(self) -> int:
        """How many patches run at once through whole blocks."""
        c, (_, n_prompts, n_pos, _) = self.clean.suffix.config, self.delta.shape
        widest = max(c.d_model, c.d_mlp, c.n_heads * c.d_head, c.n_heads * n_pos)
        return max(1, _CHUNK // (n_prompts * max(n_pos * widest, c.d_vocab)))

    def heads(self, layer: int, n_active: int) -> Float[Tensor, "metric channel head source batch"]:
        """Edges into q, k and v of every head of a block."""
        c, (_, n_prompts, n_pos, _) = self.clean.suffix.config, self.delta.shape
        size = max(1, 2 * _CHUNK // (n_prompts * n_pos * max(c.d_model, c.n_heads * max(n_pos, c.d_head))))
        run = self._last_heads if self.clean.suffix.is_last(layer) else self._inner_heads
        return torch.cat([run(layer, delta) for delta in self.delta[:n_active].split(size)], dim=3)

    def _inner_heads(self, layer: int, delta: Tensor) -> Tensor:
        suffix, taps, block = self.clean.suffix, self.clean.taps, f"blocks.{layer}"
        q, k, v, z = (taps[f"{block}.attn.hook_{x}"].transpose(1, 2) for x in "qkvz")
        normed = suffix.norm(taps[f"{block}.hook_resid_pre"] + delta)
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
        suffix, taps, block = self.clean.suffix, self.clean.taps, f"blocks.{layer}"
        pre = taps[f"{block}.hook_resid_pre"]
        normed, patched = suffix.norm(pre), suffix.norm(pre + delta)
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
        suffix, delta = self.clean.suffix, self.delta[:n_active]
        mid = self.clean.taps[f"blocks.{layer}.hook_resid_mid"]
        last = suffix.is_last(layer)
        if last:
            mid, delta = suffix.at_answer(mid), suffix.at_answer(delta)
        made = []
        for part in delta.split(self.chunk()):
            resid = mid + suffix.mlp(layer, mid + part)
            made.append(self.effect(suffix.unembed(resid) if last else suffix.logits_after(layer, resid)))
        return torch.cat(made, dim=1)

    def logits(self) -> Float[Tensor, "metric source batch"]:
        """Edges into the logits."""
        suffix = self.clean.suffix
        last = suffix.config.n_layers - 1
        final = suffix.at_answer(self.clean.taps[f"blocks.{last}.hook_resid_post"])
        made = [
            self.effect(suffix.unembed(final + part))
            for part in suffix.at_answer(self.delta).split(self.chunk())
        ]
        return torch.cat(made, dim=1)
