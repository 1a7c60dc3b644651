"""Can the workshop be recognised? How well a classifier tells the origins of subjects apart by our features.

    python benchmarks/origins.py data/medium

A reader that recognises the workshop has learned nothing. For each origin, against all others: AUROC of
boosted trees and of logistic regression on what the component graphs of the weights track hold (mean, spread
and extremes of each feature over a subject's heads), cross-validated with whole lineages and whole families
held out. Beside it stands what shape alone tells (layers, heads, widths, norm), and the same among subjects
without LayerNorm, which all compiled and planted ones are. 0.5 is chance; the single features that tell most
are named. Progress goes to stderr; the last line of stdout is one JSON object.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.features.graph import graph_of
from metamodel.features.registry import feature_names
from metamodel.subjects.config import KINDS
from metamodel.triples import Triple, Zoo

FOLDS = 5
STATISTICS = ("mean", "std", "min", "max")
N_TELLING = 5
SHAPE = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")


def described(triple: Triple) -> np.ndarray:
    """A subject's features: statistics over its heads of each node feature of the weights track."""
    graph = graph_of(triple.subject, track="weights")
    heads = graph.nodes[graph.kinds == KINDS.index("head")].numpy()
    return np.concatenate([heads.mean(0), heads.std(0), heads.min(0), heads.max(0)])


def shape_of(triple: Triple) -> np.ndarray:
    config = triple.subject.config
    norm = float(config.normalization_type == "LN")
    return np.array([*(getattr(config, name) for name in SHAPE), norm], dtype=np.float64)


def auroc(model, x: np.ndarray, y: np.ndarray, groups: Sequence[str]) -> float | None:
    """Cross-validated, groups whole; None where a class has too few groups."""
    n_groups = min(len({g for g, one in zip(groups, y, strict=True) if one == value}) for value in (0, 1))
    if n_groups < 2:
        return None
    score = np.zeros(len(y))
    for train, test in GroupKFold(min(FOLDS, n_groups)).split(x, y, groups):
        if len(set(y[train])) < 2:
            return None
        score[test] = model().fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return round(float(roc_auc_score(y, score)), 3)


def telling(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The features whose value alone tells an origin best, each once: in-sample AUROC, either way round."""
    names = [f"{part} {name}" for part in STATISTICS for name in feature_names("weights")]
    scores = [(roc_auc_score(y, column), name) for column, name in zip(x.T, names, strict=True)]
    best: dict[str, float] = {}
    for score, name in sorted(((max(s, 1 - s), name) for s, name in scores), reverse=True):
        if len(best) < N_TELLING and name.partition(" ")[2] not in {n.partition(" ")[2] for n in best}:
            best[name] = round(float(score), 3)
    return best


def boosted():
    return HistGradientBoostingClassifier(max_iter=100, random_state=0)


def logistic():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))


def measure(x: np.ndarray, shape: np.ndarray, origin: np.ndarray, groups: Sequence[str]) -> dict[str, object]:
    """For each origin the AUROC of each method."""
    found: dict[str, object] = {}
    for name in sorted(set(origin)):
        y = (origin == name).astype(int)
        found[name] = {
            "subjects": int(y.sum()),
            "boosted_trees": auroc(boosted, x, y, groups),
            "logistic": auroc(logistic, x, y, groups),
            "shape_alone": auroc(boosted, shape, y, groups),
            "telling_features": telling(x, y),
        }
        print(name, json.dumps(found[name]), file=sys.stderr)
    return found


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.origins", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo of several origins")
    options = parse_options(parser, arguments)
    zoo, rows = Zoo.open(Path(options.zoo)), []
    seen: set[str] = set()
    for i, triple in enumerate(zoo):
        if triple.info.subject not in seen and triple.info.relation == "none":
            seen.add(triple.info.subject)
            rows.append((triple.info, described(triple), shape_of(triple)))
        print(f"\r{i + 1}/{len(zoo)} triples", end="", file=sys.stderr)
    print(file=sys.stderr)
    infos, x, shape = ([row[i] for row in rows] for i in range(3))
    x, shape = np.nan_to_num(np.stack(x)), np.stack(shape)
    origin = np.array([info.origin for info in infos])
    groups = {
        "lineages": [info.lineage for info in infos],
        "families": [info.family for info in infos],
    }
    no_norm = shape[:, -1] == 0
    result = {
        f"{kind}_held_out": {
            "all": measure(x, shape, origin, held),
            "without_norm": measure(
                x[no_norm],
                shape[no_norm],
                origin[no_norm],
                [group for group, one in zip(held, no_norm, strict=True) if one],
            ),
        }
        for kind, held in groups.items()
    }
    print(json.dumps({"zoo": zoo.name, "subjects": len(rows)} | result))


if __name__ == "__main__":
    run_command(main)
