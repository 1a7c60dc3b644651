"""Makes a zoo of people's own networks: harvests every network of a folder on the prompts of a file.

    python -m data_gen.harvest FOLDER --prompts prompts.jsonl

FOLDER holds networks in transformers' format (GPT-2), each in a folder of its own. The prompts are JSON lines
of token ids, see `metamodel.circuits.prompt_file`. The zoo opens, verifies and is evaluated like any other;
all that it holds departs by its origin. A killed harvest goes on where it stopped.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from metamodel.config import require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options

MOST_EDGES = 4000
"""Edges of the largest circuit that is swept without being asked to: 4 layers of 12 heads have 3,800."""


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.harvest", description="Makes a zoo of people's own networks.")
    parser.add_argument("folder", type=str, help="folder of networks in transformers' format")
    parser.add_argument("--prompts", type=str, required=True, help="JSON lines of token ids")
    parser.add_argument("--out", type=str, default=None, help="folder of the zoo; by default data/<folder>")
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each core")
    parser.add_argument("--most-edges", type=int, default=MOST_EDGES, help="of a circuit that is swept")
    options = parse_options(parser, arguments)
    require(
        options.workers is None or options.workers >= 1,
        "--workers",
        expected="at least 1",
        got=options.workers,
        do="Leave it out for one worker a core.",
    )
    from metamodel.triples.manifest import read_manifest

    source = Path(options.folder)
    out = Path(options.out or f"data/{source.resolve().name}")
    build_imported(source, Path(options.prompts), out, workers=options.workers, most_edges=options.most_edges)
    whole = read_manifest(out)
    for shard in whole.shards:
        for name, reason in shard.rejected.items():
            sys.stdout.write(f"left out {name}: {reason}\n")
    n = sum(len(shard.accepted) for shard in whole.shards)
    sys.stdout.write(f"{out} holds {n} of {whole.n_shards} networks. Check it with:\n")
    sys.stdout.write(f"  python -m data_gen.verify {out}\n")


def build_imported(
    source: Path, prompts: Path, out: Path, *, workers: int | None, most_edges: int, progress: bool = True
) -> Path:
    """Builds what is missing of the zoo of a folder of networks, and returns the zoo's folder.

    Raises: InputError for a folder without networks, or prompts that are none.
    """
    from data_gen.build_lock import claimed
    from data_gen.executor import Job, build_shards
    from data_gen.imported import fingerprint_of, harvest_config, import_shard, model_folders
    from data_gen.labels.registry import LABELS
    from data_gen.prompt_file import prompt_task
    from metamodel.config.parser import plain
    from metamodel.triples.building import begin

    networks, task = model_folders(source), prompt_task(prompts)
    config = {
        "name": out.name,
        "imported": {network.name: fingerprint_of(network) for network in networks},
        "prompts": task.digest,
        "most_edges": most_edges,
        "harvest": plain(harvest_config(task)),
    }
    began = begin(out, name=out.name, config=config, labels=LABELS, n_shards=len(networks))
    make = partial(
        import_shard,
        tuple(str(network.absolute()) for network in networks),
        str(prompts.absolute()),
        most_edges,
        out.absolute(),
    )
    jobs = {i: Job(n_subjects=1, cost=1.0) for i in range(len(networks))}
    with claimed(out, (0, 1)):
        build_shards(began, out, make, jobs, workers=workers, progress=progress)
    return out


if __name__ == "__main__":
    run_command(main)
