"""What a reader must not find: functions in untrained subjects, and labels that belong to other components.

Labels that are shuffled among the components of a kind leave what a reader knows of the subject as a whole,
and take what it knows of each component.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from rich.console import Console
from torch import Tensor

from metamodel.config.words import Track
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import Interval, interval, resampled_weights
from metamodel.evaluation.items import Items, joined
from metamodel.evaluation.measures import precision
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.training.examples import seen_of
from metamodel.triples.schema import MASKED
from metamodel.triples.store import Zoo

CONTROLS = "controls.json"
SCHEMA_VERSION = 1
N_SHUFFLES = 20
"""Shuffles whose mean is reported."""
N_RESAMPLES = 100
"""Resamples of a control: fewer than of a metric, since each asks for `N_SHUFFLES` metrics."""
MOST_SUBJECTS = 100
"""Test subjects of which an untrained copy is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """How much a reader says that subjects do."""

    highest_probability: Interval
    """Of any function of any component of a subject, mean over subjects."""
    share_positive: Interval
    """Components with a function of probability above 1/2, of those that have any to ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """Claims about test subjects, and about re-initialised copies of the very same."""

    n_subjects: int
    trained: Claims
    untrained: Claims


def controls(
    answer: Callable[[Seen], Prediction],
    zoo: Zoo,
    tests: Mapping[str, Sequence[Example]],
    track: Track,
    *,
    undetermined: Sequence[bool],
    seed: int = 0,
) -> Controls:
    """Reads up to `MOST_SUBJECTS` test subjects, evenly from all splits, and an untrained copy of each.

    Args:
        zoo: that the tests are of.
        undetermined: of each label, whether the track leaves it open: a formula may hold of any network.
        seed: draws the copies.
    """
    every = [example for examples in tests.values() for example in examples]
    chosen = every[:: -(-len(every) // MOST_SUBJECTS)]
    asked = [(truth.function_state != MASKED) & torch.tensor(undetermined) for _, truth in chosen]
    copies = [
        seen_of(replace(zoo.triple(seen.id), subject=untrained(seen, seed)), track) for seen, _ in chosen
    ]
    names = sorted({truth.lineage for _, truth in chosen})
    lineage = np.array([names.index(truth.lineage) for _, truth in chosen], dtype=np.int64)
    weights = resampled_weights(len(names), seed=seed)

    def claims(subjects: Sequence[Seen]) -> Claims:
        said = [answer(seen).function_probability.cpu() for seen in subjects]
        found = np.array([_claims(p, open_) for p, open_ in zip(said, asked, strict=True)])
        highest, share = (interval(metrics.mean(column, lineage, len(names)), weights) for column in found.T)
        return Claims(highest_probability=highest, share_positive=share)

    return Controls(
        n_subjects=len(chosen), trained=claims([seen for seen, _ in chosen]), untrained=claims(copies)
    )


def untrained(seen: Seen, seed: int) -> Subject:
    """A subject of the same shape, freshly initialised."""
    digest = hashlib.sha256(f"untrained {seed} {seen.id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    weights = unstack(initial_weights(seen.config, [generator]), 0)
    return Subject(config=seen.config, weights=weights, name=f"{seen.id}, untrained")


def _claims(probability: Tensor, asked: Tensor) -> tuple[float, float]:
    """Highest probability, and share of components that are called positive; NaN if nothing is asked."""
    if not asked.any():
        return float("nan"), float("nan")
    called = ((probability > 0.5) & asked).any(1)
    return float(probability[asked].max()), float(called.sum() / asked.any(1).sum())


def save_controls(found: Controls, folder: Path) -> None:
    """Writes `controls.json`."""
    (folder / CONTROLS).write_text(json.dumps(as_json(found), indent=1) + "\n")


def show_controls(found: Controls, console: Console) -> None:
    """Prints the controls below the tables of a report."""
    for name, claims in (("as they are", found.trained), ("untrained copies", found.untrained)):
        console.print(
            f"{found.n_subjects} test subjects, {name}: "
            f"highest probability {interval_line(claims.highest_probability)}, "
            f"components called positive {interval_line(claims.share_positive)}"
        )


def as_json(found: Controls) -> dict[str, object]:
    def plain(claims: Claims) -> dict[str, object]:
        return {name: plain_interval(Interval(**value)) for name, value in asdict(claims).items()}

    return {
        "schema_version": SCHEMA_VERSION,
        "n_subjects": found.n_subjects,
        "trained": plain(found.trained),
        "untrained": plain(found.untrained),
    }


def shuffled_labels(items: Items, predictions: Sequence[Prediction], seed: int) -> dict[str, Measure]:
    """Average precision against labels shuffled inside each subject among components of a kind.

    Mean over `N_SHUFFLES`. Chance, given which subject it is and which kind of component.
    """
    generator = np.random.default_rng(seed)
    probability = joined([p.function_probability for p in predictions]).astype(np.float64)
    each = [precision(items, items.state[_order(items, generator)], probability) for _ in range(N_SHUFFLES)]
    return {name: metrics.macro([one[name] for one in each]) for name in each[0]}


def _order(items: Items, generator: np.random.Generator) -> Int[ndarray, " node"]:
    """A permutation of all nodes that keeps each in its subject and kind."""
    place = np.arange(len(items.kind))
    home, drawn = (np.lexsort((x, items.kind, items.subject)) for x in (place, generator.random(len(place))))
    order = np.empty_like(place)
    order[home] = drawn
    return order
