"""Edits with known truth, as a zoo holds them: what is wanted of a subject, over its whole domain.

The words: an edit says for every input of a domain what is wanted after it (`wanted`), and where that input
stands (`scope`). A specification shows an editor a few of them: pairs (input, wanted answer), inputs to keep,
and inputs of the domain without any answer.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from metamodel.config.edits import EditKind
from metamodel.subjects.subject import Subject

EDITS_VERSION = 3
"""Form of a zoo of edits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """One edit of one subject, with its truth."""

    kind: EditKind
    rule: str
    """What is done, in words that tests and splits can compare, such as `+3` or `beyond 2`."""
    wanted: Int[Tensor, " input"]
    """Token, or CHANCE."""
    scope: Int[Tensor, " input"]
    pool: Bool[Tensor, " input"]
    """Inputs that a specification may show as pairs."""
    n_pairs: int
    """Pairs that a specification shows where the edit fixes it; 0 where any number makes sense."""
    test: bool = False
    """Whether no editor may train on it: rules that only tests have, and new edits of training subjects."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Editable:
    """A subject, its whole domain and edits of it."""

    subject: Subject
    family: str
    lineage: str
    departs: str
    tokens: Int[Tensor, "input pos"]
    answer: Int[Tensor, " input"]
    """The right answer before any edit: what training taught."""
    answers: Int[Tensor, " answer"]
    """Tokens that are answers in this domain, in no telling order."""
    unseen: Bool[Tensor, " input"]
    """Inputs that no specification shows and no editor trains on, such as a template of their own."""
    edits: tuple[Edit, ...]
    quality: dict[str, float]
    """Accuracy; for structured families accuracy on held-out inputs and the circulant fit of answers; beside
    induction the share of it that is lost with the one head that carries most of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """All that an editor is told of one edit, beside the subject; right-padded."""

    tokens: Int[Tensor, "example pos"]
    position: Int[Tensor, " example"]
    """Where the answer is asked for."""
    role: Int[Tensor, " example"]
    wanted: Int[Tensor, " example"]
    """Token or CHANCE for pairs; anything elsewhere."""
    answers: Int[Tensor, " answer"]
    """Candidate answers."""
