"""Programs against answers computed by hand and by plain Python; the causal model's interventions."""

from collections.abc import Callable

import pytest
import torch

from data_gen.programs import (
    MAKE,
    POSITIONS,
    TOKENS,
    UNDEFINED,
    Map,
    Program,
    interchange,
    library_program,
    output,
    random_inputs,
    run,
    valid,
)
from data_gen.programs.sketch import Sketch
from data_gen.seeds import generator_for
from metamodel.config.errors import InputError

HAND: dict[str, tuple[list[int], list[int]]] = {
    "first": ([3, 1, 2, 0, 5, 4], [3, 3, 3, 3, 3, 3]),
    "shift": ([3, 1, 2, 0, 5, 4], [8, 3, 1, 2, 0, 5]),
    "fraction": ([1, 0, 0, 2, 1, 0], [0, 2, 3, 2, 2, 2]),
    "histogram": ([1, 2, 1, 1, 2, 0], [1, 1, 2, 3, 2, 1]),
    "count-greater": ([1, 4, 1, 0, 2, 4], [0, 0, 1, 3, 1, 0]),
    "reverse": ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]),
    "dedupe": ([1, 1, 2, 2, 2, 0], [1, 6, 2, 6, 6, 0]),
    "trend": ([2, 2, 3, 1, 0, 4], [3, 0, 1, 2, 2, 1]),
    "detect": ([0, 1, 2, 0, 1, 1], [0, 0, 1, 0, 0, 0]),
    "sort": ([7, 0, 5, 2, 8], [0, 2, 5, 7, 8]),
    "pair-balance": ([0, 1, 1, 2, 0, 0], [1, 0, 2, 2, 0, 1]),
    "palindrome": ([0, 2, 1, 2, 0], [1, 1, 1, 1, 1]),
    "shuffle-dyck": ([0, 2, 1, 3, 1, 0], [0, 0, 0, 1, 0, 0]),
    "induction": ([2, 4, 1, 2, 4, 2], [6, 6, 6, 4, 1, 4]),
}


@pytest.mark.parametrize("name", HAND)
def test_answers_by_hand(name: str):
    symbols, want = HAND[name]
    assert output(library_program(name), torch.tensor([symbols]))[0].tolist() == want


def test_ioi_asks_for_the_name_that_comes_once_and_only_where_there_is_one():
    ioi = library_program("ioi")
    symbols = torch.tensor([[3, 1, 3, 5], [3, 1, 1, 5], [0, 0, 4, 5], [0, 1, 2, 5], [2, 2, 2, 5]])
    assert output(ioi, symbols)[:3, 3].tolist() == [1, 3, 4]
    assert valid(ioi, symbols).tolist() == [True, True, True, False, False]


NAIVE: dict[str, Callable[[list[int], int], int]] = {
    "count": lambda x, i: x[: i + 1].count(0),
    "histogram": lambda x, i: x[: i + 1].count(x[i]),
    "count-greater": lambda x, i: sum(y > x[i] for y in x[: i + 1]),
    "seen-before": lambda x, i: int(x[i] in x[:i]),
    "count-parity": lambda x, i: x[: i + 1].count(0) % 2,
    "alternation": lambda x, i: int(i > 0 and x[i] != x[i - 1] and (i < 2 or x[i - 1] != x[i - 2])),
    "sort": lambda x, i: sorted(x)[i],
    "palindrome": lambda x, i: int(x == x[::-1]),
    "frequency-class": lambda x, i: (
        (3 * x[: i + 1].count(x[i]) > i + 1) + (3 * x[: i + 1].count(x[i]) > 2 * (i + 1))
    ),
    "pair-balance": lambda x, i: (
        (x[: i + 1].count(0) > x[: i + 1].count(1)) + 2 * (x[: i + 1].count(0) < x[: i + 1].count(1))
    ),
}


@pytest.mark.parametrize("name", NAIVE)
def test_answers_equal_plain_python(name: str):
    program = library_program(name)
    symbols = random_inputs(program, generator_for("naive", name), 200)
    want = [[int(NAIVE[name](x, i)) for i in range(len(x))] for x in symbols.tolist()]
    found = output(program, symbols)
    if name == "alternation":  # nothing stood before the first place
        want, found = [row[1:] for row in want], found[:, 1:]
    assert found.tolist() == want


def test_places_that_disagree_are_undefined():
    s = Sketch(n_symbols=3, length=3)
    s.aggregate("all", s.select(TOKENS, TOKENS, lambda q, k: True), TOKENS)
    s.map("next", "all", lambda x: int(x))
    program = s.program("agree", "next", "")
    assert output(program, torch.tensor([[1, 1, 2]]))[0].tolist() == [1, 1, UNDEFINED]


def test_interchange_moves_one_variable_and_its_consequences():
    induction = library_program("induction")
    base, source = torch.tensor([[2, 4, 1, 2, 4, 2]]), torch.tensor([[1, 1, 2, 0, 0, 3]])
    # Previous symbols of the source: 6 1 1 2 0 0. At place 3 the 2 finds itself: the symbol there is 2.
    moved = interchange(induction, base, source, "previous")
    assert moved[0].tolist()[:4] == [6, 6, UNDEFINED, 2]
    assert (interchange(induction, base, source, POSITIONS) == output(induction, base)).all()
    assert (interchange(induction, base, source, TOKENS) == output(induction, source)).all()
    assert (interchange(induction, base, base, "previous") == output(induction, base)).all()


def test_one_argument_alone_can_be_exchanged():
    induction = library_program("induction")
    base, other = torch.tensor([[2, 4, 1, 2]]), torch.tensor([[0, 5, 0, 0]])
    patched = run(induction, base, read={("next", "value"): other})
    assert patched["next"][0].tolist() == [6, 6, 6, 5]
    assert patched["previous"].tolist() == run(induction, base)["previous"].tolist()


def test_causal_programs_see_no_future_and_the_others_do():
    for name in set(MAKE) - {"ioi"}:
        program = library_program(name)
        symbols = random_inputs(program, generator_for("future", name), 60)
        late = symbols.clone()
        late[:, -1] = (late[:, -1] + 1) % program.n_symbols
        same = output(program, symbols)[:, :-1] == output(program, late)[:, :-1]
        assert bool(same.all()) == program.causal, name


def test_bad_programs_are_refused_in_one_line():
    def program(*steps: Map, output: str = "a") -> Program:
        return Program(name="x", description="", n_symbols=2, length=3, steps=steps, output=output)

    with pytest.raises(InputError, match=r"program x: a: expected to read one of tokens, positions, got 'b'"):
        program(Map(name="a", value="b", table=(0, 1)))
    with pytest.raises(InputError, match=r"program x: a: expected a table of \(2,\), got \(3,\)"):
        program(Map(name="a", value=TOKENS, table=(0, 1, 1)))
    with pytest.raises(InputError, match=r"program x: output: expected a step that is not a mean, got 'z'"):
        program(Map(name="a", value=TOKENS, table=(0, 1)), output="z")
