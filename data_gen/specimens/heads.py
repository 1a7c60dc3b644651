"""Specimens of heads: looking back, induction, indirect objects, and two heads in a row."""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.specimens.specimen import BOS, FIRST, SHARP, Bench, Specimen, Term, pairs
from metamodel.circuits.prompts import Prompts

N_SYMBOLS, N_PROMPTS = 16, 64
ASK, FILLER = 1, 2
"""Tokens: where an indirect object is asked for, and what means nothing."""


def _symbols(generator: torch.Generator, n_pos: int) -> Int[Tensor, "batch pos"]:
    drawn = torch.randint(FIRST, FIRST + N_SYMBOLS, (N_PROMPTS, n_pos), generator=generator)
    drawn[:, 0] = BOS
    return drawn


def _back(bench: Bench, k: int) -> list[Term]:
    """Attention k positions back."""
    place = bench.block("place")
    return [(place[:, k:], place[:, : place.shape[1] - k], SHARP)]


_LABEL_OF_DISTANCE = {0: "self", 1: "previous_token", 2: "offset_k", 3: "offset_k", 4: "offset_k"}


def _norm(seed: int) -> Literal["LN", "none"]:
    return "LN" if seed % 2 else "none"


def looking_back(seed: int) -> Specimen:
    """The answer is the token k back, or its successor for k = 0, as a head at that distance says; another
    head looks at BOS and takes away what every token says for a wrong one."""
    generator, k, n_pos = torch.Generator().manual_seed(seed), seed % 5, 12
    bench = Bench.of(
        generator,
        n_symbols=N_SYMBOLS,
        n_pos=n_pos,
        n_layers=1 + seed % 3,
        n_heads=6,
        blocks={},
        norm=_norm(seed // 5),
    )
    token, place, out = (bench.block(name) for name in ("token", "place", "out"))
    layer, rows = seed % bench.config.n_layers, torch.arange(N_PROMPTS)
    order = tuple((t, FIRST + (t - FIRST + 1) % N_SYMBOLS) for t in range(FIRST, FIRST + N_SYMBOLS))
    says, moves = torch.eye(token.shape[1]), "copying"
    if k == 0:
        moves, says = "successor", torch.zeros_like(says)
        says[[a for a, _ in order], [b for _, b in order]] = 1.0
    at_bos = [(place, place[:, :1].expand(-1, n_pos), SHARP)]
    wrong = FIRST + seed % N_SYMBOLS
    bench.weights["embed.W_E"] += 2 * out[:, wrong]
    takes = -2.5 * out[:, wrong : wrong + 1].T
    where, sink = (_LABEL_OF_DISTANCE[k], "positional"), ("first_token_sink", "positional")
    named = ("name_mover",) if k else ()  # the answer stands in the prompt, and is moved from there
    bench.head(layer, 0, _back(bench, k), token, says @ out.T, (*where, moves, *named))
    bench.head(layer, 1, _back(bench, k), token, says @ out.T, (*where, *named), decoy=True)
    bench.head(layer, 2, at_bos, token[:, FIRST:], says[FIRST:] @ out.T, (moves,), decoy="silent")
    bench.head(layer, 3, at_bos, token[:, :1], takes, sink)
    bench.head(layer, 4, at_bos, token[:, :1], takes, sink, decoy=True)
    clean, corrupt = (_symbols(generator, n_pos) for _ in range(2))
    position = torch.randint(5, n_pos, (N_PROMPTS,), generator=generator)
    answers = (says.argmax(1)[x[rows, position - k]] for x in (clean, corrupt))
    return bench.done(pairs(clean, corrupt, position, *answers), successors=order)


def repeated(seed: int) -> Specimen:
    """A sequence comes again, and what followed is asked for: a previous-token head and an induction head."""
    generator, n_pos = torch.Generator().manual_seed(seed), 13
    bench = Bench.of(
        generator,
        n_symbols=N_SYMBOLS,
        n_pos=n_pos,
        n_layers=2 + seed % 2,
        n_heads=4,
        blocks={"before": FIRST + N_SYMBOLS},
        norm="LN",
    )
    token, before, out = (bench.block(name) for name in ("token", "before", "out"))
    last = bench.config.n_layers - 1
    same = [(token, before, SHARP)]
    where = ("previous_token", "positional")
    bench.head(0, 0, _back(bench, 1), token, before.T, where)
    bench.head(0, 1, _back(bench, 1), token, before.T, where, decoy=True)
    bench.head(last, 0, same, token, out.T, ("induction", "k_composition", "copying", "name_mover"))
    bench.head(last, 1, same, token, out.T, ("induction", "k_composition", "name_mover"), decoy=True)
    clean, answer = _repetitions(generator, n_pos)
    prompts = pairs(clean, clean.roll(1, 0), torch.full_like(answer, n_pos - 1), answer, answer.roll(1, 0))
    return bench.done(prompts)


def _repetitions(generator: torch.Generator, n_pos: int) -> tuple[Tensor, Tensor]:
    """Prompts in which a sequence of 4 to 6 symbols comes again and again, and what comes next."""
    order = torch.rand(N_PROMPTS, N_SYMBOLS, generator=generator).argsort(1) + FIRST
    period = torch.randint(4, 7, (N_PROMPTS, 1), generator=generator)
    found = order.gather(1, torch.arange(n_pos) % period)
    return torch.cat([torch.full_like(found[:, :1], BOS), found[:, :-1]], dim=1), found[:, -1]


def in_a_row(seed: int) -> Specimen:
    """The answer is the token three back: one head brings what is one back, another looks two back."""
    generator, n_pos = torch.Generator().manual_seed(seed), 12
    bench = Bench.of(
        generator,
        n_symbols=N_SYMBOLS,
        n_pos=n_pos,
        n_layers=2 + seed % 2,
        n_heads=4 + seed % 2,
        blocks={"before": FIRST + N_SYMBOLS},
        norm="LN",
    )
    token, before, out = (bench.block(name) for name in ("token", "before", "out"))
    last, rows = bench.config.n_layers - 1, torch.arange(N_PROMPTS)
    bench.head(0, 0, _back(bench, 1), token, before.T, ("previous_token", "positional"))
    bench.head(0, 1, _back(bench, 1), token, before.T, ("previous_token", "positional"), decoy=True)
    where = ("offset_k", "positional", "v_composition")
    bench.head(last, 2, _back(bench, 2), before, out.T, where)
    bench.head(last, 3, _back(bench, 2), before, out.T, where, decoy=True)
    clean, corrupt = (_symbols(generator, n_pos) for _ in range(2))
    position = torch.randint(5, n_pos, (N_PROMPTS,), generator=generator)
    return bench.done(pairs(clean, corrupt, position, clean[rows, position - 3], corrupt[rows, position - 3]))


def indirect(seed: int) -> Specimen:
    """Two are named, one of them again, and the other is asked for.

    A head finds the repetition, another brings the repeated name to where it is asked, movers look at the
    other one. One mover is redundant, one writes the opposite, one moves only what has not been written yet,
    and one takes back a part of what is about to be said.
    """
    generator, n_pos = torch.Generator().manual_seed(seed), 10
    n_tokens = FIRST + N_SYMBOLS
    bench = Bench.of(
        generator,
        n_symbols=N_SYMBOLS,
        n_pos=n_pos,
        n_layers=4,
        n_heads=6,
        blocks={"again": 1, "inhibited": n_tokens},
        norm="LN",
    )
    token, place, out, again, inhibited = (
        bench.block(name) for name in ("token", "place", "out", "again", "inhibited")
    )
    asks = token[:, ASK : ASK + 1].expand(-1, N_SYMBOLS)
    names = token[:, FIRST:]
    anybody = [(asks, names, SHARP), (inhibited[:, FIRST:], names, -2 * SHARP)]
    # Where nobody else has this name, at BOS.
    earlier = [
        (names, names, 2 * SHARP),
        (place, place, -2 * SHARP),
        (names, token[:, :1].expand(-1, N_SYMBOLS), SHARP),
    ]
    where = ("duplicate_token",)
    is_name = torch.ones(N_SYMBOLS, 1)
    rests = ("first_token_sink",)
    bench.head(0, 0, earlier, names, is_name @ again.T, where, aside=rests)
    bench.head(0, 1, earlier, names, is_name @ again.T, where, decoy=True, aside=rests)
    told = [(asks[:, :1], again, SHARP), (asks[:, :1], token[:, ASK : ASK + 1], -SHARP)]
    bench.head(1, 0, told, names, inhibited[:, FIRST:].T, ("s_inhibition", "k_composition"))
    bench.head(1, 1, told, names, inhibited[:, FIRST:].T, ("s_inhibition", "k_composition"), decoy=True)
    moves = out[:, FIRST:].T
    mover = ("name_mover", "q_composition", "copying")
    bench.head(2, 0, anybody, names, moves, mover)
    bench.head(2, 1, anybody, names, moves, mover)
    bench.head(2, 2, anybody, names, -0.4 * moves, ("negative_mover",), aside=("q_composition",))
    bench.head(2, 3, anybody, names, moves, ("name_mover", "negative_mover", "q_composition"), decoy=True)
    # What is out weighs less than who is inhibited: what a backup reads most is that, and not by rounding.
    missing = [*anybody, (out[:, FIRST:], names, -1.6 * SHARP), (asks[:, :1], token[:, :1], SHARP / 2)]
    backup = ("backup_mover", "q_composition")
    bench.head(3, 0, missing, names, moves, backup, aside=rests)
    bench.head(3, 1, missing, names, moves, backup, decoy=True, aside=rests)
    said = [(out[:, FIRST:], names, SHARP), (asks[:, :1], token[:, :1], SHARP / 2)]
    suppresses = ("copy_suppression", "negative_mover")
    helps = ("q_composition",)  # but what it lowers is the answer: that edge costs margin
    bench.head(3, 2, said, names, -0.3 * moves, suppresses, aside=helps)
    bench.head(3, 3, said, names, moves, (*suppresses, "name_mover"), decoy=True, aside=helps)
    prompts, candidate = _stories(generator, n_pos)
    return bench.done(prompts, candidate=candidate)


def _stories(generator: torch.Generator, n_pos: int) -> tuple[Prompts, Int[Tensor, " batch"]]:
    """Prompts `[BOS, fillers, A, fillers, B, fillers, A or B, ASK]`, and the repeated names."""
    n = N_PROMPTS
    cast = torch.rand(2 * n, N_SYMBOLS, generator=generator).argsort(1)[:, :2] + FIRST
    places = torch.rand(2 * n, n_pos - 2, generator=generator).argsort(1)[:, :3].sort(1).values + 1
    again = torch.randint(2, (2 * n, 1), generator=generator)
    tokens = torch.full((2 * n, n_pos), FILLER)
    tokens[:, 0], tokens[:, -1] = BOS, ASK
    tokens.scatter_(1, places, torch.cat([cast, cast.gather(1, again)], dim=1))
    answer, repeated_name = (cast.gather(1, x)[:, 0] for x in (1 - again, again))
    keep = answer[:n] != answer[n:]
    position = torch.full((n,), n_pos - 1)
    return pairs(tokens[:n], tokens[n:], position, answer[:n], answer[n:]), repeated_name[:n][keep]
