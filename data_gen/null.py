"""What untrained networks score: re-initialised copies, run stacked, are the null of every label and edge."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.seeds import generator_for
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack

EDGE_NULL_COPIES = 4
"""Copies whose edges are swept: hundreds of edges, at the price of as many exact sweeps."""
EDGE_NULL_QUANTILE = 0.99
"""Share of null edges that a circuit's member must exceed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelNull:
    """Scores of re-initialised heads, pooled over copies, layers and heads; NaN where a label is undefined.

    Pooled, because at initialisation a head's place hardly matters, while the largest of
    copies x heads of one layer is a noisier and lower bar than the largest of all.
    """

    largest: Float[Tensor, " label"]
    mean: Float[Tensor, " label"]
    std: Float[Tensor, " label"]


def reinitialised(config: SubjectConfig, n_copies: int, seed: int) -> dict[str, Tensor]:
    """Weights `[subject, ...]` of copies that differ from a subject before training in their seed only."""
    return initial_weights(config, [generator_for(seed, "null copy", i) for i in range(n_copies)])


def label_null(
    copies: dict[str, Tensor], config: SubjectConfig, tests: Batteries, prompts: Prompts
) -> LabelNull:
    """The null of all labels, on the batteries and on one subject's task prompts."""
    scores = raw_scores(copies, config, tests, (prompts,))[0].flatten(0, 2)
    return LabelNull(largest=scores.amax(0), mean=scores.mean(0), std=scores.std(0))


def edge_null_threshold(
    copies: dict[str, Tensor], config: SubjectConfig, prompts: Prompts
) -> Float[Tensor, ""]:
    """99th percentile of |noising margin| over the edges of the first few re-initialised copies.

    Edges whose source writes the same on clean and corrupt prompts, as positions do, carry nothing by
    construction: they would only dilute the null.
    """
    scores = [
        edge_scores(Subject(config=config, weights=unstack(copies, i)), prompts, "noising").margin
        for i in range(EDGE_NULL_COPIES)
    ]
    size = torch.stack(scores).abs().flatten()
    return torch.quantile(size[size > 0], EDGE_NULL_QUANTILE)
