"""Pairs of subjects whose relation is known, for matching: a table of its own beside the shards.

    python -m data_gen.pairs data/medium

`seed`: the same task, size and recipe from other initialisations; `size`: the same task, wider or deeper;
`origin`: the same program in subjects that were made in different ways; `algorithm`: the same task in a
trained subject and in one that runs a known program; `checkpoint`, `finetuned`, `pruned`, `disguise`: a
subject and its relative, whose components correspond; `unrelated`: subjects that have learnt nothing in
common, to calibrate absence. Whoever splits pairs goes by both lineages, and by what both depart from.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from data_gen.cells import JOIN
from data_gen.kin import kin
from metamodel.config import require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options

Kind = Literal[
    "seed", "size", "origin", "algorithm", "checkpoint", "finetuned", "pruned", "disguise", "unrelated"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
RELATED: tuple[Kind, ...] = ("checkpoint", "finetuned", "pruned", "disguise")
"""Pairs of one lineage, whose components correspond."""
MOST = 400
"""Pairs of one kind, by default."""

Row = Mapping[str, Any]


def kind_of(first: Row, second: Row) -> Kind | None:
    """How two triples of a zoo are related; None where nothing is known, or nothing is to be learnt."""
    if first["subject"] == second["subject"]:
        return None
    same_task = (first["family"], first["variant"]) == (second["family"], second["variant"])
    if first["lineage"] == second["lineage"]:
        return _relation(first, second) if same_task else None
    if first["relation"] != "none" or second["relation"] != "none":
        return None
    if not same_task:
        return "unrelated" if not kin_of(first) & kin_of(second) else None
    if first["origin"] != second["origin"]:
        return "algorithm" if "trained" in (first["origin"], second["origin"]) else "origin"
    if first["size"] != second["size"]:
        return "size"
    return "seed" if first["recipe"] == second["recipe"] else None


def kin_of(row: Row) -> frozenset[str]:
    """All families that the network of a triple has learnt, and their kin."""
    learnt = row["subject"].split("-base")[0].split(JOIN) if "@" in row["id"] else [row["family"]]
    return frozenset().union(*(kin(family) for family in learnt))


def _relation(first: Row, second: Row) -> Kind | None:
    """Relatives are a pair where one was made from the other; disguises of one network all are."""
    if first["origin"] == second["origin"] == "compiled":
        return "disguise" if first["size"] == second["size"] else None
    for child, parent in ((first, second), (second, first)):
        if child["relative"] == parent["subject"]:
            return child["relation"]
    return None


def pairs(rows: Sequence[Row], *, most: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """At most `most` pairs of each kind, chosen by a hash of both ids: adding subjects moves no choice.

    Args:
        rows: of a zoo's table, with the columns of `SubjectInfo`.
    """
    found: dict[str, list[tuple[str, Row, Row]]] = {kind: [] for kind in KINDS}
    for first, second in combinations(sorted(rows, key=lambda row: row["id"]), 2):
        kind = kind_of(first, second)
        if kind is not None:
            text = f"pair {seed} {first['id']} {second['id']}"
            found[kind].append((hashlib.sha256(text.encode()).hexdigest(), first, second))
    for kind, candidates in found.items():
        for _, first, second in sorted(candidates, key=lambda found: found[0])[:most]:
            yield {
                "kind": kind,
                "first": first["id"],
                "second": second["id"],
                "first_lineage": first["lineage"],
                "second_lineage": second["lineage"],
                "first_departs": first["departs"],
                "second_departs": second["departs"],
            }


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.pairs", description="Adds the table of pairs to a zoo.")
    parser.add_argument("folder", type=str, help="folder of the zoo")
    parser.add_argument("--most", type=int, default=MOST, help="pairs of each kind at most")
    options = parse_options(parser, arguments)
    require(options.most >= 1, "--most", expected="at least 1", got=options.most, do=f"Try {MOST}.")
    from data_gen.pair_table import add_pairs

    counts = add_pairs(Path(options.folder), most=options.most)
    for kind in KINDS:
        sys.stdout.write(f"{kind:12} {counts[kind]:6}\n")
    sys.stdout.write(f"Zoo.open({options.folder!r}).table('pairs') reads them.\n")


if __name__ == "__main__":
    run_command(main)
