"""A trained function reader, and what it says of one subject. `metamodel.load(path).read(subject)`."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.asking import asked_about
from metamodel.config.errors import InputError, require, require_one_of
from metamodel.config.words import Track
from metamodel.features.examples import NONE_OF_THESE, Prediction, Seen
from metamodel.features.view import Shown
from metamodel.loading import local_folder, uploaded
from metamodel.naming import Exemplar, Naming, name_function
from metamodel.subjects.config import Component, components
from metamodel.subjects.subject import Subject
from metamodel.subjects.threads import one_thread
from metamodel.training.checkpoint import FunctionCheckpoint, load_checkpoint
from metamodel.training.companions import K_SHOT, load_k_shot
from metamodel.triples.schema import LabelDefinition
from metamodel.triples.splits import Splits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What a reader says of every component of one subject."""

    subject: str
    nodes: tuple[Component, ...]
    labels: tuple[str, ...]
    probabilities: Float[Tensor, "node label"]
    """Of each label; NaN for kinds of components that have none."""
    scores: Float[Tensor, "node label"]
    """In the unit of the label's raw score; NaN as above."""
    in_circuit: Float[Tensor, " node"]
    """Probability that the component belongs to the circuit of the behavior that was shown."""
    edge_in_circuit: Float[Tensor, "node node"]
    """The same for every pair (source, reader); 0 where there is no edge."""
    algorithm: str
    """Program that the subject runs, of those that training subjects ran, or `none of these`."""
    algorithm_probability: float
    notes: tuple[str, ...]
    """What a user must know before believing the numbers."""

    def shared_with(self, other: "Reading") -> Float[Tensor, " node"]:
        """Probability that each component belongs to both circuits of one subject, read on two behaviors.

        Raises: InputError for a reading of other components.
        """
        require(
            self.nodes == other.nodes,
            "shared_with",
            expected=f"a reading of the {len(self.nodes)} components of {self.subject}",
            got=f"one of {len(other.nodes)} components of {other.subject}",
            do="Read one subject twice, each time with the prompts of one behavior.",
        )
        return self.in_circuit * other.in_circuit

    def to_pandas(self) -> pandas.DataFrame:
        """One row a component: kind, layer, head, membership, and for each label probability and score."""
        rows = []
        for i, node in enumerate(self.nodes):
            row: dict[str, Any] = {"component": node.name, "kind": node.kind}
            row |= {"layer": node.layer, "head": node.head, "in_circuit": float(self.in_circuit[i])}
            for j, label in enumerate(self.labels):
                row[label] = float(self.probabilities[i, j])
                row[f"{label}_score"] = float(self.scores[i, j])
            rows.append(row)
        return pandas.DataFrame(rows).set_index("component")

    def only(self, label: str) -> "Reading":
        """The same reading of one label.

        Raises: InputError if the reader does not know it.
        """
        require_one_of(label, self.labels, "label")
        at = [self.labels.index(label)]
        return replace(
            self, labels=(label,), probabilities=self.probabilities[:, at], scores=self.scores[:, at]
        )

    def ranked(self, label: str) -> pandas.DataFrame:
        """The components that a label applies to, most probable first: kind, probability and score.

        Raises: InputError if the reader does not know the label.
        """
        require_one_of(label, self.labels, "label")
        whole = self.to_pandas()
        columns = {name: whole[key] for name, key in (("kind", "kind"), ("probability", label))}
        found = pandas.DataFrame(columns | {"score": whole[f"{label}_score"]}).dropna()
        return found.sort_values(by="probability", ascending=False, kind="stable")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; null where a label does not apply."""

        def named(values: Tensor) -> dict[str, float | None]:
            pairs = zip(self.labels, values.tolist(), strict=True)
            return {label: None if math.isnan(value) else round(value, 6) for label, value in pairs}

        found = []
        for i, node in enumerate(self.nodes):
            found.append(
                {
                    "component": node.name,
                    "kind": node.kind,
                    "layer": node.layer,
                    "head": node.head,
                    "in_circuit": round(float(self.in_circuit[i]), 6),
                    "probabilities": named(self.probabilities[i]),
                    "scores": named(self.scores[i]),
                }
            )
        program = {"name": self.algorithm, "probability": round(self.algorithm_probability, 6)}
        return {
            "subject": self.subject,
            "algorithm": program,
            "notes": list(self.notes),
            "components": found,
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)


class FunctionReader:
    """A checkpoint that reads subjects. Make one with `metamodel.load`."""

    def __init__(self, checkpoint: FunctionCheckpoint, *, folder: Path | None = None):
        self.checkpoint = checkpoint
        self.folder = folder
        """Where it was loaded from."""

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "FunctionReader":
        """From a folder, or a name on the hub.

        Raises: InputError if it is not there, or not a checkpoint of this version.
        """
        return load(local_folder(name_or_folder))

    def push_to_hub(self, repository: str) -> str:
        """Uploads the folder, metrics and card included, with the user's own login; returns its address.

        Raises: InputError for a reader that was not loaded from a folder.
        """
        return uploaded(self.folder, repository, "a reader")

    @property
    def labels(self) -> tuple[LabelDefinition, ...]:
        return self.checkpoint.labels

    @property
    def track(self) -> Track:
        return self.checkpoint.track

    @property
    def splits(self) -> Splits:
        """Which subjects of which zoo it was trained on."""
        return self.checkpoint.splits

    def predict(self, seen: Seen) -> Prediction:
        """All answers about one subject of a zoo, its behavior included."""
        return self.checkpoint.predict(seen)

    @torch.no_grad()
    def read(self, subject: Subject, *, prompts: Shown | None = None) -> Reading:
        """What every component of a subject does. Any size; post-norm encoders from their weights.

        Args:
            prompts: of the behavior that is asked about, without answers; functions at its answer position
                and its circuit are then told. Without them the reading is about the subject in general.

        Raises: InputError for a post-norm encoder and a reader of activations, or prompts that do not fit.
        """
        with one_thread():
            return self._read(subject, prompts)

    def name_function(
        self,
        subject: Subject,
        *,
        exemplars: Sequence[Exemplar | tuple[Subject, str, bool]],
        function: str | None = None,
        prompts: Shown | None = None,
    ) -> Naming:
        """How much every component of a subject has a function that exemplars show.

        The readers of the checkpoint's folder `k_shot/` answer, each trained without a part of the labels. A
        function that is no label none of them saw, and the answer is the mean of all their logits; with
        `function`, it is that of the one reader that was trained without this label.

        Args:
            exemplars: (subject, name of a component, whether it has the function) of any subjects; at least
                one of each, in any order.
            function: the label that the exemplars show, if they show one.
            prompts: of the behavior in which the subject is asked about, without answers. Exemplars may have
                theirs: `metamodel.naming.Exemplar`.

        Raises: InputError for a checkpoint without such readers, or what `metamodel.naming` refuses.
        """
        if not self._k_shot:
            raise InputError(
                f"{self.folder or 'reader'}: {K_SHOT}",
                expected="readers that were trained without a part of the labels",
                got="none",
                do="Load checkpoints/function, or train with --k_shot_parts 3.",
            )
        return name_function(self._k_shot, subject, exemplars, function=function, prompts=prompts)

    @cached_property
    def _k_shot(self) -> tuple[FunctionCheckpoint, ...]:
        return () if self.folder is None else load_k_shot(self.folder)

    def _read(self, subject: Subject, prompts: Shown | None) -> Reading:
        reader, asked = self.checkpoint.reader.eval(), asked_about(subject, self.track, prompts)
        batch = asked.batch(self.checkpoint)
        said = reader.answers(batch)
        applies = reader.asked[batch.kinds[0]]
        nan = torch.full_like(said.function_score[0], math.nan)
        edges = said.edge_member[0] * (batch.edges[0, ..., 0] > 0)
        return Reading(
            subject=subject.name,
            nodes=components(subject.config),
            labels=tuple(label.name for label in self.labels),
            probabilities=torch.where(applies, said.function_probability[0], nan).cpu(),
            scores=torch.where(applies, said.function_score[0], nan).cpu(),
            in_circuit=said.node_member[0].cpu(),
            edge_in_circuit=edges.cpu(),
            algorithm=(*self.checkpoint.algorithms, NONE_OF_THESE)[int(said.algorithm[0].argmax())],
            algorithm_probability=float(said.algorithm[0].max()),
            notes=asked.notes_of(self.checkpoint, batch),
        )


def load(folder: str | Path) -> FunctionReader:
    """The reader of a checkpoint's folder.

    Raises: InputError naming path, key, expected and found, if anything is missing, unknown or misshapen.
    """
    return FunctionReader(load_checkpoint(Path(folder)), folder=Path(folder))
