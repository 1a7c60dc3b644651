"""The README of a zoo's folder: a dataset card, so that the folder can be pushed to a hub as it is.

It says what the zoo holds, how it was built, how it is read, and what it must not be used for. Made from the
manifest and the table alone: the same zoo, the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metamodel.triples.manifest import Manifest, write_atomically
from metamodel.triples.store import Zoo

CARD = "README.md"
LICENSE, UNKNOWN_LICENSE = "apache-2.0", "other"
"""Of zoos that this package made, and of those that hold other people's networks."""
COUNTED = ("origin", "family", "size", "recipe", "relation", "departs")
"""Columns whose values the card counts."""

_LIMITS = """\
## Limits

- Subjects are small (up to a few layers) and learn symbolic tasks; nothing here was trained on language.
- Subjects of one zoo share a vocabulary and a context. Function labels are measured scores with thresholds,
  not annotations: a head that is negative for every label may still do something that has no label.
- Checkpoints from early in training need not have learnt their task; `relation` and `accuracy` tell.
- Whoever trains on this zoo and reports a test must keep lineages whole and leave out all that `departs`.
"""


def dataset_card(zoo: Zoo) -> str:
    """The card's text."""
    manifest = zoo.manifest
    rows: list[dict[str, Any]] = zoo.rows.to_list()
    rejected = sum(len(shard.rejected) for shard in manifest.shards)
    subjects = len({row["subject"] for row in rows})
    lineages = len({row["lineage"] for row in rows})
    parts = [
        _front_matter(manifest),
        f"# {manifest.name}: small transformers, each with what flows, what matters and what it answers",
        f"{len(rows)} triples (activation, circuit, behavior) of {subjects} networks in {lineages} lineages; "
        f"{rejected} networks were rejected, with their reasons in `manifest.json`.",
        *(_table(column, rows) for column in COUNTED),
        _known_circuits(rows),
        _splits(rows),
        _built(manifest),
        _READ.format(name=manifest.name),
        _labels(manifest),
        _LIMITS,
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def write_card(folder: Path) -> Path:
    """Writes the card of a finished zoo with at least one triple."""
    text = dataset_card(Zoo.open(folder))
    write_atomically(folder / CARD, lambda partial: partial.write_text(text))
    return folder / CARD


def _front_matter(manifest: Manifest) -> str:
    values = {
        "license": UNKNOWN_LICENSE if "imported" in manifest.config else LICENSE,
        "pretty_name": manifest.name,
        "tags": ["meta-models", "mechanistic-interpretability", "weight-space-learning"],
        "configs": [{"config_name": "triples", "data_files": "shards/*.arrow"}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _table(column: str, rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row[column] for row in rows)
    return _markdown((column, "triples"), sorted(counts.items()))


def _markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _known_circuits(rows: Sequence[Mapping[str, Any]]) -> str:
    """Worst-node accuracies of those subjects whose circuit is known."""
    held: dict[str, list[float]] = {}
    for row in rows:
        if row["certificate"] is not None:
            held.setdefault(row["origin"], []).append(row["certificate"])
    if not held:
        return ""
    lines = [(o, len(v), f"{min(v):.3f}", f"{sorted(v)[len(v) // 2]:.3f}") for o, v in sorted(held.items())]
    return (
        "## Known circuits\n\nAccuracy of the worst component under interchange on held-out inputs:\n\n"
        + _markdown(("origin", "triples", "least", "median"), lines)
    )


def _splits(rows: Sequence[Mapping[str, Any]]) -> str:
    n_train = sum(row["departs"] == "none" for row in rows)
    return (
        "## Splits\n\n"
        f"Meta-models train on lineages among the {n_train} triples that depart in nothing, and hold out "
        "whole lineages of them (`seed`). Every other test departs along one axis, named in `departs`. "
        "`metamodel.triples.make_splits` makes the splits from a seed."
    )


def _built(manifest: Manifest) -> str:
    made = "data_gen.harvest" if "imported" in manifest.config else "data_gen.build"
    return (
        "## How it was built\n\n"
        f"By version {manifest.code_version} of the `metamodel` package: `python -m {made}` with the "
        "configuration that `manifest.json` holds. The same configuration gives the same bytes on one "
        f"kind of machine. Fingerprint `{manifest.fingerprint[:16]}`; `python -m data_gen.verify` checks it."
    )


_READ = """\
## Reading it

```python
from metamodel.triples import Zoo

zoo = Zoo.open("{name}")
zoo.to_pandas()                      # one row a triple
triple = zoo[0]                      # subject, activation, circuit, behavior, labels
zoo.where(origin="compiled")         # a selection, itself a zoo
zoo.to_dataset(["labels/state"])     # a Hugging Face dataset
```

Without the package: `shards/*.arrow` are tables of Hugging Face `datasets`, `shards/*.safetensors` the
arrays, row `row` of shard `shard`."""


def _labels(manifest: Manifest) -> str:
    if not manifest.labels:
        return ""
    lines = [(f"`{label.name}`", label.description, label.effect_size) for label in manifest.labels]
    return "## Function labels\n\n" + _markdown(("label", "score", "positive from"), lines)
