"""Configuration of the matcher: zoo of pairs, network and training. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from metamodel.config.errors import require
from metamodel.config.function import OptimConfig, TrainerConfig, check_within
from metamodel.config.words import NodeDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class MatcherConfig:
    """The network."""

    width: int = 64
    """Width of the embedding of a node."""
    n_layers: int = 3
    """Layers of attention, inside each circuit and across."""
    n_heads: int = 4
    """Heads of each."""
    edge_width: int = 16
    """Width of the embedding of an edge."""
    n_steps: int = 6
    """Unrolled steps on the edge-gain energy."""
    dropout: float = 0.0
    """Share of units dropped in training."""
    feature_dropout: float = 0.2
    """Share of circuits in training of which no feature of nodes is seen."""
    column_dropout: float = 0.0
    """Share of features that training hides in both circuits of a pair, others in every pair."""
    described_by: NodeDescription = "features"
    """What nodes are described by: their edges alone, and features, ratio signatures, or both beside them."""
    cross_attention: bool = True
    """Whether nodes attend to those of the other circuit."""
    depth: bool = True
    """Whether depth is seen."""
    centre: Literal["training", "circuit"] = "training"
    """What features are centred on: the median of training nodes of their kind, or besides the mean of their
    own circuit's nodes of that kind, so that what all of one size or task have in common goes."""
    members: int = 1
    """Networks of other seeds that are trained one after the other and answer together."""
    blind_share: float = 0.0
    """Weight, in the answer, of a second run that sees no feature of nodes; 0 for one run."""

    def __post_init__(self):
        for name in ("width", "n_layers", "n_heads", "edge_width", "members"):
            check_within(getattr(self, name), 1, 4096, f"matcher.{name}")
        check_within(self.n_steps, 0, 64, "matcher.n_steps")
        for name in ("dropout", "feature_dropout", "column_dropout"):
            check_within(getattr(self, name), 0, 0.99, f"matcher.{name}")
        check_within(self.blind_share, 0, 1, "matcher.blind_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchTrainingConfig:
    """How long, on which pairs, and what counts."""

    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 32
    """Pairs a step."""
    synthetic: float = 0.15
    """Share of pairs of synthetic circuits, drawn anew in every step."""
    planted: float = 0.45
    """Share of pairs of a training circuit and a changed copy, drawn anew in every step; the zoo's are the
    rest."""
    absent: float = 0.15
    """Share of drawn pairs whose second circuit is rewired, so that nothing corresponds."""
    poorly_known: float = 0.75
    """Share of the zoo's pairs without noise, of any kind, whose second circuit gets some whenever they are
    drawn."""
    most_noise: float = 1.0
    """Largest noise of edges of drawn pairs, uniform from 0; so are the next three."""
    most_feature_noise: float = 4.0
    """Largest noise of features, in units of their spread."""
    most_changed: int = 4
    """Most components that are dropped, and most that are inserted."""
    most_layers: int = 3
    """Most blocks by which the second circuit is deeper."""
    loss_unmatched: float = 1.0
    """Weight of saying which nodes have no counterpart, beside 1 for those that have."""
    loss_energy: float = 0.0
    """Weight of the energy of the map, one minus its share of the largest."""
    loss_chain: float = 0.0
    """Weight of matched chains (systematicity)."""
    loss_gw: float = 0.0
    """Weight of the Gromov-Wasserstein cost: distances of features and of depth inside each circuit."""
    loss_cycle: float = 0.0
    """Weight of maps that go round by a third circuit and do not agree with the straight one."""
    loss_entropy: float = 0.0
    """Weight of how undecided the map is."""
    loss_presence: float = 0.5
    """Weight of telling whether a circuit is there at all."""

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            check_within(getattr(self, name), 1, 10**6, f"training.{name}")
        for name in ("synthetic", "planted", "absent", "poorly_known"):
            check_within(getattr(self, name), 0, 1, f"training.{name}")
        for name in ("noise", "feature_noise", "changed", "layers"):
            check_within(getattr(self, f"most_{name}"), 0, 100, f"training.most_{name}")
        check_within(self.synthetic + self.planted, 0, 1, "training.synthetic + training.planted")
        for name in ("unmatched", "energy", "chain", "gw", "cycle", "entropy", "presence"):
            check_within(getattr(self, f"loss_{name}"), 0, 1e3, f"training.loss_{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchReportConfig:
    """How many pairs are judged, and beside whom."""

    most: int = 400
    """Pairs of a kind and a split that are judged, spread evenly over lineages."""
    tuning: int = 120
    """Validation pairs on which opponents, and the thresholds of all, are tuned."""
    transplants: int = 40
    """Pairs of a split whose components are transplanted; each runs two subjects many times."""
    opponents: bool = True
    """Whether opponents are tuned and judged."""

    def __post_init__(self):
        for name in ("most", "tuning"):
            check_within(getattr(self, name), 1, 10**6, f"report.{name}")
        check_within(self.transplants, 0, 10**6, "report.transplants")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingConfig:
    """Trains and evaluates a matcher."""

    kind: Literal["matching"] = "matching"
    """What is trained: in a file it tells this configuration from that of a reader or an editor."""
    name: str = "matching-small"
    """Of the run's folder and of its checkpoint."""
    zoo: str = "data/pairs-small"
    """Folder of the zoo of pairs."""
    zoo_config: str = "configs/pairs/small.yaml"
    """From which the zoo is built where its folder is missing or unfinished; empty for never."""
    seed: int = 0
    """Of initial weights, and of the pairs that are drawn."""
    logger: Literal["csv", "wandb"] = "csv"
    """csv writes into the run's folder; wandb works offline where no key is configured."""
    out: str = "runs"
    """Folder of all runs."""
    bootstrap_seed: int = 0
    """Draws the resamples of lineages from which intervals are computed."""
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.001, weight_decay=0.01, ema=0.0))
    training: MatchTrainingConfig = field(default_factory=MatchTrainingConfig)
    report: MatchReportConfig = field(default_factory=MatchReportConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

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
