"""Where training curves go. The one file that imports wandb, and only when it is asked for."""

import os
import sys
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger


def make_logger(kind: Literal["csv", "wandb"], folder: Path, name: str) -> Logger:
    """Writes below `folder`: metrics.csv, or a wandb run, offline where no key is configured."""
    if kind == "csv":
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
    return WandbLogger(name=name, save_dir=folder, project="metamodel", offline=offline)
