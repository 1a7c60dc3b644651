"""Readers beside a checkpoint's main one, trained on the same subjects, for the same report.

    checkpoint/                 the main reader
    checkpoint/weights/         a reader of another track
    checkpoint/k_shot/0/        a reader that saw no label of a part of the functions

Each is a checkpoint of its own that loads by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from metamodel.config.function import FunctionConfig
from metamodel.config.words import TRACKS, Track
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.features.tracks import seen_on
from metamodel.training.checkpoint import CONFIG, FunctionCheckpoint, load_checkpoint, save
from metamodel.triples.schema import POSITIVE, LabelDefinition

K_SHOT = "k_shot"
LEAST_POSITIVES = 30
"""Positive components of training subjects that a function needs to be held out: fewer lend no exemplars."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Companions:
    """What stands beside a main reader; often nothing."""

    tracks: Mapping[Track, FunctionCheckpoint]
    k_shot: tuple[FunctionCheckpoint, ...]

    def save(self, folder: Path) -> None:
        """Writes each into a folder of its own inside the main checkpoint's."""
        for track, checkpoint in self.tracks.items():
            save(checkpoint, folder / track)
        for i, checkpoint in enumerate(self.k_shot):
            save(checkpoint, folder / K_SHOT / str(i))


ALONE = Companions(tracks={}, k_shot=())


def on_track(checkpoint: FunctionCheckpoint) -> Callable[[Seen], Prediction]:
    """What a reader of a narrower track says of a subject that was described on the track `both`."""
    return lambda seen: checkpoint.predict(seen_on(seen, checkpoint.track))


def load_companions(folder: Path) -> Companions:
    """Those that are there.

    Raises: InputError if one of them is damaged.
    """
    tracks: dict[Track, FunctionCheckpoint] = {
        track: load_checkpoint(folder / track) for track in TRACKS if (folder / track / CONFIG).is_file()
    }
    return Companions(tracks=tracks, k_shot=load_k_shot(folder))


def load_k_shot(folder: Path) -> tuple[FunctionCheckpoint, ...]:
    """Readers of a checkpoint that were each trained without a part of the functions; often none.

    Raises: InputError if one of them is damaged.
    """
    parts = sorted((folder / K_SHOT).glob("*/"), key=lambda path: path.name)
    return tuple(load_checkpoint(part) for part in parts)


def train_companions(
    config: FunctionConfig,
    train: Sequence[Example],
    validation: Sequence[Example],
    labels: Sequence[LabelDefinition],
    make: Callable[[FunctionConfig, Sequence[Example], Sequence[Example], str], FunctionCheckpoint],
) -> Companions:
    """Trains what the configuration asks for beside the main reader.

    Args:
        train, validation: described on the main reader's track.
        make: trains one reader, in a folder of this name inside the run's.
    """
    tracks: dict[Track, FunctionCheckpoint] = {}
    for track in config.also:
        own = replace(config, track=track, also=(), k_shot_parts=0)
        tracks[track] = make(own, _on(track, train), _on(track, validation), track)
    k_shot = []
    for i, functions in enumerate(function_parts(train, labels, config.k_shot_parts)):
        training = replace(config.training, held_out_functions=functions, epochs=config.k_shot_epochs)
        trunk = replace(config.trunk, members=1, encoder_width=0)
        own = replace(config, trunk=trunk, training=training, also=(), k_shot_parts=0)
        k_shot.append(make(own, train, validation, f"{K_SHOT}-{i}"))
    return Companions(tracks=tracks, k_shot=tuple(k_shot))


def _on(track: Track, examples: Sequence[Example]) -> list[Example]:
    return [(seen_on(seen, track), truth) for seen, truth in examples]


def function_parts(
    train: Sequence[Example], labels: Sequence[LabelDefinition], n_parts: int
) -> tuple[tuple[str, ...], ...]:
    """Functions in `n_parts` parts, neighbours in the list in different ones."""
    state = torch.cat([truth.function_state for _, truth in train])
    enough = (state == POSITIVE).sum(0) >= LEAST_POSITIVES
    names = [label.name for label, is_enough in zip(labels, enough.tolist(), strict=True) if is_enough]
    return tuple(part for i in range(n_parts) if (part := tuple(names[i::n_parts])))
