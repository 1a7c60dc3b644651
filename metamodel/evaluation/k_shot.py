"""How well functions are named whose labels a reader never saw, from k labelled components of other subjects.

Each function is asked of a reader that was trained without it (`training.held_out_functions`). Exemplars are
components of training subjects, half of them positive; what is measured is the average precision on held-out
subjects, averaged over draws of the exemplars.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metamodel.evaluation import metrics
from metamodel.evaluation.metrics import Measure
from metamodel.features.batch import pad_seen
from metamodel.features.examples import Example
from metamodel.losses.function import pad_truth
from metamodel.networks.exemplars import drawn_exemplars
from metamodel.networks.member import Member
from metamodel.networks.normaliser import soft_limited
from metamodel.training.checkpoint import FunctionCheckpoint

NUMBERS = (0, 4, 16)
"""Exemplars of a function."""
DRAWS = 10
"""Times that exemplars are drawn anew."""
METHODS = ("meta-model", "prior", "nearest", "logistic")
"""Opponents: a constant; the nearer prototype of normalised features; logistic regression on exemplars."""
BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Components:
    """Components of several subjects, end to end."""

    places: list[Float[Tensor, "item width"]]
    """By member of the ensemble."""
    features: Float[Tensor, "item feature"]
    positive: Float[Tensor, "item label"]
    lineage: list[str]


def k_shot(
    readers: Sequence[FunctionCheckpoint],
    train: Sequence[Example],
    test: Sequence[Example],
    *,
    counted: Collection[str],
    seed: int = 0,
) -> Mapping[str, Mapping[str, Measure]]:
    """Metric -> method -> measure of one split, macro averages over functions that some reader never saw.

    Args:
        readers: each with functions that were held out of its training, none of them twice.
        counted: labels that averages of the split count.
        seed: draws the exemplars.
    """
    found: dict[str, dict[str, list[Measure]]] = {}
    lineages = sorted({truth.lineage for _, truth in test})
    for reader in readers:
        names = [label.name for label in reader.labels]
        held_out = [names.index(name) for name in reader.held_out_functions if name in counted]
        if not held_out:
            continue
        lend, asked = (_components(reader, examples, held_out) for examples in (train, test))
        for k in NUMBERS:
            for method, said in _answers(reader, lend, asked, k, seed).items():
                found.setdefault(f"k_shot_average_precision/{k}", {}).setdefault(method, []).extend(
                    _precision(said, asked, lineages)
                )
    return {
        metric: {method: metrics.macro(measures) for method, measures in methods.items()}
        for metric, methods in found.items()
    }


@torch.no_grad()
def _components(
    reader: FunctionCheckpoint, examples: Sequence[Example], labels: Sequence[int]
) -> _Components:
    network = reader.reader.eval()
    places: list[list[Tensor]] = [[] for _ in network.members]
    features, positive, lineage = [], [], []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        batch = pad_seen([seen for seen, _ in some], reader.slice_names)
        truth = pad_truth([truth for _, truth in some]).positive[..., list(labels)]
        asked = (~truth.isnan()).any(-1) & batch.node_mask
        for own, answers in zip(places, network(batch), strict=True):
            own.append(answers.places[asked])
        features.append(soft_limited(network.normaliser.deviations(batch))[asked])
        positive.append(truth[asked])
        lineage += [some[i][1].lineage for i in asked.nonzero()[:, 0].tolist()]
    return _Components(
        places=[torch.cat(own) for own in places],
        features=torch.cat(features),
        positive=torch.cat(positive),
        lineage=lineage,
    )


Answers = Sequence[Float[Tensor, "item label"]]
"""What one method says, draw by draw."""


@torch.no_grad()
def _answers(
    reader: FunctionCheckpoint, lend: _Components, asked: _Components, k: int, seed: int
) -> Mapping[str, Answers]:
    found: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    everyone = torch.ones(len(lend.features), dtype=torch.bool)
    for draw in range(DRAWS if k else 1):
        generator = torch.Generator().manual_seed(seed * 1000 + draw)
        chosen, holds = drawn_exemplars(lend.positive, everyone, k, generator)
        logits = [
            cast(Member, member).exemplars(there, own[chosen], holds)
            for member, own, there in zip(reader.reader.members, lend.places, asked.places, strict=True)
        ]
        found["meta-model"].append(torch.stack(logits).mean(0))
        found["prior"].append(torch.zeros_like(asked.positive))
        for method, learn in (("nearest", _nearer), ("logistic", _logistic)):
            columns = [
                learn(lend.features[chosen[label]], holds[label], asked.features)
                for label in range(asked.positive.shape[1])
            ]
            found[method].append(torch.stack(columns, dim=1))
    return found


def _nearer(
    exemplars: Float[Tensor, "exemplar feature"],
    holds: Float[Tensor, " exemplar"],
    features: Float[Tensor, "item feature"],
) -> Float[Tensor, " item"]:
    """How much nearer the mean of the positive exemplars is than that of the negative ones."""
    if not ((holds == 1).any() and (holds == 0).any()):
        return features.new_zeros(len(features))
    positive, negative = (exemplars[holds == value].mean(0) for value in (1, 0))
    return (features - negative).norm(dim=1) - (features - positive).norm(dim=1)


def _logistic(
    exemplars: Float[Tensor, "exemplar feature"],
    holds: Float[Tensor, " exemplar"],
    features: Float[Tensor, "item feature"],
) -> Float[Tensor, " item"]:
    known = ~holds.isnan()
    if len(holds[known].unique()) < 2:
        return features.new_zeros(len(features))
    fit = LogisticRegression(C=0.1).fit(exemplars[known].numpy(), holds[known].numpy())
    return torch.as_tensor(fit.decision_function(features.numpy()), dtype=features.dtype)


def _precision(said: Answers, asked: _Components, names: Sequence[str]) -> list[Measure]:
    """One measure a function: the mean over draws.

    Args:
        names: of all lineages of the split, in the order of their weights.
    """
    lineage = np.array([names.index(name) for name in asked.lineage])
    measures = []
    for label in range(asked.positive.shape[1]):
        known = ~asked.positive[:, label].isnan().numpy()
        truth = asked.positive[:, label].numpy()[known] == 1
        draws = [
            metrics.average_precision(
                truth, one[:, label].numpy()[known].astype(np.float64), lineage[known], len(names)
            )
            for one in said
        ]
        measures.append(_mean_of(draws))
    return measures


def _mean_of(measures: Sequence[Measure]) -> Measure:
    return lambda weights: np.mean([measure(weights) for measure in measures], axis=0)
