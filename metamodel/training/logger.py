"""Where training curves go. The one file that imports wandb, and only when it is asked for."""

import os
import sys
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger


def make_logger(kind: Literal["csv", "wandb"], folder: Path, name: str) -> Logger:
    """Writes below `folder`: metrics.csv, or a wandb run, offline where no key is configured."""
    if kind == "csv":
        keep(folder / "metrics.csv")
        return CSVLogger(save_dir=folder, name="", version="")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    offline = wandb.api.api_key is None or os.environ.get("WANDB_MODE") == "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    if offline:
        sys.stderr.write(
            f"wandb: no key configured, logging offline. Later: wandb sync {folder}/wandb/*run-*\n"
        )
    return WandbLogger(name=f"{name} {folder.name}", save_dir=folder, project="metamodel", offline=offline)


def finish(kind: Literal["csv", "wandb"]) -> None:
    """Ends the run in wandb, or the next reader of the same job would write its curves into it."""
    if kind == "wandb":
        import wandb

        wandb.finish()


def keep(curves: Path) -> None:
    """Moves curves of an interrupted attempt to `metrics-1.csv` and so on: the logger would delete them."""
    if curves.is_file():
        attempt = 1 + len(list(curves.parent.glob("metrics-*.csv")))
        curves.rename(curves.with_name(f"metrics-{attempt}.csv"))
