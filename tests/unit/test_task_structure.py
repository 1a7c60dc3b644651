"""What tasks tell labels beyond their prompts: orders, grids and wrong candidates."""

import torch

from data_gen.tasks import FAMILIES, make_task
from data_gen.tasks.base import PAD
from data_gen.tasks.mixture import Padded
from data_gen.tasks.structure import NO_CANDIDATE


def test_orders_are_those_of_the_rule():
    ordinal = make_task("ordinal", "base", 0).successors
    assert (16, 17) in ordinal
    assert (27, 16) in ordinal, "a list begins again at its end"
    assert (27, 28) not in ordinal
    descending = make_task("sorting", "descending", 0).successors
    assert (17, 16) in descending
    assert (16, 17) not in descending
    assert len(descending) == 15
    modular = make_task("modular", "base", 0).successors
    assert modular[-1] == (22, 16)
    assert make_task("facts", "base", 0).successors == ()


def test_a_grid_holds_every_problem_once_with_its_answer():
    task = make_task("modular", "base", 0)
    grid = task.grid
    assert grid is not None
    assert (grid.modulus, tuple(grid.answer.shape)) == (7, (2, 7, 7))
    flat = grid.tokens.flatten(0, 2)
    assert len(flat.unique(dim=0)) == len(flat) == 98
    asked = torch.full((98,), grid.position)
    assert torch.equal(task.answer(flat, asked), grid.answer.flatten())
    assert int(grid.answer[0, 5, 4]) == 16 + 2
    assert int(grid.answer[1, 2, 5]) == 16 + 4
    padded = Padded(inside=task, length=task.n_pos + 2).grid
    assert padded is not None
    assert torch.equal(padded.tokens[..., :-2], grid.tokens)
    assert bool((padded.tokens[..., -2:] == PAD).all())
    assert make_task("sorting", "base", 0).grid is None


def test_wrong_candidates_stand_in_the_prompt_and_are_wrong():
    found = set()
    for family in FAMILIES:
        task = make_task(family, "base", 0)
        prompts = task.prompts(torch.Generator().manual_seed(0), 40)
        candidate = task.structure(prompts).candidate
        for b, token in enumerate(candidate.tolist()):
            if token == NO_CANDIDATE:
                continue
            found.add(family)
            assert token in prompts.clean[b, : int(prompts.position[b]) + 1].tolist()
            assert token != int(prompts.answer[b])
        if family == "ioi":
            assert NO_CANDIDATE not in candidate.tolist(), "one of the two names is repeated"
    assert "ioi" in found
    assert len(found) > 3
