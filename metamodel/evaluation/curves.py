"""The picture of a run's training: loss over epochs, from the curves that the run left."""

import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

CURVES = "curves.png"
LOSSES = (("loss/train", "tab:blue"), ("loss/validation", "tab:orange"))


def draw_curves(run: Path, path: Path) -> bool:
    """Draws the losses of a run. Returns whether there was anything to draw.

    Args:
        run: folder with `metrics.csv`, and `metrics-1.csv` and so on of interrupted attempts, whose later
            epochs the next attempt repeats.
    """
    rows = read_curves(run)
    found = {
        name: [(epoch, row[name]) for epoch, row in sorted(rows.items()) if name in row] for name, _ in LOSSES
    }
    if not any(found.values()):
        return False
    figure = Figure(figsize=(6, 3), layout="constrained")
    panel = figure.subplots()
    for name, colour in LOSSES:
        if found[name]:
            panel.plot(*zip(*found[name], strict=True), color=colour, label=name, linewidth=1.2)
    panel.set_xlabel("epoch", fontsize=8)
    panel.set_ylabel("loss", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.legend(fontsize=8, frameon=False)
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(path, metadata={"Software": None})
    return True


def read_curves(run: Path) -> dict[int, dict[str, float]]:
    """Values of each epoch, by name; the last attempt counts where several have one."""
    attempts = sorted(run.glob("metrics-*.csv"), key=lambda file: int(file.stem.removeprefix("metrics-")))
    last = run / "metrics.csv"
    found: dict[int, dict[str, float]] = {}
    for file in (*attempts, *([last] if last.is_file() else [])):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                values = {key: float(value) for key, value in row.items() if key != "epoch" and value}
                found.setdefault(int(row["epoch"]), {}).update(values)
    return found
