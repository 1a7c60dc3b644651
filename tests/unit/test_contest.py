"""What methods do with all they are asked: tuned first, in any number of processes, and kept when done."""

import json
import os
from dataclasses import replace
from pathlib import Path

import joblib
import pytest
import torch

from metamodel.config import InputError
from metamodel.config.edits import KEEP
from metamodel.evaluation.editing.contest import DRAWDOWN, Contender, Contest, Done, all_done, done_by
from metamodel.evaluation.editing.measures import Outcome
from metamodel.evaluation.editing.scores import EditScores
from metamodel.evaluation.processes import each, n_processes


def always(answer: int, size: float = 100.0):
    """A method that makes a subject give one answer whatever is asked, and is sure of itself."""

    def propose(episode):
        change = torch.zeros_like(episode.editable.subject.weights["unembed.b_U"])
        change[answer] = size
        return {"unembed.b_U": change}, 0.75

    return propose


def nothing(episode):
    return {}, float("nan")


@pytest.fixture
def contest(specified, taught) -> Contest:
    return Contest(splits={"seed": [specified(taught, 4)]}, sequences=[], tuning=[specified(taught, 2)])


def same(one: Done, other: Done) -> bool:
    """But for milliseconds; NaN is itself."""

    def told(done: Done) -> str:
        rows = {k: [replace(o, milliseconds=0.0) for o in of] for k, of in done.outcomes.items()}
        return repr(replace(done, outcomes=rows))

    return told(one) == told(other)


def test_a_method_is_tuned_before_it_is_asked(contest):
    learned = []

    def propose(episode):
        return always(len(learned))(episode)

    curve = {1: 0.5, 2: 1.0}
    contender = Contender(name="made", method=propose, tune=learned.extend, by_steps=lambda e: curve)
    done = done_by(contender, contest)
    assert len(learned) == 1
    direct = done_by(Contender(name="made", method=always(1)), contest)
    assert same(replace(done, by_steps={}), direct)
    assert done.by_steps == {"seed": curve}
    assert done.after_ten == []


def test_what_costs_locality_reaches_nothing_at_drawdown(contest):
    """Inputs to keep are shown in full there, so some are taken from what is shown."""
    episode = contest.splits["seed"][0]
    few = episode.examples.role != KEEP
    told = {name: getattr(episode.examples, name)[few] for name in ("tokens", "position", "role", "wanted")}
    unseen = replace(episode, examples=replace(episode.examples, **told), inputs=episode.inputs[few])
    asked = replace(contest, splits={"seed": [episode, unseen]})
    shown, hidden = done_by(Contender(name="x", method=always(2)), asked).outcomes["seed"]
    assert 1 - hidden.scores.locality_near > DRAWDOWN
    assert hidden.at_drawdown == 0
    # what was shown counts in no locality, so nothing there is lost
    assert shown.at_drawdown == shown.scores.in_scope > 0
    assert hidden.forecast == 0.75
    assert hidden.relative_norm > 0
    (none,) = done_by(Contender(name="x", method=nothing), contest).outcomes["seed"]
    assert none.at_drawdown == none.relative_norm == 0


def test_the_number_of_processes_changes_nothing(contest):
    contenders = [Contender(name=str(i), method=always(i)) for i in range(3)]
    said: list[str] = []
    found = [
        all_done(contenders, contest, workers=workers, keep=None, progress=said.append) for workers in (1, 2)
    ]
    assert list(found[0]) == list(found[1]) == ["0", "1", "2"]
    for name in found[0]:
        assert same(found[0][name], found[1][name])
    assert not same(found[0]["0"], found[0]["1"])
    assert said[4].startswith("judging 3 methods, 2 at a time")


def test_what_was_done_before_is_not_done_again(contest, tmp_path: Path):
    def fails(episode):
        raise AssertionError("asked again")

    def asked(**methods):
        contenders = [Contender(name=name, method=method) for name, method in methods.items()]
        return all_done(contenders, contest, workers=1, keep=tmp_path / "kept", progress=lambda _: None)

    first = asked(one=always(1), two=nothing)
    (tmp_path / "kept/three.json.part").write_text("{")
    again = asked(two=fails, three=always(3), one=fails)
    assert list(again) == ["two", "three", "one"]
    assert same(again["one"], first["one"])
    assert same(again["two"], first["two"])
    assert again["one"].outcomes["seed"][0].milliseconds == first["one"].outcomes["seed"][0].milliseconds
    with pytest.raises(AssertionError, match="asked again"):
        asked(four=fails)
    assert not (tmp_path / "kept/four.json").exists()
    assert json.loads((tmp_path / "kept/three.json").read_text())["after_ten"] == []


def test_what_was_asked_something_else_is_done_again(contest, tmp_path: Path):
    def asked(of: Contest) -> Done:
        contender = Contender(name="x", method=nothing)
        return all_done([contender], of, workers=1, keep=tmp_path, progress=lambda _: None)["x"]

    asked(contest)
    twice = replace(contest, splits={"seed": [*contest.splits["seed"]] * 2})
    assert len(asked(twice).outcomes["seed"]) == 2
    assert list(asked(replace(contest, splits={"size": contest.splits["seed"]})).outcomes) == ["size"]
    file = tmp_path / "x.json"
    for other in '"schema_version": 0', '"of_before": 0':
        file.write_text(file.read_text().replace('"schema_version": 1', other))
        asked(replace(contest, splits={"size": contest.splits["seed"]}))
        assert json.loads(file.read_text())["schema_version"] == 1


def test_by_steps_are_kept_by_number(contest, tmp_path: Path):
    contender = Contender(name="x", method=nothing, by_steps=lambda e: {1: 0.25, 100: 0.5})
    for _ in range(2):
        found = all_done([contender], contest, workers=1, keep=tmp_path, progress=lambda _: None)
        assert found["x"].by_steps == {"seed": {1: 0.25, 100: 0.5}}
        (outcome,) = found["x"].outcomes["seed"]
        assert isinstance(outcome, Outcome)
        assert isinstance(outcome.scores, EditScores)


def threads(job: int) -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_in_one_thread_and_elsewhere_if_there_are_several_processes(workers):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = dict(each(threads, [5, 6, 7], workers=workers))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(found) == [0, 1, 2]
    assert {n for _, n in found.values()} == {1}
    assert ({pid for pid, _ in found.values()} == {os.getpid()}) is (workers == 1)


def mistaken(job: int) -> int:
    raise InputError("here", expected="a cat", got=job, do="Fetch one.")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_of_a_user_comes_back_as_the_line_that_it_is(workers):
    with pytest.raises(InputError, match="here: expected a cat, got 3") as raised:
        list(each(mistaken, [3, 3], workers=workers))
    assert (raised.value.where, raised.value.got) == ("here", 3)


def test_there_are_never_more_processes_than_jobs():
    assert n_processes(8, 3) == 3
    assert n_processes(2, 3) == 2
    assert n_processes(None, 100) == joblib.cpu_count()
    assert n_processes(4, 0) == 1
