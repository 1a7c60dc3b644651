"""What untrained networks score: re-initialised copies, run stacked, are the null of every label and edge."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.seeds import generator_for
from data_gen.tasks.structure import Structure
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
    """Scores of re-initialised heads or MLPs, pooled over copies, layers and heads; NaN where a label is
    undefined for all of them.

    Pooled, because at initialisation a component's place hardly matters, while the largest of
    copies x heads of one layer is a noisier and lower bar than the largest of all.
    """

    largest: Float[Tensor, " label"]
    mean: Float[Tensor, " label"]
    std: Float[Tensor, " label"]


def reinitialised(config: SubjectConfig, n_copies: int, seed: int) -> dict[str, Tensor]:
    """Weights `[subject, ...]` of copies that differ from a subject before training in their seed only."""
    return initial_weights(config, [generator_for(seed, "null copy", i) for i in range(n_copies)])


def label_null(
    copies: dict[str, Tensor],
    config: SubjectConfig,
    tests: Batteries,
    prompts: Prompts,
    structure: Structure | None = None,
) -> LabelNull:
    """The null of all labels, on the batteries and on one subject's task prompts.

    Args:
        structure: what is known of the task of those prompts; by default what prompts alone tell.
    """
    known = None if structure is None else (structure,)
    scores = raw_scores(copies, config, tests, (prompts,), known).value.flatten(0, 2)
    pooled = [column[~column.isnan()] for column in scores.unbind(-1)]  # heads have no score of MLPs
    nothing = scores.new_tensor(torch.nan)
    return LabelNull(
        largest=torch.stack([x.amax() if len(x) else nothing for x in pooled]),
        mean=torch.stack([x.mean() if len(x) else nothing for x in pooled]),
        std=torch.stack([x.std() if len(x) > 1 else nothing for x in pooled]),
    )


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
