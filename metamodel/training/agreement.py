"""Soft labels: how many measurements of a training subject agree, where a zoo was measured again.

A label at its threshold is a coin that was tossed once. The zoo's table `remeasured` holds further tosses;
their mean, with the stored one, is what a reader learns from. Tests are scored against the stored labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from metamodel.features.examples import Agreement, Example
from metamodel.triples.remeasured import measurements
from metamodel.triples.schema import MASKED, NEGATIVE, POSITIVE
from metamodel.triples.store import Zoo


def with_agreement(zoo: Zoo, examples: Sequence[Example]) -> list[Example]:
    """The examples with what all measurements say of each, if the zoo holds more than one.

    Raises: InputError if the table is damaged or was made for another zoo.
    """
    again = measurements(zoo)
    return [_agreed(example, again[example[0].id]) for example in examples] if again else list(examples)


def _agreed(example: Example, rows: Sequence[Mapping[str, Any]]) -> Example:
    """With shares, and with the majority's label and the mean score for readers that need one of each."""
    seen, truth = example
    stored = truth.function_state
    state = torch.stack([stored, *(torch.tensor(row["state"]).view_as(stored) for row in rows)])
    score = torch.stack(
        [truth.function_score, *(torch.tensor(row["raw"]).view_as(truth.function_score) for row in rows)]
    )
    node = (
        torch.stack([truth.node_member, *(torch.tensor(row["node_member"]) for row in rows)]).float().mean(0)
    )
    share = (state == POSITIVE).sum(0) / (state != MASKED).sum(0).clamp_min(1)
    masked = stored == MASKED
    majority = torch.where(share > 0.5, POSITIVE, torch.where(stored == POSITIVE, NEGATIVE, stored))
    return seen, replace(
        truth,
        function_state=torch.where(masked, stored, majority),
        function_score=score.nanmean(0),
        node_member=node > 0.5,
        agreement=Agreement(positive=torch.where(masked, torch.nan, share), node_member=node),
    )
