"""Keeps builders of one folder out of each other's way: one of the whole zoo, or several of its shares.

Every builder has a file of its own in the folder, `build.lock.3-of-64`, and holds it by a lock of the
operating system (flock), which ends with its process, however that ends: what a dead one leaves stops nobody.
`build.lock` is held for the moment in which a builder looks for others. Both are removed when a build ends.

Limits: machines see each other's locks where the file system passes flock on (NFS since version 4, Lustre
mounted with `flock`, CephFS, GPFS; not Lustre with `localflock`). Where it knows no locks, a note says so and
the build goes on: two builders then do the same work twice, and write the same bytes.
"""

import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from math import gcd
from pathlib import Path

from metamodel.config import require
from metamodel.triples.manifest import unwritable

LOCK = "build.lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""How file systems say that they have no locks."""


@contextmanager
def claimed(folder: Path, share: tuple[int, int]) -> Iterator[None]:
    """Keeps out, while inside, whoever would build a shard of this share.

    Args:
        folder: of a zoo that is begun.
        share: (k, n) for every n-th shard from the k-th on; (0, 1) for the whole zoo.

    Raises: InputError if another builder is at work on some of these shards, and says which.
    """
    own = folder / f"{LOCK}.{share[0]}-of-{share[1]}"
    try:
        with _looking(folder):
            for path in sorted(folder.glob(f"{LOCK}.*")):
                _refuse(folder, path, share)
            descriptor = _take(own)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise unwritable(folder, error) from error
        sys.stderr.write(f"note: {folder} lies on a file system without locks: start one build at a time.\n")
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError), _looking(folder):  # the folder may be gone
            own.unlink(missing_ok=True)
        os.close(descriptor)


def is_lock(path: Path) -> bool:
    """Whether a file of a zoo's folder is a builder's lock, or was left behind by one."""
    return path.name == LOCK or _share(path) is not None


def _refuse(folder: Path, path: Path, share: tuple[int, int]) -> None:
    """Raises InputError if the lock is held for one of our shards; removes it if its holder is dead."""
    other = _share(path)
    if other is None:
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        # k + i n and k' + j n' meet for some i and j just where k and k' agree modulo gcd(n, n')
        what = "all of it" if other == (0, 1) else f"share {other[0]}/{other[1]}"
        require(
            (share[0] - other[0]) % gcd(share[1], other[1]) != 0,
            str(folder),
            expected="no other builder of these shards",
            got=f"one that builds {what}: {path.read_text()}",
            do="Wait for it, or stop it: finished shards are kept.",
        )
    finally:
        os.close(descriptor)


def _take(own: Path) -> int:
    """Holds our own lock, and writes into it who does."""
    descriptor = os.open(own, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, _holder().encode())
    except OSError:
        own.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def _share(path: Path) -> tuple[int, int] | None:
    found = re.fullmatch(re.escape(LOCK) + r"\.(\d+)-of-(\d+)", path.name)
    return (int(found[1]), int(found[2])) if found else None


def _holder() -> str:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"


@contextmanager
def _looking(folder: Path) -> Iterator[None]:
    """One builder at a time looks at the locks of the others, takes its own or gives it back."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is(path, descriptor):
                break
        except OSError as error:
            if error.errno in NO_LOCKS:
                path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder had removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
