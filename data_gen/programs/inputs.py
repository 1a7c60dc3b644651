"""Which prompts a program is defined on: all of them where they are few, fresh ones otherwise."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.programs.interpreter import valid
from data_gen.programs.language import Program
from metamodel.config.errors import require

EXHAUSTIVE = 10_000
"""Most inputs of which all are looked at."""
HELD_OUT = 8
"""One in so many prompts is held out."""
Part = Literal["any", "training", "held_out"]
_ROUNDS = 200
"""Draws after which a program counts as defined almost nowhere."""


def n_inputs(program: Program) -> int:
    """How many prompts there are, those on which the program is undefined included."""
    if program.symbols_at is None:
        return program.n_symbols**program.length
    return math.prod(map(len, program.symbols_at))


def held_out(symbols: Int[Tensor, "batch pos"]) -> Bool[Tensor, " batch"]:
    """Prompts that nothing is trained on: one in HELD_OUT of them, by a hash of their symbols."""
    hashed = torch.zeros_like(symbols[:, 0])
    for column in symbols.unbind(1):
        hashed = (31 * hashed + column + 7) % 100_003
    return hashed % HELD_OUT == 0


def random_inputs(
    program: Program, generator: torch.Generator, n: int, part: Part = "any"
) -> Int[Tensor, "batch pos"]:
    """`n` random prompts, as indices of symbols, on which every answer is defined.

    Args:
        part: those that may be trained on, those that are held out for certificates, or any.

    Raises: InputError if almost no prompt is.
    """
    found, n_found = [], 0
    for _ in range(_ROUNDS):
        drawn = _any(program, generator, max(2 * n, 64))
        usable = valid(program, drawn)
        if part != "any":
            usable &= held_out(drawn) == (part == "held_out")
        found.append(drawn[usable])
        n_found += len(found[-1])
        if n_found >= n:
            return torch.cat(found)[:n]
    require(
        False,
        f"program {program.name}",
        expected="answers on random prompts",
        got=f"{n_found} of {_ROUNDS * max(2 * n, 64)} prompts with one",
        do="Give its selects defaults, or restrict `symbols_at`.",
    )
    raise AssertionError


def all_inputs(program: Program, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Every prompt on which every answer is defined, or EXHAUSTIVE random ones if there are more prompts."""
    if n_inputs(program) > EXHAUSTIVE:
        return random_inputs(program, generator, EXHAUSTIVE)
    places = program.symbols_at or (tuple(range(program.n_symbols)),) * program.length
    grid = torch.cartesian_prod(*(torch.tensor(place) for place in places))
    prompts = grid.view(-1, program.length).to(generator.device)
    return prompts[valid(program, prompts)]


def _any(program: Program, generator: torch.Generator, n: int) -> Int[Tensor, "batch pos"]:
    if program.symbols_at is None:
        shape = (n, program.length)
        return torch.randint(program.n_symbols, shape, generator=generator, device=generator.device)
    columns = []
    for place in program.symbols_at:
        chosen = torch.randint(len(place), (n,), generator=generator, device=generator.device)
        columns.append(torch.tensor(place, device=generator.device)[chosen])
    return torch.stack(columns, dim=1)
