"""One subject as trained readers are asked about it, and what a user must know before believing them."""

from dataclasses import dataclass

from metamodel.config.errors import require
from metamodel.config.words import Track
from metamodel.features.batch import SeenBatch, pad_seen
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.examples import Seen, unasked
from metamodel.features.graph import graph_of_view
from metamodel.features.view import Shown, view
from metamodel.subjects.subject import Subject
from metamodel.training.checkpoint import FunctionCheckpoint

OUTSIDE = "outside the training distribution: probabilities are extrapolated"
UNTOLD = (
    "no prompts of a behavior were shown: what heads do at its answer position, and its circuit, is guessed"
)
FAR = 1.15
"""A subject counts as outside when it is this many times as far as the farthest training subject."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A subject of which nothing is asked but what its components do."""

    seen: Seen
    track: Track
    told: bool
    """Whether prompts of a behavior were shown."""
    notes: tuple[str, ...]
    """What the subject says of itself."""

    def batch(self, checkpoint: FunctionCheckpoint) -> SeenBatch:
        """The subject alone, as one reader takes it, on its device."""
        device = next(checkpoint.reader.parameters()).device
        return pad_seen([self.seen], checkpoint.slice_names).to(device)

    def notes_of(self, checkpoint: FunctionCheckpoint, batch: SeenBatch) -> tuple[str, ...]:
        """What a user must know before believing what this reader says of the batch."""
        config, notes = self.seen.config, [*self.notes]
        if not self.told:
            notes.append(UNTOLD)
        if self.track == "both" and config.norm_position == "post":
            notes.append("a post-norm subject cannot be run: read from its weights alone")
        layers, heads = checkpoint.reader.largest.tolist()
        larger = config.n_layers > layers or config.n_heads > heads
        if larger:
            shape = f"{config.n_layers} layers of {config.n_heads} heads"
            notes.append(f"{shape}; training subjects had at most {layers} of {heads}")
        far = bool(checkpoint.reader.distance(batch)[0] > FAR * checkpoint.reader.farthest)
        if far or larger or config.norm_position == "post":
            notes.append(OUTSIDE)
        return tuple(dict.fromkeys(notes))


def asked_about(subject: Subject, track: Track, prompts: Shown | None) -> Asked:
    """Describes a subject for readers of one track. Any size; post-norm encoders from their weights.

    Raises: InputError for a post-norm encoder and a reader of activations, or prompts that do not fit.
    """
    require(
        track != "activations" or subject.config.norm_position == "pre",
        subject.name,
        expected="a subject that can be run, for a reader of activations",
        got="a post-norm one",
        do="Load a checkpoint of the track 'weights' or 'both'.",
    )
    v = view(subject, shown=prompts)
    graph = graph_of_view(v, track)
    seen = unasked(graph, subject.config, id=subject.name, n_evidence=len(EVIDENCE))
    return Asked(seen=seen, track=track, told=prompts is not None, notes=v.subject.notes)
