"""Oracles of networks: the sets of components, neurons or edges that can be ablated together.

Items are ablated as edges are (`metamodel.circuits.base_run`); LayerNorms are recomputed. Many sets run in
one batch.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.circuits.base_run import BaseRun, Intervention, base_run
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.graph import Edge
from metamodel.circuits.metrics import Metric
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.nodes import Neuron
from metamodel.circuits.prompts import Prompts, check_answers_differ, check_padding
from metamodel.circuits.sets import SetOracle
from metamodel.circuits.writers import patched_values
from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.sites import Replacement
from metamodel.subjects.subject import Subject

_CHUNK = 4_000_000
"""Numbers in the widest array of one chunk of sets."""


def neurons(config: SubjectConfig, layer: int | None = None) -> tuple[Neuron, ...]:
    """All neurons of one MLP, or of all of them. Raises: InputError without MLPs, or that layer."""
    require(
        config.has_mlp,
        "neurons",
        expected="a subject with MLPs",
        got="one of attention only",
        do="Take components or edges.",
    )
    require(
        layer is None or 0 <= layer < config.n_layers,
        "layer",
        expected=f"a block from 0 to {config.n_layers - 1}",
        got=layer,
        do="Name a block of this subject.",
    )
    layers = range(config.n_layers) if layer is None else [layer]
    return tuple(Neuron(layer=k, index=i) for k in layers for i in range(config.d_mlp))


def component_oracle(
    network: Network | nn.Module,
    prompts: Prompts,
    items: Sequence[Component | str] | None = None,
    *,
    metric: Metric = "margin",
    intervention: Intervention = "noising",
) -> SetOracle:
    """Sets of embeddings, heads and MLPs; by default all of them.

    Raises: InputError for an unknown or repeated component, none, or prompts that do not fit.
    """
    whole = network_of(network)
    sources = components(whole.config)[:-1]
    names, place = _chosen(items, [c.name for c in sources], "components")
    if not isinstance(whole, Subject):  # a component is patched where all of its edges are
        hooked_run = edge_run(whole, prompts, intervention)
        source = torch.tensor(hooked_run.edges.source_node, device=hooked_run.logits.device)
        member = torch.tensor(place, device=source.device)[:, None] == source
        return _by_edges(hooked_run, names, member, metric)
    run = base_run(whole, prompts, intervention)
    config = run.config

    def logits(patched: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch pos d_vocab"]:
        every = patched.new_zeros(len(patched), len(sources))
        every[:, place] = patched
        replace = {site: _put(every[:, first], patch) for site, first, patch in _component_sites(run)}
        tokens = run.tokens.repeat(len(patched), 1)
        made = forward(run.subject.stacked, config, tokens, replace=replace).logits
        return made[0].unflatten(0, (len(patched), len(prompts)))

    return _oracle(run, names, metric, intervention, logits)


def _component_sites(run: BaseRun) -> list[tuple[str, slice | int, Tensor]]:
    """Each site, the sources that are written there, and what they write when patched."""
    config, first = run.config, 2
    found: list[tuple[str, slice | int, Tensor]] = [
        ("hook_embed", 0, run.patch[0]),
        ("hook_pos_embed", 1, run.patch[1]),
    ]
    for layer in range(config.n_layers):
        heads = slice(first, first + config.n_heads)
        found.append((f"blocks.{layer}.attn.hook_result", heads, run.patch[heads].movedim(0, 2)))
        first += config.n_heads
        if config.has_mlp:
            found.append((f"blocks.{layer}.hook_mlp_out", first, run.patch[first]))
            first += 1
    return found


def _put(mask: Bool[Tensor, "set ..."], patch: Float[Tensor, "batch pos *column"]) -> Replacement:
    """Replaces, set by set, the units that the mask has: components, or heads (then a width)."""
    chosen = mask[:, None, None]
    chosen = chosen.reshape(*chosen.shape, *[1] * (patch.ndim + 1 - chosen.ndim))

    def replaced(
        value: Float[Tensor, "one set_batch pos *column"],
    ) -> Float[Tensor, "one set_batch pos *column"]:
        sets = value[0].unflatten(0, (len(mask), -1))
        return torch.where(chosen, patch, sets).flatten(0, 1).unsqueeze(0)

    return replaced


def neuron_oracle(
    network: Network | nn.Module,
    prompts: Prompts,
    items: Sequence[Neuron | str] | None = None,
    *,
    metric: Metric = "margin",
    intervention: Intervention = "noising",
) -> SetOracle:
    """Sets of neurons, of one MLP or of several; by default all of them. They are named `MLP0.17`.

    Raises: InputError for an unknown or repeated neuron, none, or prompts that do not fit.
    """
    run = edge_run(network_of(network), prompts, intervention)
    config, every, measure = run.config, neurons(run.config), run.measure(metric)
    names, place = _chosen(items, [neuron.name for neuron in every], "neurons")
    layers = sorted({every[i].layer for i in place})
    patch = {layer: patched_values(*run.activations(layer), intervention) for layer in layers}
    n_prompts, n_pos = prompts.clean.shape
    widest = max(config.n_heads * max(config.d_model, n_pos), config.d_mlp, config.d_vocab)
    size = max(1, _CHUNK // (n_prompts * n_pos * widest))

    def values(ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
        patched = (~ablated if intervention == "denoising" else ablated).to(run.logits.device)
        whole = patched.new_zeros(len(patched), len(every))
        whole[:, place] = patched
        made = []
        for mask in whole.unflatten(1, (config.n_layers, config.d_mlp)).split(size):
            by_layer = {layer: (mask[:, layer], patch[layer]) for layer in layers}
            made.append(measure(run.neuron_logits(by_layer)).cpu())
        return torch.cat(made)

    return SetOracle(names, values, lower_is_better=metric == "kl")


def edge_oracle(
    network: Network | nn.Module,
    prompts: Prompts,
    items: Sequence[Edge | str] | None = None,
    *,
    metric: Metric = "margin",
    intervention: Intervention = "noising",
    freeze_norm: bool = False,
) -> SetOracle:
    """Sets of edges, named as `Edge.name`; by default all of `component_edges`.

    Raises: InputError for an unknown or repeated edge, none, or prompts that do not fit.
    """
    run = edge_run(network_of(network), prompts, intervention, freeze_norm=freeze_norm)
    names, place = _chosen(items, [edge.name for edge in run.edges.edges], "edges")
    every = torch.arange(len(run.edges), device=run.logits.device)
    member = torch.tensor(place, device=every.device)[:, None] == every
    return _by_edges(run, names, member, metric)


def _by_edges(
    run: EdgeRun, names: tuple[str, ...], member: Bool[Tensor, "item edge"], metric: Metric
) -> SetOracle:
    """Items that are sets of edges; under denoising it is the kept items that are patched."""
    measure = run.measure(metric)

    def values(ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
        patched = (~ablated if run.intervention == "denoising" else ablated).to(member.device)
        kept = patched.float() @ member.float() == 0
        return measure(run.masked_logits(kept)).cpu()

    return SetOracle(names, values, lower_is_better=metric == "kl")


def _chosen(
    items: Sequence[Component | Neuron | Edge | str] | None, known: Sequence[str], where: str
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the items, and their places among those known."""
    if items is None:
        return tuple(known), list(range(len(known)))
    names = tuple(item if isinstance(item, str) else item.name for item in items)
    index = {name: i for i, name in enumerate(known)}
    for name in names:
        if name not in index:
            do = f"The subject has {len(known)}.{suggestion(name, known)}"
            raise InputError(where, expected="names of this subject's", got=repr(name), do=do)
    return names, [index[name] for name in names]


def _oracle(
    run: BaseRun,
    names: tuple[str, ...],
    metric: Metric,
    intervention: Intervention,
    logits: Callable[[Tensor], Tensor],
) -> SetOracle:
    """Runs sets chunk by chunk; under denoising it is the kept items that are patched."""
    check_padding(run.config, run.prompts, intervention)
    check_answers_differ(run.prompts)
    c, (_, n_prompts, n_pos, _) = run.config, run.outputs.shape
    widest = max(c.n_heads * max(c.d_model, n_pos), c.d_mlp, c.d_vocab)
    size, measure = max(1, _CHUNK // (n_prompts * n_pos * widest)), run.measure(metric)

    def values(ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
        patched = (~ablated if intervention == "denoising" else ablated).to(run.outputs.device)
        return torch.cat([measure(run.suffix.at_answer(logits(x))).cpu() for x in patched.split(size)])

    return SetOracle(names, values, lower_is_better=metric == "kl")
