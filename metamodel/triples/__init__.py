"""The record of a zoo: schema, store and splits."""

from metamodel.triples.building import begin, finish
from metamodel.triples.manifest import Manifest, ShardRecord, read_manifest, valid_shard
from metamodel.triples.schema import (
    ROLES,
    SCHEMA_VERSION,
    Activation,
    Behavior,
    CircuitScores,
    FunctionLabels,
    LabelDefinition,
    SubjectInfo,
    Triple,
    Truth,
)
from metamodel.triples.shard import write_shard
from metamodel.triples.splits import Splits, make_splits, refuse_trained
from metamodel.triples.store import Zoo

__all__ = [
    "ROLES",
    "SCHEMA_VERSION",
    "Activation",
    "Behavior",
    "CircuitScores",
    "FunctionLabels",
    "LabelDefinition",
    "Manifest",
    "ShardRecord",
    "Splits",
    "SubjectInfo",
    "Triple",
    "Truth",
    "Zoo",
    "begin",
    "finish",
    "make_splits",
    "read_manifest",
    "refuse_trained",
    "valid_shard",
    "write_shard",
]
