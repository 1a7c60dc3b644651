"""From examples and a configuration to a trained, calibrated reader, resumable."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as lightning
import torch
from torch import Tensor

from metamodel.config.errors import require_one_of
from metamodel.config.function import FunctionConfig
from metamodel.features.algorithms import algorithm_names
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.examples import Example
from metamodel.features.registry import check_no_label_statistic, closed_form_columns, feature_names
from metamodel.losses.function import pad_truth, positive_weights
from metamodel.networks.reader import Reader, ReaderSizes
from metamodel.objectives.function import FunctionObjective
from metamodel.training.calibration import calibrate
from metamodel.training.datamodule import FunctionData
from metamodel.training.normaliser import fit_normaliser, fit_range
from metamodel.training.trainer import Duration
from metamodel.training.trainer import train as train_objective
from metamodel.triples.schema import LabelDefinition

SAVE_EVERY = 5
"""Epochs between resumable states."""
MOST_WEIGHT = 10.0
"""Largest weight of a rare positive."""


def fit(
    config: FunctionConfig,
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    labels: Sequence[LabelDefinition],
    folder: Path,
) -> tuple[Reader, tuple[str, ...], tuple[str, ...]]:
    """A trained and calibrated reader, with its vocabularies of slice names and of programs.

    Goes on from `folder / "last.ckpt"` where there is one.

    Args:
        labels: those of the zoo, in its order.
        folder: of the run: curves and the resumable state are written there.

    Raises:
        InputError: if a feature is the statistic of a label that the track does not determine.
        KeyboardInterrupt: when interrupted; the last saved state is kept.
    """
    check_no_label_statistic(
        config.track,
        {label.name: label.statistics for label in labels},
        {label.name: label.determined_by for label in labels},
    )
    lightning.seed_everything(config.seed, verbose=False)
    slice_names = tuple(sorted({name for seen, _ in train for name in seen.slice_names}))
    algorithms = algorithm_names(truth for _, truth in train)
    names = [label.name for label in labels]
    reader = Reader(_sizes(config, names, len(slice_names), len(algorithms)))
    fit_normaliser(reader.normaliser, [seen for seen, _ in train], config.track)
    fit_range(reader, [seen for seen, _ in train], [truth for _, truth in train])
    label_weight, circuit_weight = _balance(train, config.training.balance)
    objective = FunctionObjective(reader, config, label_weight=label_weight, circuit_weight=circuit_weight)
    data = FunctionData(
        train,
        validation,
        slice_names=slice_names,
        algorithms=algorithms,
        held_out=_held_out(config.training.held_out_functions, names),
        batch_size=config.training.batch_size,
        seed=config.seed,
    )
    train_objective(
        objective,
        data,
        folder,
        Duration(unit="epoch", n=config.training.epochs, save_every=SAVE_EVERY),
        config.trainer,
        name=config.name,
        logger=config.logger,
        grad_clip=config.optim.grad_clip,
    )
    best = objective.best.cpu()
    calibrate(best, validation, slice_names)
    return best.eval(), slice_names, algorithms


def _held_out(functions: Sequence[str], names: Sequence[str]) -> list[int]:
    """Indices of labels. Raises: InputError for one that the zoo lacks."""
    for name in functions:
        require_one_of(name, names, "training.held_out_functions")
    return [names.index(name) for name in functions]


def _sizes(config: FunctionConfig, labels: Sequence[str], n_slices: int, n_algorithms: int) -> ReaderSizes:
    t = config.trunk
    return ReaderSizes(
        n_features=len(feature_names(config.track)),
        n_channels=len(CHANNELS),
        n_evidence=len(EVIDENCE),
        n_labels=len(labels),
        n_slices=n_slices,
        n_algorithms=n_algorithms,
        width=t.width,
        n_layers=t.n_layers,
        n_heads=t.n_heads,
        edge_width=t.edge_width,
        encoder_width=0 if config.track == "activations" else t.encoder_width,
        encoded=t.encoded,
        members=t.members,
        dropout=t.dropout,
        input_dropout=t.input_dropout,
        feature_noise=t.feature_noise,
        track_dropout=t.track_dropout if config.track == "both" else 0.0,
        prompt_dropout=t.prompt_dropout,
        closed_forms=closed_form_columns(config.track, labels),
    )


def _balance(train: Sequence[Example], power: float) -> tuple[Tensor, Tensor]:
    truth = pad_truth([truth for _, truth in train])
    labels = positive_weights(truth.positive.flatten(0, 1), power=power, most=MOST_WEIGHT)
    circuit = [
        positive_weights(member.flatten()[:, None], power=power, most=MOST_WEIGHT)
        for member in (truth.node_member, truth.edge_member)
    ]
    return labels, torch.cat(circuit)
