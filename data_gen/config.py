"""What a zoo is made of: sizes, recipes, cells of subjects, and how much is harvested. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from data_gen.bounds import at_least, positive
from data_gen.cells import CellConfig, check_departure
from metamodel.config import require, suggestion

MOST_LAYERS = 4
"""Deepest subject of a zoo."""
MOST_POSITIONS = 64
"""Longest context of a zoo."""
FEWEST_NULL_COPIES = 20
"""Re-initialised copies that a null needs: fewer cannot tell a score from the best of them."""


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
        at_least(self, "size", {"n_layers": 1, "n_heads": 1, "d_model": 2, "d_head": 1, "d_mlp": 0})
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
        at_least(self, "recipe", {"steps": 1, "batch_size": 1, "weight_decay": 0, "warmup_steps": 0})
        positive(self, "recipe", "learning_rate", "grad_clip")
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
class HarvestConfig:
    """How much is measured of each subject."""

    n_prompts: int = 48
    """Pairs of clean and corrupt prompts on which circuits, activations and labels are measured."""
    n_behavior_prompts: int = 256
    """Fresh prompts on which behavior is measured."""
    n_probes: int = 16
    """Prompts that are stored with their answers and with what each component writes on them."""
    n_shown: int = 128
    """Prompts of the task that are stored without answers: a reader may be shown what is asked."""
    n_random: int = 48
    """Prompts of random tokens on which attention patterns are scored, with and without repetition."""
    n_null_copies: int = FEWEST_NULL_COPIES
    """Re-initialised copies of each shape that make the null of every score."""

    def __post_init__(self):
        at_least(
            self,
            "harvest",
            {
                "n_prompts": 4,
                "n_behavior_prompts": 16,
                "n_probes": 2,
                "n_shown": 2,
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
        at_least(self, "zoo", {"n_ctx": 4, "subjects_per_shard": 1, "seed": 0})
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
