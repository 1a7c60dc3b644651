"""Edge scores of a TransformerBridge of any pre-norm architecture, through hooks, on the same graph.

Where `Subject.from_bridge` accepts the bridge, `metamodel.circuits.score` on that subject gives the same
numbers many times faster, and has all methods. Here each edge costs a forward, all sources of a destination
at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.circuits.attribution import EAP, EAPIG, check_differentiable, check_gradient
from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.cost import BACKWARD
from metamodel.circuits.exact import Exact
from metamodel.circuits.graph import ComponentEdges, Destination, component_edges
from metamodel.circuits.methods import METHODS
from metamodel.circuits.metrics import Measure, Metric, check_metric
from metamodel.circuits.prompts import Asked, Prompts, check_answers_differ, check_fit
from metamodel.circuits.scores import EdgeMethod, EdgeScores, standard_error
from metamodel.config.errors import require, require_one_of
from metamodel.subjects.interchange import hooked

if TYPE_CHECKING:
    from metamodel.subjects.interchange.hooked import HookedBridge

_ROWS = 512
"""Prompts that run at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _BridgeRun:
    """The run in which edges are patched, and by what each source's output changes."""

    hooked: "HookedBridge"
    tokens: Tensor
    asked: Asked
    measure: Measure
    delta: Float[Tensor, "source batch pos d_model"]
    logits: Float[Tensor, "ask d_vocab"]

    @property
    def edges(self) -> ComponentEdges:
        return component_edges(self.hooked.config)

    @property
    def active(self) -> Bool[Tensor, " source"]:
        """Whether a source's output changes at all."""
        return self.delta.flatten(1).any(1)

    def sources_of(self, destination: Destination) -> list[int]:
        """Indices of sources that feed it and change. A parallel block's MLP reads none of its heads."""
        edges, active = self.edges, self.active.tolist()
        return [
            edges.sources.index(edge.source)
            for edge in edges.edges
            if edge.destination == destination
            and active[edges.sources.index(edge.source)]
            and not (
                self.hooked.parallel
                and destination.channel == "in"
                and edge.source.kind == "head"
                and edge.source.layer == destination.component.layer
            )
        ]

    def at_answer(self, logits: Float[Tensor, "*patch batch pos d_vocab"]) -> Tensor:
        return logits[..., self.asked.row, self.asked.position, :]


def bridge_scores(
    bridge: nn.Module,
    prompts: Prompts,
    metric: Metric = "margin",
    intervention: Intervention = "noising",
    *,
    method: EdgeMethod | str = "exact",
) -> EdgeScores:
    """Scores of every edge of a bridge whose blocks are pre-norm, on the bridge's device.

    The graph is `component_edges` of the bridge's sizes. Edges that an architecture lacks score 0: from
    position embeddings in rotary networks, and from heads to the MLP of their own block where both run side
    by side.

    Args:
        method: `Exact()`, `EAP()` or `EAPIG()` over inputs, or its name. LayerNorms are recomputed.

    Raises: InputError for another method; for zero ablation, which raw weights leave to their gauge; for
    prompts that do not fit; and for a bridge that hooks cannot express, naming the setting.
    """
    if isinstance(method, str):
        require_one_of(method, METHODS, "method")
        method = METHODS[method]
    _check_method(method)
    check_intervention(intervention)
    check_metric(metric)
    require(
        intervention != "zero",
        "intervention",
        expected="noising or denoising or mean for a bridge, whose raw weights leave zero to their gauge",
        got="'zero'",
        do="Use Subject.from_bridge and metamodel.circuits.score, which fold the weights first.",
    )
    with hooked(bridge) as whole:
        check_fit(whole.config, prompts, who="the bridge")
        check_answers_differ(prompts)
        run = _base_run(whole, prompts, metric, intervention)
        if isinstance(method, Exact):
            effects, forwards = _exact(run)
        else:
            check_differentiable(metric, method.name)
            if isinstance(method, EAP):
                check_gradient(metric, intervention, method.name)
            steps = method.steps if isinstance(method, EAPIG) else 0
            effects, forwards = _attribution(run, steps)
    return EdgeScores(
        edges=run.edges,
        method=method.name,
        metric=metric,
        intervention=intervention,
        value=effects.mean(-1),
        se=standard_error(effects),
        base=float(run.measure(run.logits).mean()),
        forwards=forwards + (1 if intervention == "mean" else 2),
        per_prompt=effects,
        quantity="effect" if isinstance(method, Exact) else "estimate",
    )


def _check_method(method: EdgeMethod) -> None:
    fits = isinstance(method, Exact | EAP) or (isinstance(method, EAPIG) and method.over == "inputs")
    require(
        fits and not getattr(method, "freeze_norm", False),
        "method",
        expected="exact, eap or eap_ig_inputs for a bridge, with LayerNorms recomputed",
        got=repr(method.name),
        do="Use Subject.from_bridge and metamodel.circuits.score, where the bridge allows it.",
    )


