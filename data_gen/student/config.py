"""What a zoo of students is made of: teachers, students, and the ways to be like a teacher. No torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from data_gen.bounds import at_least
from data_gen.config import RecipeConfig, SizeConfig
from metamodel.config import require
from metamodel.config.errors import require_one_of

Arm = Literal["plain", "logits", "cka", "rsa", "circuit", "circuit_interchange", "rewired"]
ARMS: tuple[Arm, ...] = get_args(Arm)
"""What a student is trained by, beside its task: nothing; the teacher's answers; similarity of streams at
matched depths, by kernels or by distances; the circuit; circuit and interchange on matched components, with
streams aligned by an orthogonal map; the circuit of a teacher whose edges were shuffled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """Students of one size, each with a teacher of its own."""

    family: str
    """Task that teachers have learnt, with the same truth for all."""
    teacher_size: str
    """Name of the teachers' size in their zoo."""
    teacher_recipe: str
    """Name of the teachers' recipe in their zoo."""
    size: str
    """Name of the students' size."""
    recipe: str
    """Name of the students' recipe."""
    n_pairs: int
    """Teachers, each with one student an arm."""
    first: int = 0
    """Teachers that are passed over, such as those that weights were tuned on."""

    def __post_init__(self):
        at_least(self, f"pairs {self.family}", {"n_pairs": 1, "first": 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthConfig:
    """What each term counts beside the task's cross entropy."""

    circuit: float = 1.0
    """Circuit loss, in [0, 1]."""
    interchange: float = 1.0
    """KL divergence from the teacher's answers under interchange, in nats."""
    transplant: float = 1.0
    """The same with the teacher's own component in the student's place, carried by one map of streams."""
    alignment: float = 1.0
    """What the best such map leaves of streams, in [0, 1]; as the two before, of `circuit_interchange`.
    Unlike them it acts from the first step to the end of the span."""
    logits: float = 1.0
    """KL divergence from the teacher's answers, in nats."""
    cka: float = 1.0
    """1 minus linear CKA, mean over layers."""
    rsa: float = 1.0
    """1 minus the correlation of distances, mean over layers."""

    def __post_init__(self):
        at_least(
            self,
            "strength",
            {
                "circuit": 0,
                "interchange": 0,
                "transplant": 0,
                "alignment": 0,
                "logits": 0,
                "cka": 0,
                "rsa": 0,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig:
    """When a term acts, in shares of the steps."""

    first: float = 0.0
    """Where it begins: before it the task alone is learnt, and by `circuit_interchange` to align streams."""
    last: float = 1.0
    """Where it ends: behind it the task has the last word."""

    def __post_init__(self):
        require(
            0 <= self.first < self.last <= 1,
            "span",
            expected="0 <= first < last <= 1",
            got=f"first {self.first}, last {self.last}",
            do="Give shares of the steps.",
        )

    def of(self, n_steps: int) -> range:
        """The steps of a training in which the term acts."""
        return range(round(self.first * n_steps), round(self.last * n_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """A zoo of students."""

    name: str
    """Name of the folder in which it lies."""
    zoo: str
    """Folder of the zoo that teachers are taken from."""
    seed: int = 0
    """From it and the pair each student's seed derives; all arms begin alike and see the same data."""
    sizes: dict[str, SizeConfig]
    """Shapes of students, by name."""
    recipes: dict[str, RecipeConfig]
    """Ways to train, by name."""
    pairs: tuple[PairsConfig, ...]
    """Who learns from whom."""
    arms: tuple[Arm, ...] = ARMS
    """Ways to be like a teacher, `plain` among them."""
    strength: StrengthConfig = field(default_factory=StrengthConfig)
    """What each term counts."""
    factors: dict[str, float] = field(default_factory=dict)
    """What all terms of an arm are multiplied by, by arm; 1 where nothing is said."""
    spans: dict[str, SpanConfig] = field(default_factory=dict)
    """When the term of an arm acts, by arm; in all steps where nothing is said."""
    embeddings: Literal["own", "teacher"] = "own"
    """What students of every arm begin with as embeddings of tokens and positions and as unembedding."""
    tau: float = 0.5
    """Analogy threshold at the end."""
    tau_share: float = 0.6
    """Share of the steps of a circuit term's span over which it rises from 0."""
    map_every: int = 10
    """Circuit terms between solutions of the map."""
    circuit_every: int = 2
    """Steps between circuit terms, which count as many times as much."""
    n_circuit_prompts: int = 16
    """Pairs of prompts of a circuit term."""
    points: int = 0
    """Points of the path over which a student's edge scores average gradients; 0 for the clean run alone."""
    n_held_out: int = 256
    """Pairs of prompts, of each teacher, on which students are measured."""

    def __post_init__(self):
        at_least(
            self,
            "student",
            {
                "seed": 0,
                "map_every": 1,
                "circuit_every": 1,
                "n_circuit_prompts": 2,
                "points": 0,
                "n_held_out": 16,
            },
        )
        require(0 <= self.tau < 1, "student.tau", expected="0 <= tau < 1", got=self.tau, do="Try 0.5.")
        require(
            0 < self.tau_share <= 1,
            "student.tau_share",
            expected="above 0, at most 1",
            got=self.tau_share,
            do="Try 0.6.",
        )
        require(
            "plain" in self.arms,
            "student.arms",
            expected="plain among them",
            got=list(self.arms),
            do="Add plain: every arm is compared with it.",
        )
        for name, by_arm in (("factors", self.factors), ("spans", self.spans)):
            for arm in by_arm:
                require_one_of(arm, ARMS, f"student.{name}")
        for arm, factor in self.factors.items():
            where, do = f"student.factors.{arm}", "Set 1 for the strengths as they are."
            require(factor >= 0, where, expected=">= 0", got=factor, do=do)
        require(len(self.pairs) > 0, "student.pairs", expected="at least one", got="none", do="Add some.")
        for i, pair in enumerate(self.pairs):
            require_one_of(pair.size, tuple(self.sizes), f"student.pairs[{i}].size")
            require_one_of(pair.recipe, tuple(self.recipes), f"student.pairs[{i}].recipe")
