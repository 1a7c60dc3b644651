"""One Lightning trainer for every question: resumable, quiet, and Ctrl-C is Ctrl-C."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch.utils.data import DataLoader

from metamodel.config.function import TrainerConfig
from metamodel.training.logger import finish, make_logger

RESUME = "last.ckpt"
STEPS_A_POINT = 10
"""Steps between points of a curve, where there are no epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """How long is trained, and after how much a resumable state is saved."""

    unit: Literal["epoch", "step"]
    n: int
    save_every: int


def train(
    objective: lightning.LightningModule,
    data: lightning.LightningDataModule | DataLoader,
    folder: Path,
    duration: Duration,
    machine: TrainerConfig,
    *,
    name: str,
    logger: Literal["csv", "wandb"],
    grad_clip: float,
) -> None:
    """Trains, from `folder / "last.ckpt"` on where there is one. Curves are written into `folder` too.

    Epochs are deterministic on every device; steps may use operations that are so on a CPU only.

    Args:
        name: of the run, for its logger.

    Raises: KeyboardInterrupt when interrupted; the last saved state is kept.
    """
    quiet()
    by_epoch, resume = duration.unit == "epoch", folder / RESUME
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename=RESUME.removesuffix(".ckpt"),
            every_n_epochs=duration.save_every if by_epoch else None,
            every_n_train_steps=None if by_epoch else duration.save_every,
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=by_epoch,
        )
    ]
    if machine.progress:
        callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
    trainer = lightning.Trainer(
        max_epochs=duration.n if by_epoch else -1,
        max_steps=-1 if by_epoch else duration.n,
        accelerator=machine.accelerator,
        devices=1,
        logger=make_logger(logger, folder, name),
        callbacks=callbacks,
        gradient_clip_val=grad_clip,
        enable_progress_bar=machine.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1 if by_epoch else STEPS_A_POINT,
        check_val_every_n_epoch=duration.save_every if by_epoch else 1,
        deterministic=by_epoch,
    )
    try:
        trainer.fit(objective, data, ckpt_path=resume if resume.is_file() else None, weights_only=True)
    except SystemExit:  # Lightning answers Ctrl-C by leaving Python with code 1
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        finish(logger)


def quiet() -> None:
    """Silences what Lightning says of hardware, data loaders and its makers' other products."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
