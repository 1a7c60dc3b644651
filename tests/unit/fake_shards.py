"""Jobs that workers run in tests: they live, die, fail and wait. Imported by fresh processes."""

import os
import signal
import time
from pathlib import Path

from metamodel.config import InputError


def halfway(job: int, report) -> int:
    report(0.5)
    return job


def dies_once_or_always(folder: Path, job: int, report) -> int:
    """Job 1 dies the first time, job 2 every time."""
    mark = folder / f"started-{job}-{len(list(folder.glob(f'started-{job}-*')))}"
    mark.touch()
    if job == 2 or (job == 1 and mark.name.endswith("-0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return job * job


def threads(job: int, report) -> int:
    import torch

    return torch.get_num_threads()


def waits(folder: Path, job: int, report) -> int:
    """Job 0 writes its process and waits."""
    if job == 0:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    while not (folder / "pid").exists():
        time.sleep(0.01)
    return job


def mistaken(job: int, report) -> int:
    raise InputError("seed", expected="3", got=job, do="Set 3.")


def faulty(job: int, report) -> int:
    return 1 // job


def stored(folder: Path, job: int, report):
    """A shard of the synthetic zoo of `test_store`."""
    from test_store import store_shard

    from metamodel.triples import valid_shard

    store_shard(folder, job)
    record = valid_shard(folder, job)
    assert record is not None
    return record


def stored_unless_first(folder: Path, job: int, report):
    """The worker of shard 1 is killed when its data are written and its record has no name yet."""
    if job == 1:
        replace = os.replace

        def killed(partial, path):
            if Path(path).suffix == ".json":
                os.kill(os.getpid(), signal.SIGKILL)
            replace(partial, path)

        os.replace = killed
    return stored(folder, job, report)


def halfway_and_waits(folder: Path, job: int, report) -> int:
    report(0.5)
    time.sleep(60)
    return job
