"""What each component does: raw score, null, causal twin and state of every function label.

A head or MLP is POSITIVE for a label where its raw score exceeds every head or MLP of every re-initialised
copy and the label's effect size, and its causal twin holds; PATTERN_ONLY where only the twin fails; MASKED
where the label is undefined, as those of heads are for MLPs, and all of them for everything else.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import canonical_scores
from data_gen.labels.registry import HEAD_LABELS, LABELS
from data_gen.labels.twins import twins
from data_gen.null import LabelNull
from data_gen.tasks.structure import Structure
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, FunctionLabels

__all__ = ["LABELS", "function_labels"]


def function_labels(
    subject: Subject,
    prompts: Prompts,
    tests: Batteries,
    null: LabelNull,
    structure: Structure | None = None,
) -> FunctionLabels:
    """Labels of one subject.

    Args:
        prompts: its task prompts, for twins and for what heads do at the answer position.
        tests, null: batteries of random tokens, and what re-initialised copies score on them.
        structure: what is known of its task; by default what prompts alone tell.
    """
    known = Structure.of(prompts) if structure is None else structure
    whole = canonical(subject)
    scores = canonical_scores(whole.stacked, whole.config, tests, (prompts,), (known,))
    raw = scores.value[0]
    causal = twins(whole, prompts, scores, known.grid)
    z = (raw - null.mean) / null.std.clamp_min(1e-9)
    config = subject.config
    largest = null.largest.expand(raw.shape).masked_fill(of_other_kinds(config), torch.nan)
    return FunctionLabels(
        raw=by_node(raw, config, torch.nan),
        null_max=by_node(largest, config, torch.nan),
        null_z=by_node(z, config, torch.nan),
        twin=by_node(causal.effect, config, torch.nan),
        state=by_node(states(raw, null.largest, causal.holds), config, MASKED),
    )


def states(
    raw: Float[Tensor, "layer unit label"],
    null_largest: Float[Tensor, " label"],
    twin_holds: Bool[Tensor, "layer unit label"],
) -> Int[Tensor, "layer unit label"]:
    """The rule that this file opens with; MASKED where a score or its null is NaN."""
    least = torch.tensor([label.effect_size for label in LABELS], device=raw.device)
    shows = (raw > null_largest) & (raw >= least)
    state = torch.where(shows, torch.where(twin_holds, POSITIVE, PATTERN_ONLY), NEGATIVE)
    return state.masked_fill(raw.isnan() | null_largest.isnan(), MASKED)


def of_other_kinds(config: SubjectConfig) -> Bool[Tensor, "unit label"]:
    """Labels of MLPs for heads, and labels of heads for the MLP behind them."""
    heads = torch.arange(config.n_heads + config.has_mlp) < config.n_heads
    labels = torch.arange(len(LABELS)) < len(HEAD_LABELS)
    return heads[:, None] != labels


def by_node(
    values: Float[Tensor, "layer unit label"] | Int[Tensor, "layer unit label"],
    config: SubjectConfig,
    elsewhere: float | int,
) -> Float[Tensor, "node label"] | Int[Tensor, "node label"]:
    """Values of heads and MLPs in the order of nodes, and `elsewhere` for other nodes."""
    nodes = components(config)
    out = values.new_full((len(nodes), values.shape[-1]), elsewhere)
    for i, node in enumerate(nodes):
        if node.kind in ("head", "mlp"):
            out[i] = values[node.layer, node.head if node.kind == "head" else -1]
    return out
