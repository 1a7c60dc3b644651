"""Runs independent jobs on the cores of one machine, and survives workers that die and users who stop.

Every worker is a fresh process with one thread, also when there is only one, so that the number of workers
changes no byte of what they write. Imports no torch.
"""

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, Protocol, TypeVar, runtime_checkable

from metamodel.config import InputError

R = TypeVar("R")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MEMORY_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""Settings of glibc's allocator: arrays of megabytes are not given back to the system at every step and taken
again, page by page. Other allocators ignore them."""
ATTEMPTS = 2
"""How often a job is started whose worker dies."""
HEARTBEAT = 1.0
"""Seconds after which `run_jobs` yields None if nothing happened, so that progress can be shown."""

Report = Callable[[float], None]
"""Tells the share of a job that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[R]):
    """How one job ended."""

    job: int
    result: R | None = None
    died: str = ""
    """How its worker died, if it did at every attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """How far a running job is."""

    job: int
    share: float


@runtime_checkable
class RunJobs(Protocol):
    """What `run_jobs` does, here or on other machines."""

    def __call__(
        self, function: Callable[[int, Report], R], jobs: Sequence[int], *, workers: int | None
    ) -> Generator[Outcome[R] | Advance | None]: ...


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    job: int | None = None


def run_jobs(
    function: Callable[[int, Report], R],
    jobs: Sequence[int],
    *,
    workers: int | None,
    attempts: int = ATTEMPTS,
) -> Generator[Outcome[R] | Advance | None]:
    """Yields the outcome of each job as it ends, how far it is before, and None at times while waiting.

    Closing the iterator, or an exception in it, ends all workers.

    Args:
        function: picklable, called in a worker with a job and with what it may tell its progress to.
        jobs: in the order in which they are started.
        workers: processes; by default one for each core.
        attempts: how often a job is started whose worker dies, before it is given up.

    Raises:
        InputError: the one that a job raised.
        RuntimeError: with the traceback of any other exception of a job.
    """
    n_workers = max(1, min(workers or os.cpu_count() or 1, len(jobs)))
    waiting = deque(jobs)
    started = dict.fromkeys(jobs, 0)
    team: list[_Worker] = []
    try:
        while waiting or any(worker.job is not None for worker in team):
            while waiting and len(team) < n_workers:
                team.append(_start(function))
            for worker in [worker for worker in team if worker.job is None]:
                if waiting and not _give(worker, waiting[0]):
                    team.remove(worker)
                elif waiting:
                    started[waiting.popleft()] += 1
            busy = {worker.connection: worker for worker in team if worker.job is not None}
            ready = wait(list(busy), timeout=HEARTBEAT)
            if not ready:
                yield None
            for connection in ready:
                assert isinstance(connection, Connection)
                worker = busy[connection]
                job = worker.job
                assert job is not None
                try:
                    outcome = received(job, connection.recv())
                except (EOFError, ConnectionError):
                    worker.process.join()
                    team.remove(worker)
                    if started[job] < attempts:
                        waiting.appendleft(job)
                        continue
                    outcome = Outcome(job=job, died=_cause(worker.process.exitcode))
                if isinstance(outcome, Outcome):
                    worker.job = None
                yield outcome
    finally:
        for worker in team:
            worker.connection.close()
            worker.process.terminate()
        for worker in team:
            worker.process.join()


def _give(worker: _Worker, job: int) -> bool:
    """Whether the worker is alive to take the job."""
    try:
        worker.connection.send(job)
    except ConnectionError:
        return False
    worker.job = job
    return True


def received(job: int, message: tuple[str, object]) -> "Outcome | Advance":
    """What the message of a worker says.

    Raises: InputError or RuntimeError, if the job raised.
    """
    match message:
        case "advance", float(share):
            return Advance(job=job, share=share)
        case "result", result:
            return Outcome(job=job, result=result)
        case "input", {"where": where, "expected": expected, "got": got, "do": do}:
            raise InputError(str(where), expected=str(expected), got=got, do=str(do))
        case _:
            raise RuntimeError(f"shard {job} failed in its worker:\n{message[1]}")


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _start(function: Callable[[int, Report], R]) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    with _worker_environment(), _interrupts_ignored():
        process.start()
    theirs.close()
    return _Worker(process=process, connection=ours)


def attempted(function: Callable[[int, Report], R], job: int, report: Report) -> tuple[str, object]:
    """Does a job in a worker, and returns the message of how it ended."""
    try:
        return "result", function(job, report)
    except InputError as error:
        values = {"where": error.where, "expected": error.expected, "got": str(error.got), "do": error.do}
        return "input", values
    except Exception:
        return "error", traceback.format_exc()


def _serve(function: Callable[[int, Report], R], connection: Connection) -> None:
    """Life of a worker: ends when its parent hangs up."""
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        message = attempted(function, job, lambda share: connection.send(("advance", float(share))))
        try:
            connection.send(message)
        except BrokenPipeError:
            return


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Environment of a process that is started: numerical libraries take one thread and keep their memory."""
    variables = dict.fromkeys(THREAD_VARIABLES, "1") | MEMORY_VARIABLES
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started inside ignores Ctrl-C: its parent decides when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
