"""The folder of one run: new, or that of an interrupted run. Never overwritten, never shared."""

from datetime import datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from metamodel.config.editing import EditingConfig
from metamodel.config.errors import InputError
from metamodel.config.function import FunctionConfig
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import plain

RESOLVED, ZOO, CHECKPOINT, CARD = "config.yaml", "zoo.txt", "checkpoint", "README.md"


def claim_folder(
    config: FunctionConfig | EditingConfig | MatchingConfig, zoo: str, *, now: datetime | None = None
) -> tuple[Path, FileLock]:
    """The folder of this run, and the lock that keeps other processes out for as long as it is referenced.

    Args:
        zoo: its fingerprint. A run goes on only with the configuration and the zoo that it began with: a
            reader may have trained on what another zoo holds out.

    Raises: InputError if no folder can be made.
    """
    runs = Path(config.out) / config.name
    resolved = yaml.safe_dump(plain(config), sort_keys=False)
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    new = [runs / (stamp if attempt == 0 else f"{stamp}-{attempt}") for attempt in range(100)]
    to_go_on = [run for run in sorted(runs.glob("*"), reverse=True) if _unfinished(run, resolved, zoo)]
    try:
        for run in (*to_go_on, *(run for run in new if not run.exists())):
            run.mkdir(parents=True, exist_ok=True)
            lock = FileLock(run / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:  # another process is at work there
                continue
            (run / RESOLVED).write_text(resolved)
            (run / ZOO).write_text(zoo)
            return run, lock
    except OSError as error:
        raise InputError(
            "out", expected="a folder that can be written", got=str(error), do="Choose another --out."
        ) from error
    raise AssertionError(f"a hundred runs in one second below {runs}")


def _unfinished(run: Path, resolved: str, zoo: str) -> bool:
    """Whether this run is of the same configuration and zoo, and has no card yet."""
    kept = [run / RESOLVED, run / ZOO]
    same = all(path.is_file() for path in kept) and [path.read_text() for path in kept] == [resolved, zoo]
    return same and not (run / CHECKPOINT / CARD).is_file()
