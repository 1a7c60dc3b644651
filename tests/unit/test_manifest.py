"""A zoo is begun and finished by any number of jobs, killed at any moment, without a word of complaint."""

import errno
import json
import os
from pathlib import Path

import pytest

from metamodel.config import InputError
from metamodel.triples import begin, finish, read_manifest, valid_shard, write_shard
from metamodel.triples.building import differences, shown
from metamodel.triples.manifest import plain_values, write_atomically

ZOO = {"name": "zoo", "config": {"seed": 0}, "labels": (), "n_shards": 1}
SHARD = {"index": 0, "files": {}, "accepted": [], "rejected": {}}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


MOMENTS = 6
"""Before and after each of: making the folder, giving the manifest its name, making `shards/`."""


def begun_around(monkeypatch, folder: Path, moment: int, other: dict) -> list:
    """What two jobs get that begin one folder, the second of them inside the first, at one of `MOMENTS`."""
    got, passed = [], []

    def job(zoo):
        try:
            got.append(begin(folder, **zoo))
        except InputError as error:
            got.append(str(error))

    def watched(step):
        def surrounded(*arguments, **options):
            for when in ("before", "after"):
                passed.append(when)
                if len(passed) == moment + 1:
                    job(other)
                if when == "before":
                    done = step(*arguments, **options)
            return done

        return surrounded

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", watched(os.link))
        patch.setattr(Path, "mkdir", watched(Path.mkdir))
        job(ZOO)
    return got


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_job_that_begins_at_any_moment_of_another_ones_beginning_is_accepted(tmp_path, monkeypatch, moment):
    first, second = begun_around(monkeypatch, tmp_path / "zoo", moment, ZOO)
    assert first == second == read_manifest(tmp_path / "zoo")
    assert names(tmp_path / "zoo")[0] == "manifest.json"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_of_two_configurations_that_begin_one_folder_at_once_one_is_refused(tmp_path, monkeypatch, moment):
    got = begun_around(monkeypatch, tmp_path / "zoo", moment, ZOO | {"config": {"seed": 1}})
    (refused,) = (text for text in got if isinstance(text, str))
    (kept,) = (manifest for manifest in got if not isinstance(manifest, str))
    there = kept.config["seed"]
    assert f"got another one (there -> here): seed: {there} -> {1 - there}. Choose another" in refused
    assert read_manifest(tmp_path / "zoo") == kept


