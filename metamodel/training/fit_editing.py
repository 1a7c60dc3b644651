"""From a zoo of edits and a configuration to a trained editor, resumable."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch.utils.data import DataLoader

from metamodel.config.editing import EditingConfig
from metamodel.networks.editing.editor import Editor
from metamodel.objectives.editing import EditingObjective
from metamodel.training.editing_checkpoint import EditorSizes
from metamodel.training.episodes import Episodes
from metamodel.training.fit import RESUME, quiet
from metamodel.training.logger import make_logger
from metamodel.triples.edits import Editable

SAVE_EVERY = 200
"""Steps between resumable states."""


def fit_editor(config: EditingConfig, train: Sequence[Editable], folder: Path) -> Editor:
    """A trained editor. Goes on from `folder / "last.ckpt"` where there is one.

    A run that goes on draws its edits anew from another seed: it sees others, and as many.

    Raises: KeyboardInterrupt when interrupted; the last saved state is kept.
    """
    quiet()
    lightning.seed_everything(config.seed, verbose=False)
    editor = sizes_of(config).network()
    objective = EditingObjective(editor, config)
    resume = folder / RESUME
    t = config.training
    episodes = Episodes(
        train,
        batch_size=t.batch_size,
        n_inputs=t.inputs,
        n_maps=t.maps,
        seed=config.seed + (1 if resume.is_file() else 0),
    )
    trainer = _trainer(config, folder)
    try:
        trainer.fit(
            objective,
            DataLoader(episodes, batch_size=None),
            ckpt_path=resume if resume.is_file() else None,
            weights_only=True,
        )
    except SystemExit:  # Lightning answers Ctrl-C by leaving Python with code 1
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    editor.write.n_steps = config.editor.n_steps
    return editor.cpu().eval()


def sizes_of(config: EditingConfig) -> EditorSizes:
    e = config.editor
    return EditorSizes(width=e.width, map_width=e.map_width, map_layers=e.map_layers, n_steps=e.n_steps)


def _trainer(config: EditingConfig, folder: Path) -> lightning.Trainer:
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename=RESUME.removesuffix(".ckpt"),
            every_n_train_steps=SAVE_EVERY,
            save_top_k=1,
            enable_version_counter=False,
        )
    ]
    if config.trainer.progress:
        callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
    return lightning.Trainer(
        max_steps=config.training.steps,
        accelerator=config.trainer.accelerator,
        devices=1,
        logger=make_logger(config.logger, folder, config.name),
        callbacks=callbacks,
        gradient_clip_val=config.optim.grad_clip,
        enable_progress_bar=config.trainer.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        deterministic=False,
    )
