"""Writes the table of pairs: which components of two related subjects correspond, where that is known."""

from collections import Counter
from pathlib import Path

from datasets import Features, List, Value

from data_gen.pairs import RELATED, pairs
from metamodel.subjects.config import components
from metamodel.triples.schema import ROLES, Triple
from metamodel.triples.store import Zoo
from metamodel.triples.tables import write_table

NAME = "pairs"
NONE = -1
"""In a map of components: none corresponds."""

FEATURES = Features(
    {
        **{name: Value("string") for name in ("kind", "first", "second", "first_lineage", "second_lineage")},
        **{name: Value("string") for name in ("first_departs", "second_departs")},
        "map": List(Value("int32")),
    }
)


def add_pairs(folder: Path, *, most: int) -> Counter[str]:
    """Adds the table `pairs` to a zoo, or makes it anew, and returns how many pairs of each kind it holds.

    Raises: InputError if there is no finished zoo.
    """
    zoo, counts = Zoo.open(folder), Counter[str]()
    columns = ["id", "subject", "family", "variant", "size", "recipe", "lineage", "origin", "departs"]
    rows = zoo.rows.select_columns([*columns, "relation", "relative"]).to_list()
    made = []
    for pair in pairs(rows, most=most):
        counts[pair["kind"]] += 1
        made.append(pair | {"map": _map(zoo, pair["kind"], pair["first"], pair["second"])})
    write_table(folder, NAME, made, FEATURES)
    return counts


def _map(zoo: Zoo, kind: str, first: str, second: str) -> list[int] | None:
    """For each component of the first subject its counterpart in the second; None where nothing is known."""
    if kind == "unrelated":
        return None
    one, other = zoo.triple(first), zoo.triple(second)
    if one.truth is not None and other.truth is not None:
        return _by_variables(one, other)
    if kind not in RELATED:
        return None
    kept = [_alive(one, i) and _alive(other, i) for i in range(len(components(one.subject.config)))]
    return [i if both else NONE for i, both in enumerate(kept)]


def _alive(triple: Triple, node: int) -> bool:
    """Whether a component is still there: pruned heads write nothing."""
    component = components(triple.subject.config)[node]
    if component.kind != "head":
        return True
    return bool(triple.subject.weights[f"blocks.{component.layer}.attn.W_O"][component.head].any())


def _by_variables(one: Triple, other: Triple) -> list[int]:
    """Components of one kind and role that carry the same variables correspond, the n-th to the n-th.

    Embeddings and unembedding correspond to themselves.
    """
    first, second = _claims(one), _claims(other)
    found = []
    for claim in first:
        found.append(second.index(claim) if claim is not None and claim in second else NONE)
    return found


def _claims(triple: Triple) -> list[tuple[object, ...] | None]:
    """For each component what it is said to be: kind, role, variables, and the how-manieth of these."""
    assert triple.truth is not None
    met: Counter[tuple[object, ...]] = Counter()
    claims: list[tuple[object, ...] | None] = []
    nodes = components(triple.subject.config)
    for node, role, bits in zip(
        nodes, triple.truth.role.tolist(), triple.truth.variables.tolist(), strict=True
    ):
        if not bits and node.kind in ("head", "mlp"):
            claims.append(None)
            continue
        claim = (node.kind, ROLES[role] if bits else "", bits)
        met[claim] += 1
        claims.append((*claim, met[claim]))
    return claims
