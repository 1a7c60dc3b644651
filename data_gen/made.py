"""What a shard makes before it is harvested: subjects with their tasks, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_gen.tasks.base import Task
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import Relation, Truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A subject that was made and accepted."""

    subject: Subject
    """Its name is its id in the zoo."""
    task: Task
    """Its own instance, or a mixture of several."""
    seed: int
    lineage: str
    relation: Relation = "none"
    relative: str = ""
    truth: Truth | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MadeShard:
    """All that came of the specs of one shard."""

    accepted: tuple[Made, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Id to reason."""
