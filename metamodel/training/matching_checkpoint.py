"""A matcher on disk: config.json and model.safetensors. Strict loading, without pickle."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.analogy.graph import CHANNELS
from metamodel.config.errors import require
from metamodel.config.record import record_from_json
from metamodel.features.registry import FEATURE_VERSION
from metamodel.networks.matching.ensemble import MatcherEnsemble
from metamodel.networks.matching.matcher import Matcher
from metamodel.training.described import CONFIG, read_config
from metamodel.training.tensors import RETRAIN, load_tensors, save_tensors

SCHEMA_VERSION = 1
KIND = "matching"
MODEL = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatcherSizes:
    """Sizes of a `Matcher`, and what it sees, under the names of its arguments.

    Those that have a default came later: checkpoints without them are as the default says.
    """

    n_features: int
    width: int
    n_layers: int
    n_heads: int
    edge_width: int
    n_steps: int
    cross_attention: bool = True
    depth: bool = True
    centred_by_circuit: bool = False
    blind_share: float = 0.0
    members: int = 1

    def network(
        self, *, dropout: float = 0.0, feature_dropout: float = 0.0, column_dropout: float = 0.0
    ) -> Matcher:
        """An untrained matcher of these sizes: one member."""
        sizes = dataclasses.asdict(self)
        del sizes["members"]
        return Matcher(
            dropout=dropout, feature_dropout=feature_dropout, column_dropout=column_dropout, **sizes
        )

    def joined(self, members: Sequence[Matcher]) -> Matcher | MatcherEnsemble:
        """What answers: the member itself where there is one alone."""
        return members[0] if len(members) == 1 else MatcherEnsemble(members)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchingCheckpoint:
    """A trained matcher with all that it needs to match subjects."""

    matcher: Matcher | MatcherEnsemble
    sizes: MatcherSizes
    feature_names: tuple[str, ...]
    """Columns of `features.graph.graph_of` that nodes are described by."""
    keep_above: float
    """Confidence above which a pair is kept; chosen on validation pairs."""
    null_scores: tuple[float, ...]
    """Scores of validation pairs of circuits that have nothing in common, ascending."""
    zoo: Mapping[str, Any]
    """Name, folder and fingerprint of the zoo of pairs that it was trained on."""
    lineages: tuple[str, ...]
    """Lineages that it was trained or tuned on: no evaluation may contain them."""
    training: Mapping[str, Any]
    """The resolved configuration of the run."""


def save(checkpoint: MatchingCheckpoint, folder: Path) -> None:
    """Writes config.json and model.safetensors into a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "feature_version": FEATURE_VERSION,
        "feature_names": list(checkpoint.feature_names),
        "edge_channels": list(CHANNELS),
        "sizes": dataclasses.asdict(checkpoint.sizes),
        "keep_above": checkpoint.keep_above,
        "null_scores": list(checkpoint.null_scores),
        "zoo": dict(checkpoint.zoo),
        "lineages": list(checkpoint.lineages),
        "training": dict(checkpoint.training),
    }
    save_tensors(checkpoint.matcher, folder / MODEL)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_matching_checkpoint(folder: Path) -> MatchingCheckpoint:
    """Reads a checkpoint of a matcher.

    Raises: InputError naming path, key, expected and found, for whatever is missing, unknown or misshapen.
    """
    do = "Check the path of the checkpoint."
    require(folder.is_dir(), str(folder), expected="the folder of a checkpoint", got="no such folder", do=do)
    path = folder / CONFIG
    config = read_config(path, kind=KIND, version=SCHEMA_VERSION, types=_TYPES)
    version = config["feature_version"]
    where = f"{path}: feature_version"
    require(version == FEATURE_VERSION, where, expected=str(FEATURE_VERSION), got=version, do=RETRAIN)
    channels = config["edge_channels"]
    where = f"{path}: edge_channels"
    require(channels == list(CHANNELS), where, expected=str(list(CHANNELS)), got=channels, do=RETRAIN)
    sizes = record_from_json(MatcherSizes, _LATER | config["sizes"], f"{path}: sizes", do=RETRAIN)
    for key, value in dataclasses.asdict(sizes).items():
        least = 1 if key in ("width", "n_layers", "n_heads", "edge_width", "members") else 0
        where = f"{path}: sizes.{key}"
        require(value >= least, where, expected=f"at least {least}", got=value, do=RETRAIN)
    n_names, where = len(config["feature_names"]), f"{path}: feature_names"
    expected = f"{sizes.n_features} names"
    require(n_names == sizes.n_features, where, expected=expected, got=n_names, do=RETRAIN)
    where, got = f"{path}: keep_above", config["keep_above"]
    require(0 <= got <= 1, where, expected="a confidence, 0 to 1", got=got, do=RETRAIN)
    matcher = sizes.joined([sizes.network() for _ in range(sizes.members)])
    load_tensors(matcher, folder / MODEL)
    return MatchingCheckpoint(
        matcher=matcher.eval(),
        sizes=sizes,
        feature_names=tuple(config["feature_names"]),
        keep_above=float(got),
        null_scores=tuple(map(float, config["null_scores"])),
        zoo=config["zoo"],
        lineages=tuple(config["lineages"]),
        training=config["training"],
    )


_LATER = {f.name: f.default for f in dataclasses.fields(MatcherSizes) if f.default is not dataclasses.MISSING}
_TYPES: dict[str, tuple[type, ...]] = {
    "feature_version": (int,),
    "feature_names": (list,),
    "edge_channels": (list,),
    "sizes": (dict,),
    "keep_above": (int, float),
    "null_scores": (list,),
    "zoo": (dict,),
    "lineages": (list,),
    "training": (dict,),
}
