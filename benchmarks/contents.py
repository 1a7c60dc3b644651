"""What a zoo holds, in numbers: networks and triples by origin, relation and departure, shares of kinds.

    python benchmarks/contents.py data/medium

An *end* is a network at the end of its training or making: no checkpoint, fine-tuned or pruned copy. The last
line of stdout is one JSON object.
"""

import json
from pathlib import Path

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Zoo


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.contents", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo")
    folder = Path(parse_options(parser, arguments).zoo)
    zoo = Zoo.open(folder)
    rows = zoo.to_pandas()
    networks = rows.drop_duplicates("subject")
    ends = networks[networks["relation"] == "none"]
    trained = ends[ends["origin"] == "trained"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = {
        "triples": len(rows),
        "networks": len(networks),
        "lineages": int(rows["lineage"].nunique()),
        "families": int(rows["family"].nunique()),
        "rejected": sum(len(shard.rejected) for shard in zoo.manifest.shards),
        "mib": round(size / 2**20, 1),
        "networks_by_relation": networks["relation"].value_counts().to_dict(),
        "ends": len(ends),
        "ends_by_origin": ends["origin"].value_counts().to_dict(),
        "ends_by_departure": ends["departs"].value_counts().to_dict(),
        "share_of_trained_with_several_families": round(float(trained["id"].str.contains("@").mean()), 3),
        "share_of_ends_with_3_layers_or_more": round(float((ends["n_layers"] >= 3).mean()), 3),
        "share_of_ends_of_width_64_or_more": round(float((ends["d_model"] >= 64).mean()), 3),
    }
    print(json.dumps({"zoo": zoo.name} | found))


if __name__ == "__main__":
    run_command(main)
