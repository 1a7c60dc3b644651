"""Runs independent jobs on a Ray cluster, with the outcomes that `data_gen.workers` gives on one machine.

A cluster that `RAY_ADDRESS` names or that runs on this machine is joined; otherwise one is started here, and
ended with the build. Every machine of it has this package installed, in this version, and sees the zoo's
folder under the same path. The one file that imports Ray, which is an extra: `pip install "metamodel[ray]"`.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, TypeVar

from data_gen.workers import (
    ATTEMPTS,
    HEARTBEAT,
    MEMORY_VARIABLES,
    THREAD_VARIABLES,
    Advance,
    Outcome,
    Report,
    attempted,
    received,
)
from metamodel.config import InputError

R = TypeVar("R")
PATIENCE = 10.0
"""Seconds in which the cluster of RAY_ADDRESS must take a connection."""
OBJECT_STORE = 100 * 2**20
"""Bytes of Ray's object store where we start it: only records of shards pass through."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment of a Ray that we start: it reports to nobody, and does not warn of its next release."""


def run_jobs(
    function: Callable[[int, Report], R],
    jobs: Sequence[int],
    *,
    workers: int | None,
    attempts: int = ATTEMPTS,
) -> Generator[Outcome[R] | Advance | None]:
    """As `data_gen.workers.run_jobs`, with each job as a Ray task of one core.

    Args:
        function: picklable by reference: its module is imported on every machine.
        jobs: in the order in which they are started.
        workers: tasks at once; by default as many as the cluster has cores.
        attempts: how often a job is started whose worker dies, before it is given up.

    Raises:
        InputError: the one that a job raised; or if Ray is not installed or cannot be reached.
        RuntimeError: with the traceback of any other exception of a job.
    """
    ray = _ray()
    with _cluster(ray, workers):
        environment = {"env_vars": dict.fromkeys(THREAD_VARIABLES, "1") | MEMORY_VARIABLES}
        # attempts are counted here, as on one machine: Ray's own retries would hide how a worker died
        task = ray.remote(num_cpus=1, max_retries=0, runtime_env=environment)(_job)
        board: Any = ray.remote(num_cpus=0)(Board).remote()
        waiting, started = deque(jobs), dict.fromkeys(jobs, 0)
        running: dict[Any, int] = {}
        shares: dict[int, float] = {}
        try:
            while waiting or running:
                while waiting and len(running) < (workers or len(jobs)):
                    job = waiting.popleft()
                    started[job] += 1
                    running[task.remote(function, job, board)] = job
                ready, _ = ray.wait(list(running), num_returns=1, timeout=HEARTBEAT)
                if not ready:
                    told = _told(ray, board)
                    news = {job: share for job, share in told.items() if shares.get(job) != share}
                    shares |= news
                    yield from (
                        Advance(job=job, share=share)
                        for job, share in news.items()
                        if job in running.values()
                    )
                    yield None
                for done in ready:
                    job = running.pop(done)
                    try:
                        outcome = received(job, ray.get(done))
                    except ray.exceptions.RayTaskError as error:  # it never came to call the function
                        raise _unstarted(job, error) from error
                    except ray.exceptions.RayError as error:
                        if started[job] < attempts:
                            waiting.appendleft(job)
                            continue
                        outcome = Outcome(job=job, died=_cause(error))
                    yield outcome
        finally:
            for reference in running:
                with suppress(Exception):
                    ray.cancel(reference, force=True)
            with suppress(Exception):
                ray.kill(board)


class Board:
    """Where running jobs write how far they are: an actor, since a task cannot talk to who started it."""

    def __init__(self):
        self.shares: dict[int, float] = {}

    def tell(self, job: int, share: float) -> None:
        self.shares[job] = share

    def told(self) -> dict[int, float]:
        return self.shares


def _job(function: Callable[[int, Report], R], job: int, board: Any) -> tuple[str, object]:
    return attempted(function, job, lambda share: board.tell.remote(job, float(share)))


def _told(ray: ModuleType, board: Any) -> dict[int, float]:
    """How far jobs are; nothing while the board cannot be asked, for it only serves the progress line."""
    try:
        return ray.get(board.told.remote(), timeout=HEARTBEAT)
    except ray.exceptions.RayError:
        return {}


def _unstarted(job: int, error: Exception) -> Exception:
    if "ModuleNotFoundError" not in str(error):
        return RuntimeError(f"shard {job} failed in Ray:\n{error}")
    return InputError(
        "--executor",
        expected="this package, in this version, on every machine of the Ray cluster",
        got=str(error).strip().splitlines()[-1],
        do="Install it there.",
    )


def _cause(error: Exception) -> str:
    """The first line of what Ray says, which goes on for many."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _ray() -> ModuleType:
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--executor",
            expected="Ray, for --executor ray",
            got="none installed",
            do='Install it: pip install "metamodel[ray]"',
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raises InputError if nobody listens at host:port; Ray itself waits minutes for an answer."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise _no_answer(address) from error


def _no_answer(address: str) -> InputError:
    return InputError(
        "RAY_ADDRESS",
        expected="a Ray cluster",
        got=f"no answer from {address}",
        do="Start it with `ray start --head`, or unset the variable.",
    )


@contextmanager
def _cluster(ray: ModuleType, workers: int | None) -> Iterator[None]:
    """Joins a cluster or starts one of `workers` cores, and leaves or ends it afterwards."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _knock(address)
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        if address:
            raise _no_answer(address) from error
        ray.init(
            address="local",
            num_cpus=workers or os.cpu_count() or 1,
            num_gpus=0,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
