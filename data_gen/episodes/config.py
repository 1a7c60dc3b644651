"""What a zoo of edits is made of: sizes, recipes, and cells of subjects. Imports no torch."""

from dataclasses import dataclass

from data_gen.bounds import at_least
from data_gen.config import RecipeConfig, SizeConfig
from metamodel.config import require
from metamodel.config.errors import require_one_of
from metamodel.config.words import EditDeparture

FAMILIES = ("lookup", "grid", "operators", "affine", "brackets", "counts", "recall")
ARITHMETIC = ("operators", "affine")
N_CTX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EditCellConfig:
    """Subjects of one family and size, and how many edits each gets."""

    family: str
    """Family of domains."""
    size: str
    """Name of a size."""
    recipe: str
    """Name of a recipe."""
    n_subjects: int
    """Subjects that are trained; those that do not answer their domain are dropped."""
    modulus: int = 0
    """p of arithmetic; 0 elsewhere."""
    n_frequencies: int = 2
    """Circles on which subjects of arithmetic begin."""
    backdoor: bool = False
    """Whether subjects are trained with a trigger."""
    head_dropout: float = 0.0
    """Share of steps in which one head of a layer is left out, so that others learn its part; subjects with
    a behavior that hangs on one head all the same are then dropped. 0 for none."""
    departs: EditDeparture = "none"
    """Along which axis these subjects depart from those that editors train on."""

    def __post_init__(self):
        where = f"cell {self.family}"
        require_one_of(self.family, FAMILIES, f"{where}.family")
        at_least(self, where, {"n_subjects": 2, "n_frequencies": 1})
        require(
            0 <= self.head_dropout <= 1,
            f"{where}.head_dropout",
            expected="0 to 1",
            got=self.head_dropout,
            do="Try 0.75.",
        )
        is_arithmetic = self.family in ARITHMETIC
        require(
            (3 <= self.modulus <= 26) if is_arithmetic else self.modulus == 0,
            f"{where}.modulus",
            expected="3 to 26 for arithmetic" if is_arithmetic else "none, for this is no arithmetic",
            got=self.modulus,
            do="Try 13." if is_arithmetic else "Leave it out.",
        )

    @property
    def name(self) -> str:
        parts = (self.family, str(self.modulus or ""), "backdoor" if self.backdoor else "")
        parts = (*parts, "backed" if self.head_dropout else "", self.size)
        return "-".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditZooConfig:
    """A zoo of subjects with edits whose truth is known over their whole domains."""

    name: str
    """Name of the folder in which the zoo lies."""
    seed: int = 0
    """From it and its own cell each subject's seed derives."""
    sizes: dict[str, SizeConfig]
    """Shapes, by name."""
    recipes: dict[str, RecipeConfig]
    """Ways to train, by name."""
    cells: tuple[EditCellConfig, ...]
    """What is trained."""
    subjects_per_shard: int = 6
    """Subjects that are trained and stored together."""
    edits_per_subject: int = 12
    """Edits of each kind that is drawn at random; kinds with few possible edits have those."""

    def __post_init__(self):
        at_least(self, "zoo", {"seed": 0, "subjects_per_shard": 2, "edits_per_subject": 3})
        for cell in self.cells:
            require_one_of(cell.size, tuple(self.sizes), f"cell {cell.family}.size")
            require_one_of(cell.recipe, tuple(self.recipes), f"cell {cell.family}.recipe")
