"""The figure of a card: average precision by label with intervals, reliability, error against coverage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metamodel.baselines.base import META_MODEL
from metamodel.evaluation.abstention import COVERAGES
from metamodel.evaluation.evaluate import Evaluation
from metamodel.evaluation.measures import CIRCUIT, PRECISION
from metamodel.evaluation.metrics import Curve
from metamodel.evaluation.report import MARK, Report, gap_to_best, stands_outside

FIGURE = "results.svg"


def draw(evaluation: Evaluation, path: Path) -> None:
    """Three panels a split, the meta-model in blue.

    Bars beside each label's best baseline; frequency against probability; error rate against coverage.
    """
    report = evaluation.report
    splits = list(report.scores)
    figure = Figure(figsize=(14, 2.9 * len(splits)), layout="constrained")
    panels = figure.subplots(len(splits), 3, width_ratios=[2.4, 1, 1], squeeze=False)
    for row, split in zip(panels, splits, strict=True):
        _bars(row[0], report, split)
        _reliability(row[1], evaluation.reliability[split], split)
        _abstention(row[2], evaluation.abstention[split], split)
    # without a date and with a fixed salt the same report gives the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "metamodel", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(panel: Axes, report: Report, split: str) -> None:
    metrics = [m for m in report.scores[split] if m.startswith((PRECISION, CIRCUIT))]
    for at, metric in enumerate(metrics):
        gap = gap_to_best(report, split, metric)
        if gap is None:
            panel.text(at, 0.02, "n/a", ha="center", fontsize=7)
            continue
        for offset, method, colour in ((-0.2, META_MODEL, "tab:blue"), (0.2, gap.baseline, "tab:gray")):
            score = report.scores[split][metric][method]
            spread = np.clip([[score.value - score.low], [score.high - score.value]], 0, None)
            panel.bar(at + offset, score.value, 0.38, color=colour)
            panel.errorbar(at + offset, score.value, spread, color="black", linewidth=0.8, capsize=1.5)
    names = [_name(m) + (f" {MARK}" if stands_outside(report, split, m) else "") for m in metrics]
    panel.set_xticks(range(len(metrics)), names, rotation=30, ha="right", fontsize=7)
    panel.set_ylim(0, 1.02)
    panel.set_title(f"{split}: average precision, meta-model (blue) and best baseline (grey)", fontsize=8)


def _name(metric: str) -> str:
    return metric.removeprefix(PRECISION).replace(CIRCUIT, "circuit ").replace("_", " ")


def _reliability(panel: Axes, curves: Mapping[str, Curve], split: str) -> None:
    panel.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    for method, curve in curves.items():
        panel.plot(curve[0], curve[1], marker="o", markersize=3, **_style(method))
    panel.set_xlabel("predicted probability", fontsize=7)
    panel.set_ylabel("frequency", fontsize=7)
    panel.set_title(f"{split}: reliability", fontsize=8)


def _abstention(panel: Axes, curves: Mapping[str, Sequence[float]], split: str) -> None:
    for method, curve in curves.items():
        panel.plot(COVERAGES, curve, marker="o", markersize=3, **_style(method))
    panel.set_ylim(bottom=0)
    panel.set_xlabel("share of answers given, surest first", fontsize=7)
    panel.set_ylabel("error rate", fontsize=7)
    panel.set_title(f"{split}: abstention", fontsize=8)


def _style(method: str) -> dict[str, Any]:
    if method == META_MODEL:
        return {"color": "tab:blue", "zorder": 3, "linewidth": 1.4}
    return {"color": "tab:gray", "alpha": 0.35, "linewidth": 0.8}
