"""Closed-form scores of heads in token and position space: what the baseline `token_space` knows."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.features.registry import CLOSED_FORMS
from metamodel.features.view import View
from metamodel.features.weights import head_features
from metamodel.subjects.config import components


@torch.no_grad()
def token_space_scores(v: View, labels: Sequence[str]) -> Float[Tensor, "node label"]:
    """Score of every component for every label, higher for more of it.

    NaN for labels that `CLOSED_FORMS` lacks, and for components that are not heads.
    """
    columns = head_features(v)
    nodes = components(v.config)
    found = torch.full((len(nodes), len(labels)), math.nan, device=v.E.device)
    at = [i for i, node in enumerate(nodes) if node.kind == "head"]
    for column, label in enumerate(labels):
        if label in CLOSED_FORMS:
            found[at, column] = columns[CLOSED_FORMS[label].removeprefix("head.")].flatten().float()
    return found
