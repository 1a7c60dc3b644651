"""A zoo is begun and finished by any number of jobs, killed at any moment, without a word of complaint."""

import json
import os
from pathlib import Path

import pytest

from metamodel.config import InputError
from metamodel.triples import begin, finish, read_manifest, valid_shard, write_shard
from metamodel.triples.manifest import plain_values, write_atomically

ZOO = {"name": "zoo", "config": {"seed": 0}, "labels": (), "n_shards": 1}
SHARD = {"index": 0, "files": {}, "accepted": [], "rejected": {}}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_job_that_begins_at_any_moment_of_another_ones_beginning_is_accepted(tmp_path, monkeypatch):
    folder, begun, inside = tmp_path / "zoo", [], []

    def with_another_job_around(step):
        def surrounded(*arguments, **options):
            for moment in ("before", "after"):
                if not inside:
                    inside.append(moment)
                    begun.append(begin(folder, **ZOO))
                    inside.clear()
                if moment == "before":
                    done = step(*arguments, **options)
            return done

        return surrounded

    monkeypatch.setattr(os, "replace", with_another_job_around(os.replace))
    monkeypatch.setattr(Path, "mkdir", with_another_job_around(Path.mkdir))
    first = begin(folder, **ZOO)
    assert len(begun) >= 6
    assert all(other == first for other in begun)
    assert names(folder) == ["manifest.json", "shards"]


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
