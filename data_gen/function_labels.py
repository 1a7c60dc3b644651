"""What each component does: raw score, null, causal twin and state of every function label.

A head is POSITIVE for a label where its raw score exceeds every head of every re-initialised copy and the
label's effect size, and its causal twin holds; PATTERN_ONLY where only the twin fails; MASKED where the label
is undefined, as for everything that is not a head.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.labels.registry import LABELS
from data_gen.labels.twins import twins
from data_gen.null import LabelNull
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, FunctionLabels

__all__ = ["LABELS", "function_labels"]


def function_labels(subject: Subject, prompts: Prompts, tests: Batteries, null: LabelNull) -> FunctionLabels:
    """Labels of one subject.

    Args:
        prompts: its task prompts, for twins and `name_mover`.
        tests, null: batteries of random tokens, and what re-initialised copies score on them.
    """
    scores, offset = raw_scores(subject.stacked, subject.config, tests, (prompts,))
    raw = scores[0]
    causal = twins(subject, prompts, offset[0])
    z = (raw - null.mean) / null.std.clamp_min(1e-9)
    config = subject.config
    return FunctionLabels(
        raw=by_node(raw, config, torch.nan),
        null_max=by_node(null.largest.expand(raw.shape), config, torch.nan),
        null_z=by_node(z, config, torch.nan),
        twin=by_node(causal.effect, config, torch.nan),
        state=by_node(states(raw, null.largest, causal.holds), config, MASKED),
    )


def states(
    raw: Float[Tensor, "layer head label"],
    null_largest: Float[Tensor, " label"],
    twin_holds: Bool[Tensor, "layer head label"],
) -> Int[Tensor, "layer head label"]:
    """The rule that this file opens with, for heads; MASKED where a score or its null is NaN."""
    least = torch.tensor([label.effect_size for label in LABELS], device=raw.device)
    shows = (raw > null_largest) & (raw >= least)
    state = torch.where(shows, torch.where(twin_holds, POSITIVE, PATTERN_ONLY), NEGATIVE)
    return state.masked_fill(raw.isnan() | null_largest.isnan(), MASKED)


def by_node(
    values: Float[Tensor, "layer head label"] | Int[Tensor, "layer head label"],
    config: SubjectConfig,
    elsewhere: float | int,
) -> Float[Tensor, "node label"] | Int[Tensor, "node label"]:
    """Values of heads in the order of nodes, and `elsewhere` for nodes that are not heads."""
    nodes = components(config)
    out = values.new_full((len(nodes), values.shape[-1]), elsewhere)
    for i, node in enumerate(nodes):
        if node.kind == "head":
            out[i] = values[node.layer, node.head]
    return out
