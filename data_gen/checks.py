"""What can be wrong with a zoo: files, records, shapes, weights, and answers that are not the stored ones."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from data_gen.build_lock import is_lock
from data_gen.recertify import certificate_problems
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects.config import components
from metamodel.triples.dataset_card import CARD, dataset_card
from metamodel.triples.manifest import (
    MANIFEST,
    SHARDS,
    Manifest,
    digest,
    plain_values,
    read_manifest,
    shard_name,
)
from metamodel.triples.schema import Triple
from metamodel.triples.shard import check_file
from metamodel.triples.store import Zoo
from metamodel.triples.tables import TABLES, table_names, table_problems


def problems(folder: Path, *, n_measured: int) -> Iterator[str]:
    """Every problem of a zoo, in a line each; none if it is whole.

    Args:
        folder: of the zoo.
        n_measured: subjects that are run again on their stored probes; fewer if the zoo holds fewer.

    Raises: InputError if there is no zoo, or one of another schema version.
    """
    manifest = read_manifest(folder)
    if not manifest.finished:
        yield f"{folder}: unfinished; run the command that builds it again"
        return
    found = list(_file_problems(folder, manifest))
    yield from found
    yield from _identity_problems(manifest)
    if found:
        return
    zoo = Zoo.open(folder)
    yield from _content_problems(zoo)
    for id in _sample(zoo.ids, n_measured):
        yield from _answer_problems(zoo, id)
    certified = [row["id"] for row in zoo.rows.to_list() if row["certificate"] is not None]
    for id in _sample(certified, n_measured):
        yield from certificate_problems(zoo.triple(id), int(manifest.config["seed"]))


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.config_fingerprint != digest(manifest.config):
        yield f"{folder / MANIFEST}: its configuration is not the one of its fingerprint"
    if [record.index for record in manifest.shards] != list(range(manifest.n_shards)):
        yield f"{folder / MANIFEST}: records of {len(manifest.shards)} shards, expected {manifest.n_shards}"
    known = {folder / MANIFEST, folder / SHARDS}
    for record in manifest.shards:
        path = folder / SHARDS / f"{shard_name(record.index)}.json"
        known |= {path, *(folder / SHARDS / name for name in record.files)}
        try:
            if json.loads(path.read_text()) != plain_values(record):
                yield f"{path}: not the record that {MANIFEST} holds"
        except FileNotFoundError:
            yield f"{path}: missing"
        except ValueError:
            yield f"{path}: corrupted"
        for name, file in record.files.items():
            try:
                check_file(folder, name, file)
            except InputError as error:
                yield str(error)
    known |= {folder / CARD, *(path for path in folder.iterdir() if is_lock(path))}
    for name in table_names(folder):
        table = folder / TABLES / f"{name}.arrow"
        known |= {folder / TABLES, table, table.with_suffix(".json")}
        yield from (f"{table}: {problem}" for problem in table_problems(folder, name))
    for path in sorted(set(folder.rglob("*")) - known):
        yield f"{path}: not a file of this zoo; remove it"


def _identity_problems(manifest: Manifest) -> Iterator[str]:
    counts = Counter(id for record in manifest.shards for id in (*record.accepted, *record.rejected))
    for id, n in counts.items():
        if n > 1:
            yield f"{id}: stands in the manifest {n} times"


def _content_problems(zoo: Zoo) -> Iterator[str]:
    """Table against manifest, then every triple's shapes and weights."""
    ids = list(zoo.rows["id"])
    if ids != list(zoo.ids):
        yield f"{zoo.folder}: its table does not hold the subjects of its manifest"
        return
    card = zoo.folder / CARD
    if card.is_file() and card.read_text() != dataset_card(zoo):
        yield f"{card}: not the card of this zoo; remove it and build again"
    departures: dict[str, str] = {}
    for id, lineage, departs in zip(ids, zoo.rows["lineage"], zoo.rows["departs"], strict=True):
        if not lineage:
            yield f"{id}: no lineage"
        if departures.setdefault(lineage, departs) != departs:
            yield f"{id}: lineage {lineage} departs along {departures[lineage]} elsewhere, here {departs}"
    for id in ids:
        try:
            triple = zoo.triple(id)
        except InputError as error:
            yield str(error)
            continue
        yield from _shape_problems(triple, len(zoo.labels))


def _shape_problems(triple: Triple, n_labels: int) -> Iterator[str]:
    config, id = triple.subject.config, triple.info.id
    n_nodes, n_edges = len(components(config)), len(component_edges(config))
    n_probes = triple.behavior.probe_tokens.shape[0]
    by_edge = ("noising_margin", "noising_kl", "zero_margin", "zero_kl", "member")
    expected = {
        **{("circuit", name): (n_edges,) for name in by_edge},
        **{("labels", f.name): (n_nodes, n_labels) for f in dataclasses.fields(triple.labels)},
        ("circuit", "node_member"): (n_nodes,),
        ("activation", "output_norm"): (n_nodes,),
        ("activation", "second_moment"): (n_nodes, config.d_model, config.d_model),
        ("behavior", "ablation_margin"): (n_nodes,),
        ("behavior", "probe_answer"): (n_probes,),
        ("behavior", "slice_accuracy"): (len(triple.behavior.slice_names),),
    }
    for (part, name), shape in expected.items():
        got = tuple(getattr(getattr(triple, part), name).shape)
        if got != shape:
            yield f"{id}: {part}/{name}: expected shape {shape}, got {got}"
    for part, name in (
        ("circuit", "noising_margin"),
        ("behavior", "accuracy"),
        ("activation", "second_moment"),
    ):
        if not getattr(getattr(triple, part), name).isfinite().all():
            yield f"{id}: {part}/{name}: nan or inf"


def _answer_problems(zoo: Zoo, id: str) -> Iterator[str]:
    triple = zoo.triple(id)
    behavior = triple.behavior
    with torch.no_grad():
        logits = triple.subject.run(behavior.probe_tokens).logits[0]
    answers = logits[torch.arange(len(logits)), behavior.probe_position].argmax(-1)
    n_other = int((answers != behavior.probe_answer).sum())
    if n_other:
        yield f"{id}: answers {n_other} of {len(logits)} probes otherwise than stored"
    stored_right = (behavior.probe_answer == behavior.probe_right_answer).float().mean().item()
    right = (answers == behavior.probe_right_answer).float().mean().item()
    if right != stored_right:
        yield f"{id}: accuracy {right:.3f} on its probes, stored {stored_right:.3f}"


def _sample(ids: Sequence[str], n: int) -> list[str]:
    """A few ids, the same in every run, spread over the zoo."""
    return sorted(ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())[:n]
