"""Independent jobs in several processes of one thread each: their number changes no result."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar, cast

from joblib import Parallel, cpu_count, delayed, parallel_config

from metamodel.subjects.threads import one_thread

Job = TypeVar("Job")
Result = TypeVar("Result")


def n_processes(workers: int | None, n_jobs: int) -> int:
    """How many there are: by default one for each core, and never more than jobs."""
    return min(workers or cpu_count(), max(1, n_jobs))


def each(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int | None
) -> Generator[tuple[int, Result]]:
    """The number of each job with its result, in the order in which they end.

    Args:
        function: with one process it is called in this one; with more it is pickled by cloudpickle for every
            job, as are jobs and results.
        workers: processes; by default one for each core that this process may use.

    Raises: what a job raises; results that were not yet taken are lost. Between results the caller has one
        thread as well; close the iterator if it is not taken to its end.
    """
    n = n_processes(workers, len(jobs))
    with one_thread(), parallel_config("loky", inner_max_num_threads=1):
        run = Parallel(n_jobs=n, return_as="generator_unordered", pre_dispatch="n_jobs")
        ended = run(delayed(_numbered)(function, i, job) for i, job in enumerate(jobs))
        yield from cast(Iterator[tuple[int, Result]], ended)


def _numbered(function: Callable[[Job], Result], i: int, job: Job) -> tuple[int, Result]:
    return i, function(job)
