"""Programs as tasks of the zoo, and random programs."""

import pytest

from data_gen.programs import (
    PROGRAM_FAMILIES,
    TOKENS,
    ProgramTask,
    behavior,
    library_program,
    make_program_task,
    program_of,
    random_program,
    random_programs,
    valid,
)
from data_gen.programs.sampling import _draw, every_step_matters
from data_gen.programs.sketch import Sketch
from data_gen.seeds import generator_for
from data_gen.tasks.base import BOS, D_VOCAB, FIRST_SYMBOL, UNSUPERVISED
from metamodel.config.errors import InputError


@pytest.mark.parametrize("family", PROGRAM_FAMILIES)
def test_prompts_and_samples_agree_with_the_rule(family: str):
    task = make_program_task(family, "base", 3)
    assert task.name == family
    batch, prompts = task.sample(generator_for(1), 32), task.prompts(generator_for(2), 32)
    for tokens in (batch.tokens, prompts.clean, prompts.corrupt):
        assert tokens.shape == (32, task.n_pos)
        assert (tokens[:, 0] == BOS).all()
        assert (tokens[:, 1:] >= FIRST_SYMBOL).all()
        assert (tokens < D_VOCAB).all()
    row, place = (batch.targets != UNSUPERVISED).nonzero(as_tuple=True)
    assert (task.answer(batch.tokens[row], place) == batch.targets[row, place]).all()
    assert (batch.targets[row, place] >= task.first_answer).all()
    assert (prompts.answer != prompts.corrupt_answer).all()
    assert (prompts.clean != prompts.corrupt).any(1).all()
    assert valid(task.program, task.symbols(prompts.corrupt)).all()
    assert (prompts.answer == task.answer(prompts.clean, prompts.position)).all()


def test_corrupt_prompts_of_the_first_slice_differ_in_one_symbol():
    prompts = make_program_task("rasp-histogram", "base", 0).prompts(generator_for(0), 40)
    n_changed = (prompts.clean != prompts.corrupt).sum(1)
    assert (n_changed[prompts.slice == 0] == 1).all()
    assert (n_changed[prompts.slice == 1] > 1).any()


def test_variants_change_length_and_symbols():
    base, long, wide = (program_of("rasp-shift", 0, variant) for variant in ("base", "long", "wide"))
    assert (long.length, long.n_symbols) == (base.length + 2, base.n_symbols)
    assert (wide.length, wide.n_symbols) == (base.length, base.n_symbols + 2)


def test_unknown_words_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"task\.family: .* got 'rasp-shft'.*Did you mean 'rasp-shift'"):
        program_of("rasp-shft", 0)
    with pytest.raises(InputError, match=r"task\.rasp-shift\.variant: .* got 'lng'"):
        program_of("rasp-shift", 0, "lng")


def test_random_programs_are_determined_by_their_seed_and_differ():
    programs = random_programs(5, 6)
    assert random_programs.__wrapped__(5, 6) == programs
    assert random_program(5) == programs[0]
    assert random_program(6) != programs[0]
    behaviors = [behavior(program) for program in programs]
    assert len(set(behaviors)) == 6
    assert all(every_step_matters(program) for program in programs)
    for program in programs:
        size = {"n_symbols": program.n_symbols, "length": program.length}
        assert behavior(program) != behavior(library_program("histogram", **size))


def test_a_draw_goes_on_past_behavior_that_is_known(monkeypatch: pytest.MonkeyPatch):
    first = behavior(_draw(1, set()))
    assert behavior(_draw(1, {first})) != first
    monkeypatch.setattr("data_gen.programs.sampling._library", lambda n_symbols, length: {first})
    assert behavior(_draw(1, set())) != first


def test_behavior_ignores_how_a_program_is_written_and_how_answers_are_named():
    def shifted(add: int):
        s = Sketch(n_symbols=4, length=5)
        s.shift("previous")
        s.map("renamed", "previous", lambda x: (int(x) + add) % 5)
        return s.program("other", "renamed", "")

    known = library_program("shift", n_symbols=4, length=5)
    assert behavior(shifted(0)) == behavior(shifted(2)) == behavior(known)
    assert behavior(known) != behavior(library_program("first", n_symbols=4, length=5))


def test_a_step_that_never_matters_is_noticed():
    s = Sketch(n_symbols=4, length=6)
    s.shift("previous")
    s.sequence_map("kept", TOKENS, "previous", lambda a, b: int(a))
    assert not every_step_matters(s.program("idle", "kept", ""))
    s = Sketch(n_symbols=4, length=6)
    s.map("constant", TOKENS, lambda x: 0)
    assert not every_step_matters(s.program("constant", "constant", ""))
    assert every_step_matters(library_program("histogram"))


def test_longer_and_wider_prompts_than_the_zoo_holds_are_refused():
    long, wide = library_program("shift", length=16), library_program("shift", n_symbols=25)
    with pytest.raises(InputError, match=r"program shift: expected at most 16 positions, got 17"):
        ProgramTask(program=long)
    with pytest.raises(InputError, match=r"program shift: expected at most 48 tokens, got 51"):
        ProgramTask(program=wide)
