"""Configuration of the editor: zoo of edits, network and training. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from metamodel.config.errors import require
from metamodel.config.function import OptimConfig, SplitsConfig, TrainerConfig, check_within

Part = Literal[
    "preconditioning",
    "map",
    "scope",
    "unlabelled",
    "proportions",
    "sureness",
    "rewordings",
    "completion",
    "sums",
]
"""What can be left out of an editor, to see what it adds: the writer's ridge regression (it then follows
plain gradients), the network of the map of answers (the closed form stands for it), that of the scope (the
mean of all regressions does), inputs without an answer, the proportions of the subject's own answers where
edits are read, how sure the subject is and how likely it finds what is wanted, rewordings of the examples,
the completion of repairs by what the repaired subject says, and by what follows where answers are sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditorConfig:
    """The network."""

    width: int = 48
    """Width of the hidden layers that choose scope, way and pace."""
    map_width: int = 16
    """Width of the network on pairs of answers."""
    map_layers: int = 3
    """Its layers."""
    n_steps: int = 48
    """Steps of the writer in use; what lies before the last matrix is run once, whatever their number."""
    training_steps: int = 8
    """Steps of the writer in training, through which gradients flow."""
    recurrent: Literal[1, 2, 4] = 1
    """Proposals for one edit: behind each but the last the edited subject is run again, and corrected."""
    gates: bool = False
    """Whether heads and neurons can be scaled."""
    decay: bool = False
    """Whether a change has a price in the writer's own steps."""
    deep_steps: int = 400
    """Steps, in use, of writing in the whole last MLP where a behavior as a whole changes, or the last matrix
    does not reach what is wanted; 0 for the last matrix alone, whatever the edit. Not beside `gates` and
    `recurrent`, which write before it."""
    component_steps: int = 200
    """Steps, in use, of each fit that puts a damaged component right, those of completing it apart; 0 to look
    for none. Not beside `gates` and `recurrent`."""
    without: tuple[Part, ...] = ()
    """Parts that are left out, to see what they add."""

    def __post_init__(self):
        for name in ("width", "map_width", "map_layers", "n_steps", "training_steps"):
            check_within(getattr(self, name), 1, 1024, f"editor.{name}")
        for name in ("deep_steps", "component_steps"):
            check_within(getattr(self, name), 0, 1024, f"editor.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTrainingConfig:
    """How long, on how much at a time, and what counts."""

    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 8
    """Subjects of one shape a step, each with an edit of its own."""
    inputs: int = 160
    """Inputs of the domain on which the edited subject is run in a step."""
    shown: int = 256
    """Inputs without an answer that are shown in a step; in use there are as many as a domain has."""
    maps: int = 4
    """Further rules of each subject of arithmetic from whose pairs a map of answers is inferred in a step."""
    loss_edit: float = 0.2
    """Weight of the cross entropy in scope, through the edited subject."""
    loss_keep: float = 4.0
    """Weight of the KL divergence on inputs that stay."""
    loss_scope: float = 1.0
    """Weight of telling which inputs are in scope."""
    loss_wanted: float = 0.5
    """Weight of telling what is wanted of them."""
    loss_map: float = 1.0
    """Weight of the map of answers, of rules."""
    loss_forecast: float = 0.2
    """Weight of the forecast of success."""
    loss_size: float = 0.02
    """Weight of the size of the change: log(1 + its square norm relative to that of its matrix)."""
    loss_circuit: float = 0.0
    """Weight of the distance of circuits before and after the edit on inputs that stay; 0 leaves it out."""
    circuit_every: int = 4
    """Steps between circuit terms, which count as many times as much."""
    circuit_prompts: int = 12
    """Pairs of inputs that stay, of each subject, on which a circuit term measures edges."""
    loss_norm: float = 0.0
    """Weight of a norm beyond that of the matrix: the square of its logarithm; 0 below."""
    forecast_edits: int = 800
    """Edits, written in full, on which the forecast is fitted when all else is trained; 0 for none."""

    def __post_init__(self):
        counted = (
            "steps",
            "batch_size",
            "inputs",
            "shown",
            "circuit_every",
            "circuit_prompts",
        )
        for name in counted:
            check_within(getattr(self, name), 1, 10**6, f"training.{name}")
        parts = ("edit", "keep", "scope", "wanted", "map", "forecast", "size", "circuit", "norm")
        losses = [f"loss_{name}" for name in parts]
        for name in ("maps", *losses):
            check_within(getattr(self, name), 0, 1e3, f"training.{name}")
        check_within(self.forecast_edits, 0, 10**6, "training.forecast_edits")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReportConfig:
    """How many edits are judged."""

    edits: int = 1
    """Edits of each kind and number of pairs, of each test subject."""
    most: int = 52
    """Edits of a split that are judged, spread evenly over its subjects; more take longer."""
    tuning: int = 40
    """Edits of training subjects on which opponents are tuned, as many of each family of kinds."""
    validation: int = 80
    """Edits of validation subjects on which alpha is chosen."""
    sequences: int = 8
    """Subjects of other seeds that are given ten edits in sequence."""
    opponents: bool = True
    """Whether opponents are tuned and judged."""
    workers: int | None = None
    """Processes, of one thread each, that fit the forecast and judge methods; by default one for each core.
    Their number changes nothing but milliseconds."""

    def __post_init__(self):
        for name in ("edits", "most", "tuning", "validation", "sequences"):
            check_within(getattr(self, name), 1, 10**5, f"report.{name}")
        if self.workers is not None:
            check_within(self.workers, 1, 10**3, "report.workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditingConfig:
    """Trains and evaluates an editor."""

    kind: Literal["editing"] = "editing"
    """What is trained: in a file it tells this configuration from that of a reader."""
    name: str = "editing-small"
    """Of the run's folder and of its checkpoint."""
    zoo: str = "data/edits-small"
    """Folder of the zoo of edits."""
    zoo_config: str = "configs/edits/small.yaml"
    """From which the zoo is built where its folder is missing or unfinished; empty for never."""
    seed: int = 0
    """Of initial weights, and of the order of edits."""
    logger: Literal["csv", "wandb"] = "csv"
    """csv writes into the run's folder; wandb works offline where no key is configured."""
    out: str = "runs"
    """Folder of all runs."""
    bootstrap_seed: int = 0
    """Draws the resamples of lineages from which intervals are computed."""
    refuse_below: float = 0.3
    """Probability of success below which a proposal is refused."""
    editor: EditorConfig = field(default_factory=EditorConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.001, ema=0.0))
    training: EditTrainingConfig = field(default_factory=EditTrainingConfig)
    report: EditReportConfig = field(default_factory=EditReportConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    splits: SplitsConfig = field(default_factory=lambda: SplitsConfig(test_fraction=0.35))

    def __post_init__(self):
        require(
            self.optim.ema == 0,
            "optim.ema",
            expected="0: weights are not averaged here",
            got=self.optim.ema,
            do="Leave it out.",
        )
        for name in ("seed", "bootstrap_seed"):
            check_within(getattr(self, name), 0, 2**32 - 1, name)
        check_within(self.refuse_below, 0, 1, "refuse_below")
