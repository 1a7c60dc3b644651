"""From a zoo of edits and a configuration to a trained editor, resumable."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as lightning
from torch.utils.data import DataLoader

from metamodel.config.editing import EditingConfig
from metamodel.networks.editing.editor import Editor
from metamodel.objectives.editing import EditingObjective
from metamodel.training.editing_checkpoint import EditorSizes
from metamodel.training.episodes import Episodes
from metamodel.training.trainer import RESUME, Duration
from metamodel.training.trainer import train as train_objective
from metamodel.triples.edits import Editable

SAVE_EVERY = 200
"""Steps between resumable states."""


def fit_editor(config: EditingConfig, train: Sequence[Editable], folder: Path) -> Editor:
    """A trained editor. Goes on from `folder / "last.ckpt"` where there is one.

    A run that goes on draws its edits anew from another seed: it sees others, and as many.

    Raises: KeyboardInterrupt when interrupted; the last saved state is kept.
    """
    lightning.seed_everything(config.seed, verbose=False)
    editor = sizes_of(config).network()
    objective = EditingObjective(editor, config)
    t = config.training
    episodes = Episodes(
        train,
        batch_size=t.batch_size,
        n_inputs=t.inputs,
        n_shown=t.shown,
        n_maps=t.maps,
        seed=config.seed + (1 if (folder / RESUME).is_file() else 0),
    )
    train_objective(
        objective,
        DataLoader(episodes, batch_size=None),
        folder,
        Duration(unit="step", n=t.steps, save_every=SAVE_EVERY),
        config.trainer,
        name=config.name,
        logger=config.logger,
        grad_clip=config.optim.grad_clip,
    )
    editor.of_steps(config.editor.n_steps)
    return editor.cpu().eval()


def sizes_of(config: EditingConfig) -> EditorSizes:
    e = config.editor
    names = [field.name for field in dataclasses.fields(EditorSizes)]
    return EditorSizes(**{name: getattr(e, name) for name in names})
