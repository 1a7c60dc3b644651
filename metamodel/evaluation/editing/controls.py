"""What an editor does when it is told something else: other answers, or another subject's activations."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from metamodel.baselines.editing.base import Episode
from metamodel.config.edits import PAIR
from metamodel.triples.edits import Editable


def shuffled(episode: Episode) -> Episode:
    """The same specification with wanted answers of the pairs that are drawn among all answers."""
    examples = episode.examples
    pair = examples.role == PAIR
    generator = torch.Generator().manual_seed(0)
    drawn = examples.answers[torch.randint(len(examples.answers), pair.shape, generator=generator)]
    return replace(episode, examples=replace(examples, wanted=torch.where(pair, drawn, examples.wanted)))


def other_subject(episode: Episode, among: Sequence[Editable]) -> Editable | None:
    """Another subject of the same shape that is asked the same questions, if there is one.

    What an editor proposes for it, added to the subject itself, shows what the subject's own activations add.
    """
    own = episode.editable
    for one in among:
        same = one.subject.config == own.subject.config and one.tokens.shape == own.tokens.shape
        if same and one.lineage != own.lineage and bool((one.tokens == own.tokens).all()):
            return one
    return None
