"""The figure of a card: average precision by label with intervals, and the reliability of probabilities."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metamodel.baselines.base import META_MODEL
from metamodel.evaluation.metrics import Curve
from metamodel.evaluation.report import Report, gap_to_best

FIGURE = "results.svg"


def draw(report: Report, reliability: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Two panels a split: bars of the meta-model beside each label's best baseline; the reliability curve."""
    splits = list(report.scores)
    figure = Figure(figsize=(11, 2.9 * len(splits)), layout="constrained")
    panels = figure.subplots(len(splits), 2, width_ratios=[2.4, 1], squeeze=False)
    for row, split in zip(panels, splits, strict=True):
        _bars(row[0], report, split)
        _reliability(row[1], reliability[split], split)
    # without a date and with a fixed salt the same report gives the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "metamodel", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(panel: Axes, report: Report, split: str) -> None:
    prefix = "average_precision/"
    metrics = [m for m in report.scores[split] if m.startswith(prefix)]
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
    names = [m.removeprefix(prefix).replace("_", " ") for m in metrics]
    panel.set_xticks(range(len(metrics)), names, rotation=30, ha="right", fontsize=7)
    panel.set_ylim(0, 1.02)
    panel.set_title(f"{split}: average precision, meta-model (blue) and best baseline (grey)", fontsize=8)


def _reliability(panel: Axes, curves: Mapping[str, Curve], split: str) -> None:
    panel.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    for method, curve in curves.items():
        ours = method == META_MODEL
        style = {"color": "tab:blue", "zorder": 3} if ours else {"color": "tab:gray", "alpha": 0.35}
        panel.plot(curve[0], curve[1], marker="o", markersize=3, linewidth=1.4 if ours else 0.8, **style)
    panel.set_xlabel("predicted probability", fontsize=7)
    panel.set_ylabel("frequency", fontsize=7)
    panel.set_title(f"{split}: reliability", fontsize=8)
