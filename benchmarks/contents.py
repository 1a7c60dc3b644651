"""What a zoo holds, in numbers: networks and triples by origin, relation and departure, shares of kinds.

    python benchmarks/contents.py data/medium

An *end* is a network at the end of its training or making: no checkpoint, fine-tuned or pruned copy. The last
line of stdout is one JSON object.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Zoo


def share(cases: Iterable[bool]) -> float:
    """Of the cases, how many hold; 0 where there are none."""
    held = list(cases)
    return round(sum(held) / max(1, len(held)), 3)


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.contents", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo")
    folder = Path(parse_options(parser, arguments).zoo)
    zoo = Zoo.open(folder)
    rows = zoo.rows.to_list()
    networks = list({row["subject"]: row for row in reversed(rows)}.values())
    ends = [row for row in networks if row["relation"] == "none"]
    trained = [row for row in ends if row["origin"] == "trained"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = {
        "triples": len(rows),
        "networks": len(networks),
        "lineages": len({row["lineage"] for row in rows}),
        "families": len({row["family"] for row in rows}),
        "rejected": sum(len(shard.rejected) for shard in zoo.manifest.shards),
        "mib": round(size / 2**20, 1),
        "networks_by_relation": Counter(row["relation"] for row in networks),
        "ends": len(ends),
        "ends_by_origin": Counter(row["origin"] for row in ends),
        "ends_by_departure": Counter(row["departs"] for row in ends),
        "share_of_trained_with_several_families": share("@" in row["id"] for row in trained),
        "share_of_ends_with_3_layers_or_more": share(row["n_layers"] >= 3 for row in ends),
        "share_of_ends_of_width_64_or_more": share(row["d_model"] >= 64 for row in ends),
    }
    print(json.dumps({"zoo": zoo.name} | found))


if __name__ == "__main__":
    run_command(main)
