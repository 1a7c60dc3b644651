"""What every editor offers, opponents and meta-model alike: a change of weights for one specification."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Edit, Editable, Examples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode:
    """One specification of one edit, with its truth."""

    editable: Editable
    edit: Edit
    examples: Examples
    """What an editor is told; no padding."""
    inputs: Int[Tensor, " example"]
    """Which inputs of the domain these are."""


Changes = Mapping[str, Tensor]
"""What is added to each raw weight, by name; weights that do not change are left out."""


class Opponent(ABC):
    """Tunes itself on episodes of training subjects, and then edits one subject after the other."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in reports."""

    @abstractmethod
    def tune(self, episodes: Sequence[Episode]) -> None:
        """Chooses what it has to choose, by the harmonic mean S on these episodes. Deterministic."""

    @abstractmethod
    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        """The change that achieves a specification, as far as this method can.

        Args:
            kind: of the edit, which opponents are told so that each kind has a setting of its own; the
                editor that is judged is not.
        """
