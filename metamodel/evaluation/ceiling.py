"""The noise ceiling: what other measurements of a subject say of its stored labels.

A zoo's table `remeasured` holds labels on other prompts and other untrained copies. A reader cannot know
which prompts the stored labels were measured on, so what these measurements do not agree on is out of its
reach. It is an estimate: with few measurements it lies low, and a reader of many subjects may exceed it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from metamodel.features.examples import Prediction, Seen
from metamodel.training.examples import pairs_of_nodes
from metamodel.triples.remeasured import Measurements, measurements
from metamodel.triples.schema import MASKED, POSITIVE
from metamodel.triples.store import Zoo

TIE = 1e-3
"""Weight of a score's rank among those of its label: it tells components apart that were positive equally
often, and is less than one measurement counts."""

Ceiling = Mapping[str, Prediction]
"""Id of an example -> what its other measurements say. Slices, probes and algorithm are left open."""


def noise_ceiling(zoo: Zoo, seen: Sequence[Seen]) -> Ceiling | None:
    """What the zoo's other measurements say of these subjects; None where it has none.

    Raises: InputError if the table is damaged or was made for another zoo.
    """
    again = measurements(zoo)
    return ceiling_of(again, seen, n_labels=len(zoo.labels)) if again else None


def ceiling_of(measured: Measurements, seen: Sequence[Seen], *, n_labels: int) -> Ceiling:
    """The ceiling from rows of the table.

    Args:
        measured: all triples: scores are ranked among all of them.
        seen: those that are asked for; each has a row.
    """
    raw = {id: _mean(_stacked(own, "raw", n_labels)) for id, own in measured.items()}
    rank = dict(
        zip(raw, _ranks(torch.cat(list(raw.values()))).split([len(r) for r in raw.values()]), strict=True)
    )
    return {one.id: _prediction(one, measured[one.id], raw[one.id], rank[one.id]) for one in seen}


def _prediction(seen: Seen, own: Sequence[Mapping[str, Any]], raw: Tensor, rank: Tensor) -> Prediction:
    state = _stacked(own, "state", raw.shape[1])
    members = [pairs_of_nodes(torch.tensor(row["member"]), seen.config) for row in own]
    positive = (state == POSITIVE).double().masked_fill(state == MASKED, torch.nan)
    return Prediction(
        function_probability=(1 - TIE) * _mean(positive).nan_to_num(0.0) + TIE * rank,
        function_score=raw.nan_to_num(0.0),
        node_member=torch.tensor([row["node_member"] for row in own]).double().mean(0),
        edge_member=torch.stack(members).double().mean(0),
        slice_accuracy=torch.full((len(seen.slice_names),), torch.nan),
        probe_answer=torch.full((len(seen.probe_slice),), -1),
    )


def _stacked(
    own: Sequence[Mapping[str, Any]], name: str, n_labels: int
) -> Float[Tensor, "measurement node label"]:
    values = torch.tensor([row[name] for row in own], dtype=torch.float64)
    return values.unflatten(1, (-1, n_labels))


def _mean(values: Float[Tensor, "measurement node label"]) -> Float[Tensor, "node label"]:
    """Mean over the first axis of what is known; NaN where nothing is."""
    return values.nanmean(0)


def _ranks(raw: Float[Tensor, "row label"]) -> Float[Tensor, "row label"]:
    """Rank of each score in its column, 0 to 1; 0 where it is undefined."""
    known = raw.isnan().logical_not()
    ranks = torch.zeros_like(raw)
    for i in range(raw.shape[1]):
        own = raw[known[:, i], i]
        ranks[known[:, i], i] = torch.as_tensor(rankdata(own.numpy()) / max(len(own), 1))
    return ranks