@torch.no_grad()
def _base_run(
    whole: "HookedBridge", prompts: Prompts, metric: Metric, intervention: Intervention
) -> _BridgeRun:
    asked = prompts.asked
    base, other = prompts.clean, prompts.corrupt
    if intervention == "denoising":
        base, other = other, base
    run = whole.run(base, record=True)
    assert run.outputs is not None
    logits = clean = run.logits[asked.row, asked.position]
    if intervention == "mean":
        patch = run.outputs.mean(1, keepdim=True)
        patch[1] = run.outputs[1, :1]  # positions are the same on all prompts, but for rounding
    else:
        second = whole.run(other, record=True)
        assert second.outputs is not None
        patch = second.outputs
        if intervention == "denoising":
            clean = second.logits[asked.row, asked.position]
    return _BridgeRun(
        hooked=whole,
        tokens=base,
        asked=asked,
        measure=Measure.of(metric, prompts, clean),
        delta=patch - run.outputs,
        logits=logits,
    )


@torch.no_grad()
def _exact(run: _BridgeRun) -> tuple[Float[Tensor, "edge batch"], float]:
    """A forward for each edge, several edges into one destination at once."""
    n, made, forwards = len(run.tokens), [], 0
    reference, n_edges = run.measure(run.logits), [edge.destination for edge in run.edges.edges]
    for destination in run.edges.destinations:
        sources = run.sources_of(destination)
        effects = reference.new_zeros(n_edges.count(destination), n)
        for part in torch.tensor(sources, dtype=torch.int64).split(max(1, _ROWS // n)):
            change = _adding(run.delta[part].flatten(0, 1), destination)
            tokens = run.tokens.repeat(len(part), 1)
            logits = run.hooked.run(tokens, {destination.site: change}).logits
            logits = logits.unflatten(0, (len(part), n))
            effects[part] = run.measure(run.at_answer(logits)) - reference
            forwards += len(part)
        made.append(effects)
    return torch.cat(made), float(forwards)


def _adding(
    delta: Float[Tensor, "batch pos d_model"], destination: Destination
) -> Callable[[Tensor], Tensor]:
    """Adds to what one destination reads; heads of a block read side by side, on an axis of their own."""

    def change(value: Tensor) -> Tensor:
        if destination.component.kind != "head":
            return value + delta.to(value)
        value = value.clone()
        value[:, :, destination.component.head] += delta.to(value)
        return value

    return change


def _attribution(run: _BridgeRun, steps: int) -> tuple[Float[Tensor, "edge batch"], float]:
    """EAP for no steps, else EAP-IG over inputs, at midpoints."""
    at = [(i + 0.5) / steps for i in range(steps)] or [0.0]
    size = max(1, _ROWS // len(run.tokens))
    parts = [_gradients(run, at[i : i + size]) for i in range(0, len(at), size)]
    made = []
    for destination in run.edges.destinations:
        gradient = torch.stack([part[destination.site] for part in parts]).sum(0) / len(at)
        if destination.component.kind == "head":
            gradient = gradient[:, :, destination.component.head]
        count = sum(edge.destination == destination for edge in run.edges.edges)
        effects = gradient.new_zeros(count, len(run.tokens))
        sources = run.sources_of(destination)
        effects[sources] = torch.einsum("bpm,sbpm->sb", gradient, run.delta[sources].to(gradient))
        made.append(effects)
    return torch.cat(made), len(at) * (1 + BACKWARD)


@torch.enable_grad()
def _gradients(run: _BridgeRun, at: list[float]) -> dict[str, Tensor]:
    """Gradients of the metric in what is read at each site, summed over points where embeddings are moved."""
    leaves: dict[str, Tensor] = {}
    n = len(run.tokens)

    def watched(site: str) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            leaves[site] = torch.zeros_like(value, requires_grad=True)
            return value + leaves[site]

        return change

    def moved(source: int) -> Callable[[Tensor], Tensor]:
        change = torch.stack([point * run.delta[source] for point in at]).flatten(0, 1)
        return lambda value: value + change.to(value)

    changes = {d.site: watched(d.site) for d in run.edges.destinations}
    if any(at):
        names = ("hook_embed", "hook_pos_embed")
        changes |= {name: moved(i) for i, name in enumerate(names) if run.active[i]}
    logits = run.hooked.run(run.tokens.repeat(len(at), 1), changes).logits.unflatten(0, (len(at), n))
    total = run.measure(run.at_answer(logits)).sum()
    found = torch.autograd.grad(total, list(leaves.values()))
    return {site: g.unflatten(0, (len(at), n)).sum(0) for site, g in zip(leaves, found, strict=True)}
