"""What a zoo of pairs is made of: the subjects, how many pairs of each kind, how far they are moved.

Imports no torch.
"""

from dataclasses import dataclass, field
from itertools import product

from data_gen.bounds import at_least, positive
from metamodel.analogy.levels import PlantedLevel
from metamodel.config import require
from metamodel.config.errors import require_one_of

KINDS = ("permuted", "modified", "larger", "partial", "program", "natural", "planted")
"""Kinds that are counted; pairs of kind `absent` come with those of `partial` and `planted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountConfig:
    """Pairs of one kind, at most."""

    train: int = 0
    """To train on."""
    validation: int = 0
    """To tune on."""
    test: int = 0
    """Of each test split."""

    def __post_init__(self):
        at_least(self, "counts", {"train": 0, "validation": 0, "test": 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelsConfig:
    """Changes of planted pairs: every combination is as frequent as every other."""

    noise: tuple[float, ...] = (0.2, 0.4)
    """Standard deviations of the logarithm of edges."""
    feature_noise: tuple[float, ...] = (0.5, 1.0)
    """Noise of features, in units of their spread among training subjects."""
    dropped: tuple[int, ...] = (0, 1, 2)
    """Components that the second circuit lacks."""
    inserted: tuple[int, ...] = (0, 1, 2)
    """Strangers in each of the two circuits."""
    extra_layers: tuple[int, ...] = (0, 2)
    """Blocks by which the second is deeper."""

    def __post_init__(self):
        for name in ("noise", "feature_noise", "dropped", "inserted", "extra_layers"):
            require(
                bool(getattr(self, name)),
                f"levels.{name}",
                expected="a value",
                got="none",
                do="Give 0 for no such change.",
            )
        self.all()

    def all(self) -> tuple[PlantedLevel, ...]:
        """Every combination. Raises: InputError for a value below 0."""
        return tuple(
            PlantedLevel(noise=a, feature_noise=b, dropped=c, inserted=d, extra_layers=e)
            for a, b, c, d, e in product(
                self.noise, self.feature_noise, self.dropped, self.inserted, self.extra_layers
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """How larger and fine-tuned subjects are trained further, so that nothing stays where it was."""

    steps: int = 100
    """Steps of the optimiser for subjects that have grown."""
    renewed_steps: int = 240
    """Steps for fine-tuned copies, whose task has another private truth where there is one."""
    batch_size: int = 32
    """Prompts a step."""
    learning_rate: float = 0.003
    """Peak of the learning rate."""

    def __post_init__(self):
        at_least(self, "tuning", {"steps": 1, "renewed_steps": 1, "batch_size": 1})
        positive(self, "tuning", "learning_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairZooConfig:
    """A zoo of pairs of circuits."""

    name: str
    """Of the zoo; by default it lies in data/<name>."""
    source: str
    """Folder of the zoo of triples whose subjects are paired."""
    seed: int = 0
    """From it and the names of both subjects derives all that is drawn for a pair."""
    split_seed: int = 0
    """Of the division of lineages."""
    validation_fraction: float = 0.15
    """Share of lineages to tune on, as readers have it."""
    test_fraction: float = 0.2
    """Share of lineages of the split `seed`, as readers have it."""
    held_out_sizes: tuple[str, ...] = ()
    """Sizes that belong to the split `size` beside those that depart by size in the zoo itself."""
    counts: dict[str, CountConfig]
    """Pairs by kind; a kind that is not named is not made."""
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    """How far planted pairs are moved."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """How changed subjects are trained further."""
    pairs_per_shard: int = 12
    """Pairs that are made and stored together."""
    fewest_active: int = 4
    """Heads and MLPs of a circuit of which a planted or partial pair is made."""
    n_spread: int = 60
    """Training circuits from which the spread of features is measured."""

    def __post_init__(self):
        at_least(
            self,
            "pairs",
            {"seed": 0, "split_seed": 0, "pairs_per_shard": 1, "fewest_active": 3, "n_spread": 2},
        )
        for kind in self.counts:
            require_one_of(kind, KINDS, "counts")
        require(bool(self.counts), "counts", expected="a kind of pairs", got="none", do="Name one.")
