"""Runs of a bridge in which edges can be patched: what hooks add to what destinations read.

Any pre-norm architecture runs so, on the same graph. Edges that one lacks have no effect and are in no
circuit: from position embeddings in rotary networks, and from heads to the MLP of their own block where both
run side by side. A patched run is a whole forward, where a subject runs suffixes only.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.bridge_changes import (
    adding,
    adding_to_heads,
    closing,
    noting,
    replacing,
    then,
    watched,
)
from metamodel.circuits.edge_run import Both, EdgeRun
from metamodel.circuits.graph import Destination, reading_stage, stage_of
from metamodel.circuits.metrics import Measure
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import Component
from metamodel.subjects.interchange.forks import Change
from metamodel.subjects.interchange.hooked_bridge import HookedBridge
from metamodel.subjects.interchange.norms import Scales

_NUMBERS = 64_000_000
"""Numbers in the widest array of one forward, and in what its sources have written, where that is noted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BridgeRun(EdgeRun):
    """A run of a bridge."""

    hooked: HookedBridge
    tokens: Int[Tensor, "batch pos"]
    """Of this run."""
    patch: Float[Tensor, "source batch pos d_model"]
    """What each source writes when it is patched."""
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    """Stage -> the residual stream."""
    scales: Scales | None
    """What norms divide by; None where they find their own in each run."""

    @property
    def exists(self) -> Bool[Tensor, " edge"]:
        stages = self.edges.source_stages
        found = [
            self._sees(destination, stage)
            for destination in self.edges.destinations
            for stage in stages[: self._n_sources(destination)]
        ]
        return torch.tensor(found, device=self.logits.device)

    @cached_property
    def sources(self) -> tuple[list[int], ...]:
        """For each destination, the sources that it reads and that change anything."""
        stages, active = self.edges.source_stages, self.active.tolist()
        return tuple(
            [i for i, stage in enumerate(stages) if active[i] and self._sees(destination, stage)]
            for destination in self.edges.destinations
        )

    def _sees(self, destination: Destination, stage: int) -> bool:
        """Whether it reads what was written at a stage. Heads beside an MLP write where it does not look."""
        reading = reading_stage(destination, self.config)
        beside = self.hooked.parallel and destination.channel == "in" and stage == reading
        return stage <= reading and not beside

    def _n_sources(self, destination: Destination) -> int:
        """How many sources have been computed when a destination reads."""
        return bisect_right(self.edges.source_stages, reading_stage(destination, self.config))

    def _answers(self, times: int, changes: Mapping[str, Change]) -> Float[Tensor, "patch ask d_vocab"]:
        """Logits where answers are asked, of this run's prompts `times` over, changed at some sites."""
        scales = None
        if self.scales is not None:
            scales = {name: scale.repeat(times, 1, 1) for name, scale in self.scales.items()}
        logits = wide(self.hooked.run(self.tokens.repeat(times, 1), changes, scales=scales))
        asked = self.prompts.asked
        return logits.unflatten(0, (times, len(self.tokens)))[:, asked.row, asked.position]

    def edge_effects(self, measures: Sequence[Measure]) -> Float[Tensor, "metric edge batch"]:
        stages = torch.tensor(self.edges.source_stages, device=self.delta.device)
        return self.source_effects(measures, self.delta, stages)

    @torch.no_grad()
    def source_effects(
        self,
        measures: Sequence[Measure],
        delta: Float[Tensor, "source batch pos d_model"],
        stage: Int[Tensor, " source"],
    ) -> Float[Tensor, "metric edge batch"]:
        """A forward for each edge, several edges into one destination at once."""
        n, stages, made = len(self.tokens), stage.tolist(), []
        active = delta.flatten(1).any(1).tolist()
        reference = torch.stack([measure(self.logits) for measure in measures])
        for destination in self.edges.destinations:
            reading = reading_stage(destination, self.config)
            effects = reference.new_zeros(len(measures), sum(s <= reading for s in stages), n)
            seen = [i for i, s in enumerate(stages) if active[i] and self._sees(destination, s)]
            parts = torch.tensor(seen, dtype=torch.int64, device=stage.device).split(self._at_once)
            for part in parts if seen else ():
                change = _at(delta[part].flatten(0, 1), destination)
                answered = self._answers(len(part), {destination.site: change})
                value = torch.stack([measure(answered) for measure in measures])
                effects[:, part] = value - reference.unsqueeze(1)
            made.append(effects)
        return torch.cat(made, dim=1)

    @property
    def _at_once(self) -> int:
        """Patches that run at once."""
        c, (n, n_pos) = self.config, self.tokens.shape
        widest = max(3 * c.n_heads * c.d_model, c.n_heads * n_pos, c.d_mlp, c.d_vocab)
        return max(1, _NUMBERS // (n * n_pos * widest))

    @torch.no_grad()
    def node_effects(
        self,
        measure: Measure,
        components: Sequence[Component],
        delta: Float[Tensor, "patch batch pos d_model"],
    ) -> Float[Tensor, "patch batch"]:
        heads = torch.tensor([component.head for component in components], device=delta.device)
        index = self.edges.sources.index(components[0])
        site, head = self.hooked.writes[0 if stage_of(components[0]) == 0 else index]
        reference, made = measure(self.logits), delta.new_zeros(len(delta), len(self.tokens))
        for part in delta.flatten(1).any(1).nonzero().squeeze(1).split(self._at_once):
            here = delta[part]
            change = adding(here.flatten(0, 1), None) if head is None else adding_to_heads(here, heads[part])
            made[part] = measure(self._answers(len(part), {site: change})) - reference
        return made

    @torch.no_grad()
    def received_logits(
        self, delta: Float[Tensor, "batch pos d_model"], receivers: Sequence[Destination], stage: int
    ) -> Float[Tensor, "ask d_vocab"]:
        changes: dict[str, Change] = {}
        for receiver in dict.fromkeys(receivers):
            if self._sees(receiver, stage):
                change, before = _at(delta, receiver), changes.get(receiver.site)
                changes[receiver.site] = change if before is None else then(before, change)
        return self._answers(1, changes)[0]

    def stream(self, stage: int) -> Float[Tensor, "batch pos d_model"]:
        return self.streams[stage]

    @torch.no_grad()
    def activations(self, layer: int) -> Both:
        here = wide(self.hooked.activations(self.tokens, layer))
        if self.intervention not in ("noising", "denoising"):
            return here, here
        other = self.prompts.corrupt if self.intervention == "noising" else self.prompts.clean
        return here, wide(self.hooked.activations(other, layer))

    def written(self, component: Component) -> Both:
        index = self.edges.sources.index(component)
        two = self.intervention in ("noising", "denoising")
        return self.outputs[index], (self.patch if two else self.outputs)[index]

    @torch.no_grad()
    def neuron_logits(
        self, patched: Mapping[int, tuple[Bool[Tensor, "set d_mlp"], Float[Tensor, "batch pos d_mlp"]]]
    ) -> Float[Tensor, "set ask d_vocab"]:
        n_sets = len(next(iter(patched.values()))[0])
        sites = {f"blocks.{layer}.mlp.hook_post": replacing(*chosen) for layer, chosen in patched.items()}
        return self._answers(n_sets, sites)

    def neurons(self, layer: int) -> tuple[Float[Tensor, "d_mlp d_model"], Float[Tensor, " d_model"]]:
        W_out, b_out = self.hooked.neurons(layer)
        return wide(W_out), wide(b_out)

    def sweep_forwards(self) -> float:
        return float(self.n_runs + sum(map(len, self.sources)))

    def first_order_effects(
        self, measure: Measure, at: Float[Tensor, " point"], moved: Sequence[int] = ()
    ) -> Float[Tensor, "edge batch"]:
        size = max(1, self._at_once // self.config.n_layers)  # every block's arrays are held for the backward
        parts = [self._gradients(measure, part, moved) for part in at.split(size)]
        made = []
        for destination, sources in zip(self.edges.destinations, self.sources, strict=True):
            gradient = wide(torch.stack([part[destination.site] for part in parts]).sum(0)) / len(at)
            if destination.component.kind == "head":
                gradient = gradient[:, :, destination.component.head]
            effects = gradient.new_zeros(self._n_sources(destination), len(self.tokens))
            effects[sources] = torch.einsum("bpm,sbpm->sb", gradient, self.delta[sources])
            made.append(effects)
        return torch.cat(made)

    @torch.enable_grad()
    def _gradients(
        self, measure: Measure, at: Float[Tensor, " point"], moved: Sequence[int]
    ) -> dict[str, Tensor]:
        """Gradients of the metric in what is read at each site, summed over points of the path."""
        leaves: dict[str, Tensor] = {}
        changes = {d.site: watched(leaves, d.site) for d in self.edges.destinations}
        active = self.active
        for i in moved:
            if active[i]:
                change = torch.einsum("k,bpm->kbpm", at.to(self.delta), self.delta[i]).flatten(0, 1)
                site, head = self.hooked.writes[i]
                assert site not in changes, "two heads of a block move one after the other"
                changes[site] = adding(change, head)
        total = measure(self._answers(len(at), changes)).sum()
        found = torch.autograd.grad(total, list(leaves.values()))
        return {site: g.unflatten(0, (len(at), -1)).sum(0) for site, g in zip(leaves, found, strict=True)}

    @torch.no_grad()
    def masked_logits(
        self, kept: Bool[Tensor, "mask edge"], *, stage: int = 0
    ) -> Float[Tensor, "mask ask d_vocab"]:
        size = max(1, min(self._at_once, _NUMBERS // self.delta.numel()))
        return torch.cat([self._masked(part, stage) for part in kept.split(size)])

    def _masked(self, kept: Bool[Tensor, "mask edge"], stage: int) -> Float[Tensor, "mask ask d_vocab"]:
        """What destinations read is changed by patch minus output of the sources whose edges are patched."""
        stages, first = self.edges.source_stages, 0
        gap = self.delta.new_zeros(len(kept), *self.delta.shape)
        gap[:, :2] = self.delta[:2]  # embeddings read nothing, and write the same in every run
        by_site: dict[str, list[Tensor]] = {}
        for destination in self.edges.destinations:
            n = self._n_sources(destination)
            seen = torch.tensor([self._sees(destination, s) for s in stages[:n]], device=gap.device)
            patched = gap.new_zeros(len(kept), len(stages))
            patched[:, :n] = (~kept[:, first : first + n] & seen).to(gap)
            first += n
            if reading_stage(destination, self.config) >= stage:
                by_site.setdefault(destination.site, []).append(patched)
        writes = self.hooked.writes
        changes = {
            site: noting(gap, self.patch, writes.index((site, head))) for site, head in writes[2:] if not head
        }
        changes |= {site: closing(gap, torch.stack(patched, dim=1)) for site, patched in by_site.items()}
        return self._answers(len(kept), changes)

    def masked_forwards(self, n_masks: int, stage: int = 0) -> float:
        return float(n_masks)


def _at(delta: Float[Tensor, "batch pos d_model"], destination: Destination) -> Change:
    """Adds to what one destination reads."""
    component = destination.component
    return adding(delta, component.head if component.kind == "head" else None)


def wide(x: Tensor) -> Tensor:
    """In float32 at least: differences of bfloat16 numbers are mostly rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def bridge_run(
    hooked: HookedBridge, prompts: Prompts, intervention: Intervention, *, freeze_norm: bool = False
) -> BridgeRun:
    """Runs clean and corrupt prompts, and checks that what sources write adds up.

    All that is kept and summed is float32 at least, whatever the bridge computes in.

    Under zero ablation a head carries what its value bias writes, which is the output bias's as well: in the
    folded subject it belongs to no head (`metamodel.circuits.base_run`).

    Raises: InputError for a bridge whose streams are not such sums.
    """
    base, other = prompts.clean, prompts.corrupt
    if intervention == "denoising":
        base, other = other, base
    run, asked = hooked.record(base), prompts.asked
    outputs = wide(run.outputs)
    logits = clean = wide(run.logits[asked.row, asked.position])
    two = intervention in ("noising", "denoising")
    match intervention:
        case "mean":
            patch = outputs.mean(1, keepdim=True)
            patch[1] = outputs[1, :1]  # positions are the same on all prompts, but for rounding
            patch = patch.expand_as(outputs)
        case "zero":
            patch = hooked.constant_outputs()[:, None, None].to(outputs).expand_as(outputs)
        case "noising" | "denoising":
            second = hooked.record(other)
            patch = wide(second.outputs)
            if intervention == "denoising":
                clean = wide(second.logits[asked.row, asked.position])
    return BridgeRun(
        config=hooked.config,
        prompts=prompts,
        intervention=intervention,
        outputs=outputs,
        delta=patch - outputs,
        logits=logits,
        clean_logits=clean,
        n_runs=(4 if two else 2) + (intervention == "zero"),  # each prompt without hooks too
        hooked=hooked,
        tokens=base,
        patch=patch,
        streams={stage: wide(stream) for stage, stream in run.streams.items()},
        scales=run.scales if freeze_norm else None,
    )
