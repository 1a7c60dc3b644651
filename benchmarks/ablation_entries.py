"""What `matching_ablations.py` trains: the default matcher, and one change of its configuration an entry.

Keys are those of `metamodel.config.matching`; `STEPS` stands for how often the default's steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.errors import require
from metamodel.training.match_pairs import is_well_known

DEFAULT = "default"
STEPS = "steps"
"""Not a key of the configuration: a factor."""
Changes = Mapping[str, float | int | bool | str]
ENTRIES: Mapping[str, Changes] = {
    DEFAULT: {},
    # how much two runs of the same differ by chance
    "other-seed": {"seed": 1},
    # without one ingredient
    "no-cross-attention": {"matcher.cross_attention": False},
    "no-unrolled-steps": {"matcher.n_steps": 0},
    "no-features": {"matcher.described_by": "edges"},
    "no-depth": {"matcher.depth": False},
    "no-synthetic": {"training.synthetic": 0.0},
    "no-planted": {"training.planted": 0.0},
    "no-poorly-known": {"training.poorly_known": 0.0},
    # with one more
    "energy": {"training.loss_energy": 0.3},
    "chain": {"training.loss_chain": 0.1},
    "gw": {"training.loss_gw": 0.3},
    "cycle": {"training.loss_cycle": 0.3},
    "ratios-too": {"matcher.described_by": "both"},
    "ratios-alone": {"matcher.described_by": "ratios"},
    "larger": {"matcher.width": 128, "matcher.n_layers": 4},
    "longer": {STEPS: 3},
    "two-members": {"matcher.members": 2},
    # for sizes and tasks that were not trained on: lean less on single features and on where they lie
    "features-hidden-half": {"matcher.feature_dropout": 0.5},
    "columns-hidden": {"matcher.column_dropout": 0.4},
    "centred-in-circuit": {"matcher.centre": "circuit"},
    "blind-too": {"matcher.blind_share": 0.3},
    "dropout": {"matcher.dropout": 0.1},
    "harder-levels": {
        "training.most_noise": 1.5,
        "training.most_feature_noise": 6.0,
        "training.most_changed": 6,
        "training.most_layers": 5,
    },
    "more-synthetic": {"training.synthetic": 0.35},
    "less-planted": {"training.planted": 0.25},
    # for absent circuits
    "more-absent": {"training.absent": 0.3},
    "presence-counts-more": {"training.loss_presence": 1.5},
    # several at once
    "robust": {
        "matcher.feature_dropout": 0.4,
        "matcher.column_dropout": 0.3,
        "matcher.dropout": 0.1,
        "matcher.blind_share": 0.3,
        "training.most_noise": 1.5,
        "training.most_feature_noise": 6.0,
    },
    "robust-larger-longer": {
        "matcher.feature_dropout": 0.4,
        "matcher.column_dropout": 0.3,
        "matcher.dropout": 0.1,
        "matcher.width": 128,
        "matcher.n_layers": 4,
        "training.absent": 0.25,
        STEPS: 3,
    },
}


def arguments_of(changes: Changes, *, steps: int) -> list[str]:
    """What `metamodel.train` would be given on its command line."""
    words = [f"--training.steps={round(steps * float(changes.get(STEPS, 1)))}"]
    return words + [f"--{key}={str(value).lower()}" for key, value in changes.items() if key != STEPS]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Parts of the names of subjects whose pairs are taken out of training and judged instead."""

    sizes: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """Under which name the judged pairs stand."""
        return "size" if self.sizes else "task" if self.tasks else "validation"

    def holds(self, id: str) -> bool:
        """Whether a subject's name, task-variant-size-recipe-number, is of one of these sizes or tasks."""
        words = f"-{id.partition('+')[0]}-"
        longer = ("mlp-", "wide-")
        of_size = any(
            f"-{size}-" in words and not words.partition(f"-{size}-")[2].startswith(longer)
            for size in self.sizes
        )
        return of_size or any(words.startswith(f"-{task}-") for task in self.tasks)


def is_noiseless_partial(pair: MatchedPair) -> bool:
    """Whether a pair is partial, or absent like one, and stored without noise."""
    return is_well_known(pair) and (pair.kind == "partial" or bool(pair.level.get("of_partial")))


def without_tests(zoo: PairZoo, held: HeldOut) -> PairZoo:
    """The zoo without any test pair; what is held out stands, of training and validation, under its split.

    A pair of a subject that is held out and one that is not is left out, and so are partial pairs of training
    and absent ones like them: they are stored without the noise under which such pairs are judged.

    Raises: InputError where nothing is of these sizes or tasks, or nothing else is left to train on.
    """
    pairs: list[MatchedPair] = []
    for pair in zoo.pairs:
        if pair.split not in ("train", "validation"):
            continue
        of_held = {held.holds(side.id) for side in (pair.first_side, pair.second_side)}
        if of_held == {False}:
            pairs.append(pair)
        elif of_held == {True} and not (pair.split == "train" and is_noiseless_partial(pair)):
            pairs.append(replace(pair, split=held.split))
    splits = {pair.split for pair in pairs}
    wanted = {"train", "validation", held.split}
    require(
        splits == wanted,
        "--hold-out-sizes, --hold-out-tasks",
        expected=f"pairs of {', '.join(sorted(wanted))}",
        got=f"those of {', '.join(sorted(splits)) or 'none'}",
        do="Name sizes or tasks as they stand in the names of training subjects, and not all of them.",
    )
    return PairZoo(zoo.folder, zoo.manifest, tuple(pairs), zoo.feature_names, zoo.label_names)
