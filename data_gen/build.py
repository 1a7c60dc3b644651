"""Builds a zoo: trains its subjects shard by shard, harvests their triples and stores them.

    python -m data_gen.build --config configs/zoo/small.yaml

A shard is a pure function of (configuration, shard number), and one that is there is skipped. So a killed
build goes on, and a local pool and a SLURM array (`--shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`)
give the same bytes. Torch is imported only after the arguments are understood.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_gen.builder_command import asked, builder_parser
from data_gen.config import ZooConfig
from metamodel.config.command import run_command
from metamodel.config.parser import parse_config, plain

if TYPE_CHECKING:
    from data_gen.workers import RunJobs

Executor = Literal["local", "ray"]
"""Where shards are built: in processes of this machine, or by Ray."""


def build(
    config: ZooConfig,
    out: Path,
    *,
    workers: int | None = None,
    executor: Executor = "local",
    progress: bool = True,
    shards: tuple[int, int] = (0, 1),
) -> Path:
    """Builds what is missing of a zoo, and returns its folder.

    Call it below `if __name__ == "__main__":`, since every worker is a fresh process.

    Args:
        config: what the zoo holds.
        out: its folder, new or of the same configuration.
        workers: processes; by default one for each core. Their number changes no byte.
        executor: "local", or "ray" for the machines of a Ray cluster, which all see `out` under this path.
        progress: shows progress on stderr.
        shards: (k, n) builds only every n-th shard from the k-th on, for builds on many machines.

    Raises:
        InputError: if `out` holds something else, another builder is at work on these shards, the disk is
            full, or a worker dies again and again. Finished shards are kept.
        KeyboardInterrupt: when interrupted, after its workers have ended. Finished shards are kept.
    """
    from data_gen.build_lock import claimed
    from data_gen.executor import Job, build_shards
    from data_gen.labels.registry import LABELS
    from data_gen.population import shard_specs
    from data_gen.shard import cost, make_shard
    from metamodel.triples.building import begin
    from metamodel.triples.manifest import valid_shard

    specs = shard_specs(config)
    began = begin(out, name=config.name, config=plain(config), labels=LABELS, n_shards=len(specs))
    jobs = {
        spec.index: Job(n_subjects=spec.n_networks, cost=cost(spec, config.harvest))
        for spec in specs
        if spec.index % shards[1] == shards[0]
    }
    if began.finished and all(valid_shard(out, index) is not None for index in jobs):
        return out
    with claimed(out, shards):
        build_shards(
            began,
            out,
            partial(make_shard, config, out.absolute()),
            jobs,
            run=_runner(executor),
            workers=workers,
            progress=progress,
        )
    return out


def _runner(executor: Executor) -> "RunJobs":
    if executor == "ray":
        from data_gen import ray_executor

        return ray_executor.run_jobs
    from data_gen import workers

    return workers.run_jobs


def main(arguments: Sequence[str]) -> None:
    parser = builder_parser(prog="data_gen.build", description="Builds a zoo of subjects with their triples.")
    parser.add_argument(
        "--executor", type=Executor, default="local", help="processes of this machine, or Ray"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, and build nothing")
    config, options = parse_config(parser, ZooConfig, arguments)
    out, shards = asked(options, config.name)
    from data_gen.population import shard_specs
    from data_gen.summary import plan, summary
    from metamodel.triples.manifest import has_record, read_manifest

    specs = shard_specs(config)
    if options.dry_run:
        sys.stdout.write(plan(config, specs, out))
        return
    began = time.monotonic()
    build(config, out, workers=options.workers, executor=options.executor, shards=shards)
    whole = read_manifest(out)
    if not whole.finished:
        n = sum(has_record(out, spec.index) for spec in specs)
        sys.stdout.write(f"{out}: {n} of {len(specs)} shards are there; the last build completes the zoo.\n")
        return
    sys.stdout.write(summary(whole, specs))
    n_subjects, seconds = sum(s.n_subjects for s in whole.shards), int(time.monotonic() - began)
    n_triples = sum(len(s.accepted) for s in whole.shards)
    sys.stdout.write(f"\n{out} holds {n_triples} triples of {n_subjects} subjects. ")
    sys.stdout.write(f"This run took {seconds // 60}:{seconds % 60:02d}. Check the zoo with:\n")
    sys.stdout.write(f"  python -m data_gen.verify {out}\n")


if __name__ == "__main__":
    run_command(main)
