"""Configuration of the function reader: zoo, track, network and training. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from metamodel.config.errors import require
from metamodel.config.words import Track


def check_within(value: int | float, low: int | float, high: int | float, where: str) -> None:
    require(
        low <= value <= high,
        where,
        expected=f"{low} to {high}",
        got=value,
        do="Choose a value inside that range.",
    )


def _positive(value: int | float, where: str) -> None:
    require(value > 0, where, expected="> 0", got=value, do="Set a positive value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkConfig:
    """The network: an ensemble of relational transformers over components."""

    width: int = 64
    """Width of node embeddings; a multiple of n_heads."""
    n_layers: int = 3
    """Layers of each member."""
    n_heads: int = 4
    """Attention heads of a layer."""
    edge_width: int = 16
    """Width of the embedding of a relation between two components."""
    encoder_width: int = 8
    """Width of the encoder of circuits, entry by entry; 0 reads summaries of them alone."""
    encoded: int = 32
    """Numbers that the encoder gives each component."""
    members: int = 4
    """Networks whose logits are averaged."""
    dropout: float = 0.2
    """Share of hidden entries dropped in training."""
    input_dropout: float = 0.6
    """Share of feature entries dropped in training."""
    feature_noise: float = 0.2
    """Noise on normalised features in training, in standard deviations."""
    track_dropout: float = 0.1
    """On the track 'both': share of subjects that are read without their activations in training."""
    prompt_dropout: float = 0.1
    """Share of subjects that are read without the prompts of their behavior in training."""

    def __post_init__(self):
        for name in ("width", "n_layers", "n_heads", "edge_width", "members"):
            _positive(getattr(self, name), f"trunk.{name}")
        for name in ("dropout", "input_dropout", "track_dropout", "prompt_dropout"):
            check_within(getattr(self, name), 0.0, 0.9, f"trunk.{name}")
        check_within(self.feature_noise, 0.0, 10.0, "trunk.feature_noise")
        require(
            self.width % self.n_heads == 0,
            "trunk.width",
            expected=f"a multiple of trunk.n_heads = {self.n_heads}",
            got=self.width,
            do="Change one of them.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW with warmup, cosine decay and an exponential average of weights."""

    lr: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    warmup: float = 0.05
    """Share of all steps in which the learning rate rises."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.98
    """Decay a step of the average of weights that is evaluated and saved; 0 keeps the last weights."""

    def __post_init__(self):
        _positive(self.lr, "optim.lr")
        _positive(self.grad_clip, "optim.grad_clip")
        check_within(self.weight_decay, 0.0, 10.0, "optim.weight_decay")
        check_within(self.warmup, 0.0, 0.9, "optim.warmup")
        check_within(self.ema, 0.0, 0.9999, "optim.ema")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long, on how much at a time, and what counts."""

    epochs: int = 120
    """Passes over the training subjects."""
    batch_size: int = 16
    """Subjects a step."""
    probes: int = 4
    """Probe prompts of each subject that are asked in a step; all are asked in evaluation."""
    balance: float = 0.5
    """Power of (negatives / positives) by which positives of a label are weighted up; 0 for not at all."""
    loss_function: float = 1.0
    """Weight of the function labels."""
    loss_score: float = 0.5
    """Weight of the function scores."""
    loss_circuit: float = 0.5
    """Weight of circuit membership of nodes and edges."""
    loss_circuit_mass: float = 0.0
    """Weight of the circuit loss between what edges are given and the exact edges; 0 leaves it out."""
    loss_behavior: float = 0.25
    """Weight of slice accuracy and of answers on probes."""
    loss_algorithm: float = 0.1
    """Weight of the program that a subject with a known circuit runs."""
    loss_exemplars: float = 0.1
    """Weight of naming functions from exemplars."""
    held_out_functions: tuple[str, ...] = ()
    """Labels that no loss sees: they can then be named from exemplars only."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "probes"):
            _positive(getattr(self, name), f"training.{name}")
        check_within(self.balance, 0.0, 1.0, "training.balance")
        for name in (
            "loss_function",
            "loss_score",
            "loss_circuit",
            "loss_circuit_mass",
            "loss_behavior",
            "loss_algorithm",
            "loss_exemplars",
        ):
            check_within(getattr(self, name), 0.0, 1e3, f"training.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """What Lightning's Trainer is told of the machine."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Where to train."""
    progress: bool = True
    """Whether to show a progress bar with time left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitsConfig:
    """How lineages that depart in nothing are divided; the other test splits are the zoo's own."""

    seed: int = 0
    """Of the division."""
    validation_fraction: float = 0.15
    """Share of lineages for calibration and for tuning of baselines."""
    test_fraction: float = 0.2
    """Share of lineages for the test split 'seed'."""

    def __post_init__(self):
        for name in ("validation_fraction", "test_fraction"):
            check_within(getattr(self, name), 0.01, 0.9, f"splits.{name}")
        total = self.validation_fraction + self.test_fraction
        check_within(total, 0.02, 0.95, "splits.validation_fraction + test_fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionConfig:
    """Trains and evaluates a function reader."""

    name: str = "function-small"
    """Of the run's folder and of its checkpoint."""
    zoo: str = "data/small"
    """Folder of the zoo."""
    zoo_config: str = "configs/zoo/small.yaml"
    """From which the zoo is built where its folder is missing or unfinished; empty for never."""
    track: Track = "both"
    """What the reader may look at."""
    also: tuple[Track, ...] = ()
    """Tracks of which readers are trained beside one of the track 'both', for the same report."""
    k_shot_parts: int = 0
    """Parts of the functions, each held out of a reader of its own and named from exemplars; 0: none."""
    k_shot_epochs: int = 40
    """Epochs of those readers, which have one member and no encoder of circuits each."""
    seed: int = 0
    """Of initial weights, dropout, and order of subjects."""
    logger: Literal["csv", "wandb"] = "csv"
    """csv writes into the run's folder; wandb works offline where no key is configured."""
    out: str = "runs"
    """Folder of all runs."""
    bootstrap_seed: int = 0
    """Draws the resamples of lineages from which intervals are computed."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)

    def __post_init__(self):
        for name in ("seed", "bootstrap_seed"):
            check_within(getattr(self, name), 0, 2**32 - 1, name)
        check_within(self.k_shot_parts, 0, 20, "k_shot_parts")
        _positive(self.k_shot_epochs, "k_shot_epochs")
        require(
            not self.also
            or (self.track == "both" and "both" not in self.also and len({*self.also}) == len(self.also)),
            "also",
            expected="other tracks than 'both', each once, beside a reader of the track 'both'",
            got=f"{list(self.also)} beside '{self.track}'",
            do="Set track to both, or leave it out.",
        )
        require(
            bool(self.name) and not set(self.name) & set("/\\") and self.name not in (".", ".."),
            "name",
            expected="the name of a folder",
            got=repr(self.name),
            do="Leave out slashes.",
        )