def test_a_file_system_without_hard_links_is_built_into(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert begin(tmp_path / "zoo", **ZOO) == begin(tmp_path / "zoo", **ZOO)
    assert names(tmp_path / "zoo") == ["manifest.json", "shards"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "expected space on its disk, got No space left on device. Free some and run"),
        (errno.EROFS, "expected a folder that can be written, got Read-only file system. Choose another"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line_and_leaves_no_part(tmp_path, monkeypatch, code, said):
    begin(tmp_path, **ZOO)

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as error:
        write_shard(tmp_path, 0, [], {})
    assert str(error.value).startswith(f"{tmp_path}/shards/shard-00000.json: {said}")
    with pytest.raises(InputError) as error:
        begin(tmp_path / "other", **ZOO)
    assert str(error.value).startswith(f"{tmp_path}/other/manifest.json: {said}")
    assert names(tmp_path) == ["manifest.json", "other", "shards"]


def test_differences_are_named_with_both_values_and_long_ones_are_cut():
    old = {"seed": 0, "cells": [{"n": 1}, {"n": 2}], "sizes": {"s": {"d": 4}}, "gone": True}
    new = {"seed": 1, "cells": [{"n": 1}, {"n": 3}, {"n": 4}], "sizes": {"s": {"d": 4}}, "text": "x" * 99}
    found = differences(old, new)
    assert found == {
        "cells[1].n": ("2", "3"),
        "cells[2]": ("nothing", '{"n": 4}'),
        "gone": ("true", "nothing"),
        "seed": ("0", "1"),
        "text": ("nothing", '"' + "x" * 58 + "…"),
    }
    assert differences(old, old) == {}
    assert shown({"a": ("1", "2"), "b": ("nothing", "3")}) == "a: 1 -> 2, b: nothing -> 3"
    many = shown({f"f{i}": ("0", "1") for i in range(9)})
    assert many.endswith("f5: 0 -> 1, and 3 more")


def test_a_job_that_finds_manifest_and_shards_after_its_first_look_is_accepted(tmp_path, monkeypatch):
    folder = tmp_path / "zoo"
    look = Path.iterdir

    def another_job_is_quicker(path):
        monkeypatch.setattr(Path, "iterdir", look)
        begin(folder, **ZOO)
        write_shard(folder, 0, [], {})
        return look(path)

    folder.mkdir()
    monkeypatch.setattr(Path, "iterdir", another_job_is_quicker)
    assert begin(folder, **ZOO) == read_manifest(folder)


@pytest.mark.parametrize("left", [["shards/"], ["manifest.json.1.part"], ["shards/", "shards/x.json.1.part"]])
def test_what_a_killed_build_left_behind_is_built_into_and_swept_away(tmp_path, left):
    for name in left:
        path = tmp_path / name
        path.mkdir() if name.endswith("/") else path.write_text("{")
    begin(tmp_path, **ZOO)
    write_shard(tmp_path, 0, [], {"a": "why"})
    assert finish(tmp_path) is not None
    assert names(tmp_path) == ["manifest.json", "shards", "shards/shard-00000.json"]


@pytest.mark.parametrize("name", ["thesis.part", "shards/shard-00000.json", "manifest.json.part.txt"])
def test_what_no_build_left_behind_is_not_built_into(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError) as error:
        begin(tmp_path, **ZOO)
    first = name.split("/")[0]
    assert str(error.value) == (
        f"{tmp_path}: expected an empty folder or a zoo, got {first} and no manifest.json. "
        "Choose another folder with --out."
    )


def test_two_jobs_may_sweep_at_once(tmp_path, monkeypatch):
    begin(tmp_path, **ZOO)
    write_shard(tmp_path, 0, [], {})
    (tmp_path / "shards/shard-00000.json.1.part").write_text("{")
    unlink = Path.unlink

    def after_another_job(path, *arguments, **options):
        os.remove(path)
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", after_another_job)
    assert finish(tmp_path) is not None
    assert names(tmp_path) == ["manifest.json", "shards", "shards/shard-00000.json"]


def test_a_file_that_is_swept_away_while_it_is_written_is_written_again(tmp_path, monkeypatch):
    written = []

    def write(partial):
        partial.write_text("text")
        written.append(partial)
        if len(written) == 1:
            partial.unlink()

    write_atomically(tmp_path / "file", write)
    assert (len(written), names(tmp_path)) == (2, ["file"])
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none", lambda partial: None)


def test_two_writers_of_one_file_never_share_its_partial(tmp_path):
    used = []
    for _ in range(2):
        write_atomically(tmp_path / "file", lambda partial: (used.append(partial), partial.write_text("")))
    assert used[0] != used[1]


@pytest.mark.parametrize("name", ["file", "file/zoo", "/proc/zoo"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / name
    if not folder.parent.exists() and not folder.parent.parent.is_file():
        pytest.skip(f"no {folder.parent} on this machine")
    with pytest.raises(InputError) as error:
        begin(folder, **ZOO)
    assert str(error.value).startswith(f"{folder}: expected a folder that can be written, got ")
    assert str(error.value).endswith(". Choose another folder with --out.")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"labels": ["x"]}, "labels, a str in place of an object"),
        ({"labels": 3}, "'int' object is not iterable"),
        ({"shards": ["x"]}, "shards, a str in place of an object"),
        ({"shards": [SHARD | {"files": []}]}, "shards.files, a list in place of an object"),
        ({"shards": [SHARD | {"files": {"a": "b"}}]}, "shards.files.a, a str in place of an object"),
        ({"shards": [SHARD | {"rejected": []}]}, "shards.rejected, a list in place of an object"),
        ({"shards": [{"index": 0}]}, "'files'"),
    ],
)
def test_a_manifest_of_other_values_is_one_line(tmp_path, damage, place):
    manifest = plain_values(begin(tmp_path, **ZOO))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | damage))
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path)
    said = f"{tmp_path}/manifest.json: expected a whole manifest, got an error at {place}. Build it: "
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("record", [SHARD | {"files": []}, SHARD | {"files": {"a": 1}}, [], "text"])
def test_a_record_of_other_values_is_a_shard_to_be_made_again(tmp_path, record):
    begin(tmp_path, **ZOO)
    path = tmp_path / "shards/shard-00000.json"
    path.write_text(json.dumps(SHARD))
    assert valid_shard(tmp_path, 0) is not None
    path.write_text(json.dumps(record))
    assert valid_shard(tmp_path, 0) is None
