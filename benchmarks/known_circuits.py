"""How well the known circuits of a zoo hold, and how well exact edge patching finds them.

    python benchmarks/known_circuits.py data/medium

For each origin with known circuits: how many subjects were accepted of those that were made, the accuracies
of the worst components, and AUROC and average precision with which the exact sweep (|effect on the margin|,
noising and zero ablation, as the zoo holds it) ranks the edges of each subject against both truths: medians
and quartiles over subjects. The sweep chose no subject. The last line of stdout is one JSON object.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ranking import SWEEPS, TRUTHS, agreement

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Triple, Zoo


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"q25": round(low, 4), "median": round(median, 4), "q75": round(high, 4), "n": len(values)}


def sweeps(triples: list[Triple]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for sweep in SWEEPS:
        for kind in TRUTHS:
            pairs = [
                agreement(getattr(triple.truth, kind), getattr(triple.circuit, f"{sweep}_margin"))
                for triple in triples
            ]
            known = [pair for pair in pairs if pair]
            if known:
                found[f"{sweep}_against_{kind}"] = {
                    metric: quartiles([pair[metric] for pair in known]) for metric in known[0]
                }
    return found


def made(zoo: Zoo, origin: str) -> tuple[int, int]:
    """Subjects of an origin that were accepted, and that were rejected: ids of programs name it."""
    rejected = [id for shard in zoo.manifest.shards for id in shard.rejected]
    n_rejected = sum(id.startswith("rasp-") and f"-{origin}-" in id for id in rejected)
    return len(zoo.where(origin=origin)), n_rejected


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.known_circuits", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo with known circuits")
    zoo = Zoo.open(Path(parse_options(parser, arguments).zoo))
    held: dict[str, list[Triple]] = {}
    for i, triple in enumerate(zoo):
        if triple.truth is not None:
            held.setdefault(triple.info.origin, []).append(triple)
        print(f"\r{i + 1}/{len(zoo)} triples", end="", file=sys.stderr)
    print(file=sys.stderr)
    result = {}
    for origin, triples in sorted(held.items()):
        accepted, rejected = made(zoo, origin)
        worst = [triple.truth.worst for triple in triples if triple.truth is not None]
        result[origin] = {
            "accepted": accepted,
            "rejected": rejected,
            "worst_node_accuracy": {"least": round(min(worst), 4), **quartiles(worst)},
            **sweeps(triples),
        }
    print(json.dumps({"zoo": zoo.name, "origins": result}))


if __name__ == "__main__":
    run_command(main)
