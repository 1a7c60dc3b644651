"""Builds survive workers that die, users who stop, full disks and odd clocks, and end in the same bytes."""

import dataclasses
import errno
import importlib
import os
import re
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from data_gen.build import build
from data_gen.build_lock import claimed
from data_gen.builder_command import parse_share
from data_gen.config import CellConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.executor import Job, build_shards
from data_gen.population import shard_specs
from data_gen.progress import Progress
from data_gen.summary import plan, summary, too_few
from data_gen.workers import ATTEMPTS, Advance, Outcome, attempted, received, run_jobs
from metamodel.config import InputError
from metamodel.triples import begin, finish, valid_shard, write_shard
from metamodel.triples.dataset_card import CARD

CONFIG = ZooConfig(
    name="test",
    n_ctx=24,
    sizes={"s": SizeConfig(n_layers=1, n_heads=2, d_model=8, d_head=4)},
    recipes={"r": RecipeConfig(steps=100)},
    cells=(
        CellConfig(family="repeated", sizes=("s",), recipe="r", n_subjects=5),
        CellConfig(family="modular", sizes=("s",), recipe="r", n_subjects=2, departs="task"),
    ),
    subjects_per_shard=2,
)


@pytest.fixture
def fakes(monkeypatch):
    """Functions that a fresh process can import."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("fake_shards")


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("test_store")


def outcomes(function, jobs, workers: int) -> dict[int, Outcome]:
    return {o.job: o for o in run_jobs(function, jobs, workers=workers) if isinstance(o, Outcome)}


def test_a_worker_that_dies_is_replaced_and_a_job_that_kills_is_given_up(fakes, tmp_path):
    found = outcomes(partial(fakes.dies_once_or_always, tmp_path), range(5), workers=2)
    assert {job: o.result for job, o in found.items()} == {0: 0, 1: 1, 2: None, 3: 9, 4: 16}
    assert found[2].died == "killed by SIGKILL"
    assert len(list(tmp_path.glob("started-1-*"))) == 2
    assert len(list(tmp_path.glob("started-2-*"))) == 2


def test_workers_have_one_thread_and_their_mistakes_and_faults_are_told(fakes):
    assert {o.result for o in outcomes(fakes.threads, [0], workers=1).values()} == {1}
    told = list(run_jobs(fakes.halfway, [3], workers=1))
    assert [o for o in told if o is not None] == [Advance(job=3, share=0.5), Outcome(job=3, result=3)]
    with pytest.raises(InputError) as mistake:
        outcomes(fakes.mistaken, [7], workers=1)
    assert str(mistake.value) == "seed: expected 3, got 7. Set 3."
    with pytest.raises(RuntimeError, match=r"(?s)shard 0 failed in its worker:.*ZeroDivisionError"):
        outcomes(fakes.faulty, [0], workers=1)


def test_stopping_ends_workers_that_are_still_busy(fakes, tmp_path):
    with closing(run_jobs(partial(fakes.waits, tmp_path), [0, 1], workers=2)) as running:
        first = next(outcome for outcome in running if outcome is not None)
        assert first.job == 1
        pid = int((tmp_path / "pid").read_text())
        began = time.monotonic()
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_build_keeps_its_shards_and_goes_on_to_the_same_bytes(fakes, synthetic, tmp_path):
    undisturbed, killed = synthetic.store_zoo(tmp_path / "undisturbed"), tmp_path / "killed"
    begun = {"name": "synthetic", "config": synthetic.CONFIG, "labels": synthetic.LABELS, "n_shards": 3}
    jobs = {index: Job(n_subjects=2, cost=float(index)) for index in range(3)}
    make = partial(fakes.stored_unless_first, killed)
    with pytest.raises(InputError) as error:
        build_shards(begin(killed, **begun), killed, make, jobs, workers=2, progress=False)
    assert str(error.value) == (
        f"{killed}: shard 1: expected workers that live, got one that died at every attempt "
        "(killed by SIGKILL); 1 of 3 shards miss. If memory is short, give fewer --workers. "
        "Run again to go on: finished shards are kept."
    )
    assert [index for index in range(3) if valid_shard(killed, index)] == [0, 2]
    assert (killed / "shards/shard-00001.safetensors").exists()
    assert len(list(killed.glob("shards/shard-00001.json.*.part"))) == ATTEMPTS
    kept = (killed / "shards/shard-00000.safetensors").stat().st_mtime_ns
    build_shards(
        begin(killed, **begun), killed, partial(fakes.stored, killed), jobs, workers=1, progress=False
    )
    assert (killed / "shards/shard-00000.safetensors").stat().st_mtime_ns == kept
    assert contents(killed) == contents(undisturbed)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the card, which is made of the others."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != CARD]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def here(function, jobs, *, workers):
    """Runs jobs in this process, in which a test can change what they meet."""
    for job in jobs:
        yield Advance(job=job, share=0.5)
        yield received(job, attempted(function, job, lambda share: None))


def build_here(fakes, synthetic, folder: Path) -> None:
    begun = begin(folder, name="synthetic", config=synthetic.CONFIG, labels=synthetic.LABELS, n_shards=3)
    jobs = {index: Job(n_subjects=2, cost=1.0) for index in range(3)}
    build_shards(begun, folder, partial(fakes.stored, folder), jobs, run=here, workers=1, progress=False)


@pytest.mark.parametrize(
    ("code", "what"), [(errno.ENOSPC, "space on its disk"), (errno.EROFS, "a folder that")]
)
def test_a_disk_that_fills_up_is_one_line_and_what_is_finished_is_kept(
    fakes, synthetic, tmp_path, monkeypatch, code, what
):
    undisturbed, filled = synthetic.store_zoo(tmp_path / "undisturbed"), tmp_path / "filled"
    replace = os.replace

    def full(partial, path):
        if Path(path).name == "shard-00001.arrow":
            raise OSError(code, os.strerror(code))
        replace(partial, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError) as error:
            build_here(fakes, synthetic, filled)
    assert str(error.value).startswith(f"{filled}/shards/shard-00001.arrow: expected {what}")
    assert not list(filled.rglob("*.part"))
    kept = (filled / "shards/shard-00000.safetensors").stat().st_mtime_ns
    build_here(fakes, synthetic, filled)
    assert (filled / "shards/shard-00000.safetensors").stat().st_mtime_ns == kept
    assert contents(filled) == contents(undisturbed)


def test_clocks_that_jump_and_times_of_files_change_nothing(fakes, synthetic, tmp_path, monkeypatch):
    undisturbed, jumping = synthetic.store_zoo(tmp_path / "undisturbed"), tmp_path / "jumping"
    now = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: next(now))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    build_here(fakes, synthetic, jumping)
    assert contents(jumping) == contents(undisturbed)
    for i, path in enumerate(sorted(jumping.rglob("*"))):
        os.utime(path, (0, 0) if i % 2 else (4 * 10**9, 4 * 10**9))
    (jumping / "shards/shard-00002.json").unlink()
    build_here(fakes, synthetic, jumping)
    assert contents(jumping) == contents(undisturbed)
    assert (jumping / "shards/shard-00000.arrow").stat().st_mtime in (0, 4 * 10**9)


def test_an_unknown_task_is_refused_before_anything_is_written(tmp_path):
    cell = dataclasses.replace(CONFIG.cells[0], family="repeatd")
    with pytest.raises(InputError, match="Did you mean 'repeated'"):
        build(dataclasses.replace(CONFIG, cells=(cell,)), tmp_path / "zoo")
    with pytest.raises(InputError, match=r"zoo\.cells\[0\]: expected prompts of at most n_ctx = 6 tokens"):
        build(dataclasses.replace(CONFIG, n_ctx=6), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("share", [(0, 1), (3, 4)])
def test_a_folder_on_which_another_builder_is_at_work_is_refused(tmp_path, share):
    folder = tmp_path / "zoo"
    build(CONFIG, folder, shards=(9, 10), progress=False)  # a share without a shard
    with (
        claimed(folder, share),
        pytest.raises(InputError, match=rf"got one that builds .*: process {os.getpid()} on"),
    ):
        build(CONFIG, folder, shards=(7, 8), progress=False)
    build(CONFIG, folder, shards=(7, 8), progress=False)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "shards"]


@pytest.mark.parametrize("text", ["3", "4/4", "-1/4", "a/b", "1/2/3"])
def test_a_share_that_is_none_is_refused(text):
    assert parse_share("3/64") == (3, 64)
    with pytest.raises(InputError) as error:
        parse_share(text)
    assert str(error.value).startswith(f"--shard: expected k/n with 0 <= k < n, got {text!r}.")


def test_the_plan_counts_subjects_shards_and_edges(tmp_path):
    text = plan(CONFIG, shard_specs(CONFIG), tmp_path)
    # 1 layer of 2 heads: 2 embeddings feed q, k, v of 2 heads, and 4 components the logits: 16 edges.
    assert "7 subjects in 4 shards, 112 edges" in text
    assert not list(tmp_path.iterdir())


def test_the_summary_counts_and_says_where_too_few_learned(tmp_path):
    specs = shard_specs(CONFIG)
    begin(tmp_path / "zoo", name="test", config={}, labels=(), n_shards=len(specs))
    for spec in specs:
        write_shard(tmp_path / "zoo", spec.index, [], {s.id: "accuracy 0.2 below 0.9" for s in spec.subjects})
    whole = finish(tmp_path / "zoo")
    assert whole is not None
    text = summary(whole, specs)
    assert "such as: accuracy 0.2 below 0.9" in text
    assert re.search(r"all\s+│\s+│\s+0 │\s+7 │ 0\.0 MiB in 4 shards", text)
    assert "repeated-base at size s: only 0 of 5 subjects were accepted." in text
    assert too_few({("t", "s"): 2}, {("t", "s"): ["x", "x"]}) == []
    assert len(too_few({("t", "s"): 1}, {("t", "s"): ["x", "x"]})) == 1


def test_progress_without_a_terminal_is_plain_lines(capsys):
    with Progress(name="zoo", n_subjects=4, cost=2.0, show=True) as shown:
        assert "left" not in shown.counts()
        shown.working(0, 0.5)
        assert "left" in shown.counts()
        shown.working(0, 0.0)
        shown.advance(accepted=1, rejected=1, cost=1.0)
        assert "left" in shown.counts()
        shown.advance(accepted=2, rejected=0, cost=1.0)
    assert capsys.readouterr().err == "zoo: 4/4 subjects, 3 accepted, 1 rejected\n"
    with Progress(name="zoo", n_subjects=4, cost=2.0, show=False) as shown:
        shown.advance(accepted=1, rejected=1, cost=1.0)
    assert capsys.readouterr().err == ""


def test_time_left_goes_by_the_cost_of_shards_and_is_never_negative(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(name="zoo", n_subjects=4, cost=11.0, show=False) as shown:
        shown.working(0, 5.0)
        now[0] += 10
        assert shown.counts() == "0 accepted, 0 rejected, 0:12 left"
        shown.working(0, 0.0)
        shown.advance(accepted=1, rejected=1, cost=10.0)
        assert shown.counts() == "1 accepted, 1 rejected, 0:01 left"
        shown.working(1, 0.5)
        now[0] += 1000
        assert shown.counts() == "1 accepted, 1 rejected, 0:48 left"
        shown.working(1, 0.0)  # its worker died: it starts anew
        assert shown.counts() == "1 accepted, 1 rejected, 1:41 left"
        shown.advance(accepted=2, rejected=0, cost=1.0)
        assert shown.counts() == "3 accepted, 1 rejected"
