"""Cells of a zoo: subjects that have task, size, recipe and origin in common, and what they depart from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_gen.bounds import at_least
from data_gen.kin import kin
from metamodel.config import require
from metamodel.config.words import Departure

JOIN = "+"
"""Between the names of the families that one subject learns."""
MadeOrigin = Literal["trained", "compiled", "siit", "planted"]
"""Ways in which a zoo makes subjects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellConfig:
    """`n_subjects` subjects of one task at each of the sizes, trained by one recipe."""

    family: str
    """Task family, a name of `data_gen.tasks.FAMILIES`; `repeated+facts` learns both at once."""
    variant: str = "base"
    """Variant of the family: its parameters."""
    sizes: tuple[str, ...]
    """Names of sizes."""
    recipe: str
    """Name of a recipe."""
    n_subjects: int
    """Subjects that are trained at each size; those that stay below the task's threshold are dropped."""
    origin: MadeOrigin = "trained"
    """How subjects come to be."""
    checkpoints: tuple[float, ...] = ()
    """Shares of the training, between 0 and 1, after which a copy of each subject is kept too."""
    n_finetuned: int = 0
    """Subjects of which a copy is kept that was trained further, on another private truth if there is one."""
    n_pruned: int = 0
    """Subjects of which a copy is kept that lacks the half of its heads which matter least."""
    departs: Departure = "none"
    """Along which single axis these subjects depart from those that meta-models train on."""

    def __post_init__(self):
        where = f"cell {self.family}-{self.variant}"
        at_least(self, where, {"n_subjects": 1, "n_finetuned": 0, "n_pruned": 0})
        require(
            len(self.sizes) > 0, f"{where}.sizes", expected="at least one size", got="none", do="Name a size."
        )
        require(
            all(0 < share < 1 for share in self.checkpoints),
            f"{where}.checkpoints",
            expected="shares between 0 and 1",
            got=list(self.checkpoints),
            do="Try [0.3]; the end of the training is always kept.",
        )
        related = bool(self.checkpoints) or self.n_finetuned > 0 or self.n_pruned > 0
        require(
            self.origin == "trained" or not related,
            f"{where}.origin",
            expected="'trained' for subjects with checkpoints, fine-tuned or pruned copies",
            got=repr(self.origin),
            do="Leave checkpoints, n_finetuned and n_pruned out.",
        )
        most = max(self.n_finetuned, self.n_pruned)
        require(
            most <= self.n_subjects,
            where,
            expected=f"at most {self.n_subjects} copies, one a subject",
            got=most,
            do="Train more subjects.",
        )

    @property
    def families(self) -> tuple[str, ...]:
        """Families that one subject learns."""
        return tuple(self.family.split(JOIN))


def check_departure(where: str, cell: CellConfig, known: Sequence[CellConfig]) -> None:
    """A test split departs along one axis; along all others it is like some cell of training.

    Args:
        where: of the cell, for the error.
        known: cells that depart in nothing.

    Raises: InputError.
    """
    if cell.departs == "none" or not known:
        return
    same = [c for c in known if c.family == cell.family and c.origin == cell.origin]
    alike = [c for c in same if c.recipe == cell.recipe]
    sizes = {size for c in known for size in c.sizes}
    match cell.departs:
        case "variant":
            like = "origin, family, recipe and size of a cell that departs in nothing, a variant of none"
            new = cell.variant not in {c.variant for c in known if c.family == cell.family}
            fits = new and set(cell.sizes) <= {size for c in alike for size in c.sizes}
        case "size":
            like = "origin, family, variant and recipe of a cell that departs in nothing, a size of none"
            fits = cell.variant in {c.variant for c in alike} and not set(cell.sizes) & sizes
        case "recipe":
            like = "origin, family, variant and size of a cell that departs in nothing, a recipe of none"
            there = {size for c in same if c.variant == cell.variant for size in c.sizes}
            fits = cell.recipe not in {c.recipe for c in known} and set(cell.sizes) <= there
        case "origin":
            like = "family, variant and sizes of cells that depart in nothing, and an origin of none"
            new = cell.origin not in {c.origin for c in known}
            there = {(c.family, c.variant) for c in known}
            fits = new and set(cell.sizes) <= sizes and (cell.family, cell.variant) in there
        case "task":
            like = "recipe and sizes of cells that depart in nothing, and a family of none, by whatever name"
            new = not set(cell.families) & {k for c in known for family in c.families for k in kin(family)}
            fits = new and set(cell.sizes) <= sizes and cell.recipe in {c.recipe for c in known}
    require(
        fits,
        f"{where}.departs",
        expected=like,
        got=f"'{cell.departs}' for {cell.family}-{cell.variant}, {', '.join(cell.sizes)}, {cell.recipe}",
        do="Change the cell, or add one that departs in nothing.",
    )
