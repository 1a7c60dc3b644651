"""Makes the shards of a zoo, on this machine or on others, and finishes the zoo when all are there."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_gen.progress import Progress
from data_gen.workers import Advance, Report, RunJobs, run_jobs
from metamodel.config import InputError
from metamodel.triples.building import finish
from metamodel.triples.dataset_card import write_card
from metamodel.triples.manifest import Manifest, ShardRecord, valid_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A shard to be built."""

    n_subjects: int
    cost: float
    """Work in units of its own, to order shards and tell the time left."""


def build_shards(
    began: Manifest,
    out: Path,
    make: Callable[[int, Report], ShardRecord],
    jobs: Mapping[int, Job],
    *,
    run: RunJobs = run_jobs,
    workers: int | None,
    progress: bool,
    card: Callable[[Path], object] = write_card,
) -> None:
    """Makes those shards that are not there, the longest first, and finishes the zoo when all are.

    Args:
        began: its manifest as it stands.
        out: folder of the zoo.
        make: picklable; makes and stores the shard of an index, and tells how far it is.
        jobs: by index, the shards to be built here.
        run: runs jobs, here or elsewhere.
        workers: processes; by default as many as `run` finds cores for.
        progress: shows progress on stderr.
        card: writes what tells people about the finished zoo.

    Raises: InputError if a worker dies again and again. Finished shards are kept.
    """
    there = [record for index in jobs if (record := valid_shard(out, index)) is not None]
    todo = sorted(jobs.keys() - {r.index for r in there}, key=lambda index: (-jobs[index].cost, index))
    died: dict[int, str] = {}
    with Progress(
        name=began.name,
        n_subjects=sum(job.n_subjects for job in jobs.values()),
        cost=sum((jobs[index].cost for index in todo), start=0.0),
        show=progress,
    ) as shown:
        for record in there:
            shown.advance(accepted=record.n_subjects, rejected=len(record.rejected), cost=0.0)
        with closing(run(make, todo, workers=workers)) as outcomes:
            for outcome in outcomes:
                if outcome is None:
                    shown.tick()
                elif isinstance(outcome, Advance):
                    shown.working(outcome.job, outcome.share * jobs[outcome.job].cost)
                elif outcome.result is None:
                    shown.working(outcome.job, 0.0)
                    died[outcome.job] = outcome.died
                else:
                    done, cost = outcome.result, jobs[outcome.job].cost
                    shown.working(outcome.job, 0.0)
                    shown.advance(accepted=done.n_subjects, rejected=len(done.rejected), cost=cost)
    if died:
        shard, cause = min(died.items())
        raise InputError(
            f"{out}: shard {shard}",
            expected="workers that live",
            got=f"one that died at every attempt ({cause}); {len(died)} of {began.n_shards} shards miss",
            do="If memory is short, give fewer --workers. Run again to go on: finished shards are kept.",
        )
    whole = finish(out)
    if whole is not None and any(record.accepted for record in whole.shards):
        card(out)
