"""What a zoo is made of: sizes, recipes, cells of subjects, and how much is harvested. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data_gen.kin import kin
from metamodel.config import require, suggestion
from metamodel.config.words import Departure

JOIN = "+"
"""Between the names of the families that one subject learns."""
MadeOrigin = Literal["trained", "compiled", "siit", "planted"]
"""Ways in which a zoo makes subjects."""

MOST_LAYERS = 4
"""Deepest subject of a zoo."""
MOST_POSITIONS = 64
"""Longest context of a zoo."""
FEWEST_NULL_COPIES = 20
"""Re-initialised copies that a null needs: fewer cannot tell a score from the best of them."""


def _at_least(config: object, where: str, least: Mapping[str, float | int]) -> None:
    for name, bound in least.items():
        value = getattr(config, name)
        require(
            value >= bound,
            f"{where}.{name}",
            expected=f"at least {bound}",
            got=value,
            do=f"Set {bound} or more.",
        )


def _positive(config: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{where}.{name}", expected="> 0", got=value, do="Set a positive value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeConfig:
    """Shape of the subjects of one size. Vocabulary and context are those of the whole zoo."""

    n_layers: int
    """Transformer blocks, 1 to 4."""
    n_heads: int
    """Attention heads in each block."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_mlp: int = 0
    """Neurons of each MLP; 0 for attention-only subjects."""
    act_fn: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Activation of the MLPs."""
    normalization_type: Literal["LN", "none"] = "LN"
    """LayerNorm before each sublayer and the unembedding, or no normalisation."""
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    """Which positions a query may attend to."""

    def __post_init__(self):
        _at_least(self, "size", {"n_layers": 1, "n_heads": 1, "d_model": 2, "d_head": 1, "d_mlp": 0})
        require(
            self.n_layers <= MOST_LAYERS,
            "size.n_layers",
            expected=f"1 to {MOST_LAYERS} layers",
            got=self.n_layers,
            do="Zoos hold small subjects; take fewer layers.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeConfig:
    """How subjects are trained, with AdamW."""

    steps: int
    """Optimiser steps."""
    batch_size: int = 32
    """Prompts a step, for each subject."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled decay of AdamW."""
    beta2: float = 0.98
    """Decay of AdamW's second moment; the first moment's is 0.9."""
    warmup_steps: int = 50
    """Steps of linear warmup."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warmup; cosine and linear end at zero."""
    grad_clip: float = 1.0
    """Largest gradient norm of one subject."""

    def __post_init__(self):
        _at_least(self, "recipe", {"steps": 1, "batch_size": 1, "weight_decay": 0, "warmup_steps": 0})
        _positive(self, "recipe", "learning_rate", "grad_clip")
        require(
            0 <= self.beta2 < 1, "recipe.beta2", expected="0 <= beta2 < 1", got=self.beta2, do="Try 0.98."
        )
        require(
            self.warmup_steps <= self.steps,
            "recipe.warmup_steps",
            expected=f"at most the {self.steps} steps",
            got=self.warmup_steps,
            do="Shorten the warmup.",
        )


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
        _at_least(self, where, {"n_subjects": 1, "n_finetuned": 0, "n_pruned": 0})
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HarvestConfig:
    """How much is measured of each subject."""

    n_prompts: int = 48
    """Pairs of clean and corrupt prompts on which circuits, activations and labels are measured."""
    n_behavior_prompts: int = 256
    """Fresh prompts on which behavior is measured."""
    n_probes: int = 16
    """Prompts that are stored with their answers and with what each component writes on them."""
    n_random: int = 48
    """Prompts of random tokens on which attention patterns are scored, with and without repetition."""
    n_null_copies: int = FEWEST_NULL_COPIES
    """Re-initialised copies of each shape that make the null of every score."""

    def __post_init__(self):
        _at_least(
            self,
            "harvest",
            {
                "n_prompts": 4,
                "n_behavior_prompts": 16,
                "n_probes": 2,
                "n_random": 8,
                "n_null_copies": FEWEST_NULL_COPIES,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooConfig:
    """A zoo: which subjects it holds, how they are trained, what is measured of them."""

    name: str
    """Name of the folder in which the zoo lies."""
    seed: int = 0
    """From it and its own spec each subject's seed derives."""
    n_ctx: int = 20
    """Positions of every subject; no task's prompt is longer."""
    sizes: dict[str, SizeConfig]
    """Shapes, by name."""
    recipes: dict[str, RecipeConfig]
    """Ways to train, by name."""
    cells: tuple[CellConfig, ...]
    """What is trained: tasks x sizes x seeds."""
    subjects_per_shard: int = 6
    """Subjects that are trained and stored together; 4 to 8 fit a core's cache."""
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    """How much is measured of each subject."""

    def __post_init__(self):
        _at_least(self, "zoo", {"n_ctx": 4, "subjects_per_shard": 1, "seed": 0})
        require(
            self.n_ctx <= MOST_POSITIONS,
            "zoo.n_ctx",
            expected=f"at most {MOST_POSITIONS} positions",
            got=self.n_ctx,
            do="Take shorter prompts.",
        )
        require(len(self.cells) > 0, "zoo.cells", expected="at least one cell", got="none", do="Add a cell.")
        require(
            bool(self.name) and not set(self.name) & set("/\\ "),
            "zoo.name",
            expected="a name of a folder",
            got=repr(self.name),
            do="Use letters, digits and dashes.",
        )
        seen: set[tuple[str, ...]] = set()
        for i, cell in enumerate(self.cells):
            self._check_names(f"zoo.cells[{i}]", cell)
            for size in cell.sizes:
                key = (cell.origin, cell.family, cell.variant, size, cell.recipe)
                require(
                    key not in seen,
                    f"zoo.cells[{i}]",
                    expected="each origin, family, variant, size and recipe once",
                    got=f"{'-'.join(key)} again",
                    do="Raise n_subjects of the first one.",
                )
                seen.add(key)
        for i, cell in enumerate(self.cells):
            check_departure(f"zoo.cells[{i}]", cell, [c for c in self.cells if c.departs == "none"])

    def _check_names(self, where: str, cell: CellConfig) -> None:
        for size in cell.sizes:
            require(
                size in self.sizes,
                f"{where}.sizes",
                expected=f"one of {sorted(self.sizes)}",
                got=repr(size),
                do=f"Define it under sizes.{suggestion(size, self.sizes)}",
            )
        require(
            cell.recipe in self.recipes,
            f"{where}.recipe",
            expected=f"one of {sorted(self.recipes)}",
            got=repr(cell.recipe),
            do=f"Define it under recipes.{suggestion(cell.recipe, self.recipes)}",
        )
