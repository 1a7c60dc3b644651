"""Two builders of the same shards never work at once, and a dead one keeps nobody out."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from data_gen.build_lock import claimed, is_lock
from data_gen.checks import problems
from metamodel.config import InputError
from metamodel.triples import begin, finish, write_shard


def refused(folder: Path, share: tuple[int, int]) -> str:
    with pytest.raises(InputError) as error, claimed(folder, share):
        pass
    return str(error.value)


def test_the_second_builder_is_told_who_the_first_one_is(tmp_path):
    with claimed(tmp_path, (0, 1)):
        said = refused(tmp_path, (0, 1))
    assert re.fullmatch(
        re.escape(f"{tmp_path}: expected no other builder of these shards, got one that builds all of it: ")
        + rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since [-\d]+ [:\d]+ [-+\w]+\. "
        + r"Wait for it, or stop it: finished shards are kept\.",
        said,
    )
    assert not list(tmp_path.iterdir())
    with claimed(tmp_path, (0, 1)):
        pass


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ((0, 1), (3, 4), True),
        ((3, 4), (0, 1), True),
        ((1, 4), (1, 4), True),
        ((1, 4), (2, 4), False),
        ((1, 4), (5, 8), True),
        ((1, 4), (6, 8), False),
        ((1, 2), (2, 3), True),
    ],
)
def test_shares_keep_each_other_out_where_they_have_a_shard_in_common(tmp_path, first, second, meet):
    common = set(range(first[0], 48, first[1])) & set(range(second[0], 48, second[1]))
    assert bool(common) == meet
    with claimed(tmp_path, first):
        if meet:
            what = "all of it" if first == (0, 1) else f"share {first[0]}/{first[1]}"
            assert f"one that builds {what}: process" in refused(tmp_path, second)
        else:
            with claimed(tmp_path, second):
                assert "process" in refused(tmp_path, second)
    assert not list(tmp_path.iterdir())


def test_many_shares_are_built_at_once(tmp_path):
    with ExitStack() as stack:
        for k in range(16):
            stack.enter_context(claimed(tmp_path, (k, 16)))
        assert "share 0/16" in refused(tmp_path, (0, 1))
    assert not list(tmp_path.iterdir())


def test_a_builder_that_was_killed_keeps_nobody_out_and_its_lock_is_swept_away(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from data_gen.build_lock import claimed\n"
        f"with claimed(Path({str(tmp_path)!r}), (2, 4)): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["build.lock.2-of-4"]
    with claimed(tmp_path, (0, 1)):
        assert [p.name for p in tmp_path.iterdir()] == ["build.lock.0-of-1"]


def test_a_lock_is_no_foreign_file_of_a_zoo(tmp_path):
    begin(tmp_path, name="zoo", config={}, labels=(), n_shards=1)
    write_shard(tmp_path, 0, [], {"a": "why"})
    finish(tmp_path)
    for name in ("build.lock", "build.lock.0-of-1", "build.lock.txt"):
        (tmp_path / name).write_text("")
    assert [is_lock(path) for path in sorted(tmp_path.glob("build.*"))] == [True, True, False]
    unknown = [problem for problem in problems(tmp_path, n_measured=0) if "not a file of this zoo" in problem]
    assert unknown == [f"{tmp_path}/build.lock.txt: not a file of this zoo; remove it"]


def test_without_locks_in_the_file_system_a_note_says_so(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(tmp_path, (0, 1)):
        assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        f"note: {tmp_path} lies on a file system without locks: start one build at a time.\n"
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    assert refused(tmp_path, (0, 1)) == (
        f"{tmp_path}: expected a folder that can be written, got Read-only file system. "
        "Choose another folder with --out."
    )


def test_a_lock_that_its_holder_removes_while_another_waits_is_taken_anew(tmp_path, monkeypatch):
    lock, taken = fcntl.flock, []

    def holder_leaves_first(descriptor, operation):
        lock(descriptor, operation)
        taken.append(operation)
        if len(taken) == 1:
            (tmp_path / "build.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", holder_leaves_first)
    with claimed(tmp_path, (0, 1)):
        assert taken == [fcntl.LOCK_EX, fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB]
