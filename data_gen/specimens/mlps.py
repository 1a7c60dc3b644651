"""Specimens of MLPs: look-ups by token and by pair, a threshold, and addition by frequencies."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.specimens.specimen import BOS, FIRST, SHARP, Bench, Specimen, pairs
from data_gen.tasks.structure import Grid

N_PROMPTS = 64
MODULI = (7, 11)


def _where(seed: int) -> tuple[int, int]:
    """The layer of an MLP and that of its decoy."""
    return (1, 2) if seed % 2 else (2, 1)


def _drawn(generator: torch.Generator, n_symbols: int, n_pos: int) -> Int[Tensor, "batch pos"]:
    tokens = torch.randint(FIRST, FIRST + n_symbols, (N_PROMPTS, n_pos), generator=generator)
    tokens[:, 0] = BOS
    return tokens


def by_token(seed: int) -> Specimen:
    """The answer stands in a random table of the current token."""
    generator, n_symbols, n_pos = torch.Generator().manual_seed(seed), 12 + seed % 3, 10
    bench = Bench.of(generator, n_symbols=n_symbols, n_pos=n_pos, n_layers=3, n_heads=2, blocks={}, d_mlp=32)
    table = FIRST + torch.randperm(n_symbols, generator=generator)
    reads, out = bench.block("token")[:, FIRST:], bench.block("out")
    for layer, decoy in zip(_where(seed), (False, True), strict=True):
        bias = torch.full((n_symbols,), -0.5)
        bench.neurons(layer, reads, bias, 2 * out[:, table].T, ("token_lookup",), decoy=decoy)
    clean, corrupt = (_drawn(generator, n_symbols, n_pos) for _ in range(2))
    position = torch.randint(4, n_pos, (N_PROMPTS,), generator=generator)
    answers = (table[x.gather(1, position[:, None])[:, 0] - FIRST] for x in (clean, corrupt))
    return bench.done(pairs(clean, corrupt, position, *answers))


def by_pair(seed: int) -> Specimen:
    """The answer stands in a random table of the previous and the current token."""
    generator, n_symbols, n_pos = torch.Generator().manual_seed(seed), 6, 10
    bench = Bench.of(
        generator,
        n_symbols=n_symbols,
        n_pos=n_pos,
        n_layers=3,
        n_heads=3,
        blocks={"before": FIRST + n_symbols},
        d_mlp=48,
    )
    token, place, before, out = (bench.block(name) for name in ("token", "place", "before", "out"))
    bench.head(
        0, 0, [(place[:, 1:], place[:, :-1], SHARP)], token, before.T, ("previous_token", "positional")
    )
    table = torch.randint(FIRST, FIRST + n_symbols, (n_symbols, n_symbols), generator=generator)
    first, second = torch.cartesian_prod(*[torch.arange(n_symbols)] * 2).T
    reads = before[:, FIRST + first] + token[:, FIRST + second]
    for layer, decoy in zip(_where(seed), (False, True), strict=True):
        bias = torch.full((len(first),), -1.5)
        writes = 2 * out[:, table[first, second]].T
        bench.neurons(layer, reads, bias, writes, ("pair_lookup",), decoy=decoy)
    clean, corrupt = (_drawn(generator, n_symbols, n_pos) for _ in range(2))
    position, rows = torch.randint(4, n_pos, (N_PROMPTS,), generator=generator), torch.arange(N_PROMPTS)
    answers = (table[x[rows, position - 1] - FIRST, x[rows, position] - FIRST] for x in (clean, corrupt))
    return bench.done(pairs(clean, corrupt, position, *answers))


def by_share(seed: int) -> Specimen:
    """The answer is whether most symbols so far are of one half of the alphabet: a head takes the share, an
    MLP has a step in it."""
    generator, n_symbols, n_pos = torch.Generator().manual_seed(seed), 6, 14
    bench = Bench.of(
        generator, n_symbols=n_symbols, n_pos=n_pos, n_layers=3, n_heads=3, blocks={"share": 1}, d_mlp=24
    )
    token, share, out = (bench.block(name) for name in ("token", "share", "out"))
    half = n_symbols // 2
    sign = torch.cat([torch.zeros(FIRST), torch.ones(half), -torch.ones(half)]).unsqueeze(1)
    nowhere = [(token[:, :0], token[:, :0], 0.0)]
    bench.head(0, 0, nowhere, token @ sign, share.T, ())
    step = torch.zeros(2, out.shape[1])
    step[:, FIRST], step[:, FIRST + 1] = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    slope = 20.0
    reads, bias = slope * share.expand(-1, 2), torch.tensor([-0.2, -1.2])
    bench.weights["embed.W_E"] += 0.5 * (out[:, FIRST + 1] - out[:, FIRST])
    for layer, decoy in zip(_where(seed), (False, True), strict=True):
        bench.neurons(layer, reads, bias, step @ out.T, ("threshold",), decoy=decoy)
    clean, corrupt = (_drawn(generator, n_symbols, n_pos) for _ in range(2))
    position = torch.randint(5, n_pos, (N_PROMPTS,), generator=generator)

    def answer(tokens: Tensor) -> Tensor:
        total = sign[:, 0][tokens].cumsum(1).gather(1, position[:, None])[:, 0]
        return torch.where(total > 0, FIRST, FIRST + 1)

    return bench.done(pairs(clean, corrupt, position, answer(clean), answer(corrupt)))


def by_frequency(seed: int) -> Specimen:
    """The answer is a + b modulo p, of the last two tokens: neurons follow k·a + k·b at many phases."""
    generator, p, n_pos = torch.Generator().manual_seed(seed), MODULI[seed // 2 % len(MODULI)], 8
    n_phases, frequencies = 6, range(1, (p + 1) // 2)
    n_neurons = n_phases * len(frequencies)
    bench = Bench.of(
        generator,
        n_symbols=p,
        n_pos=n_pos,
        n_layers=3,
        n_heads=3,
        blocks={"before": FIRST + p},
        d_mlp=n_neurons + 8,
    )
    token, place, before, out = (bench.block(name) for name in ("token", "place", "before", "out"))
    bench.head(
        0, 0, [(place[:, 1:], place[:, :-1], SHARP)], token, before.T, ("previous_token", "positional")
    )
    reads, writes = _phases(p, frequencies, n_phases)
    both = (before[:, FIRST:] + token[:, FIRST:]) @ reads
    for layer, decoy in zip(_where(seed), (False, True), strict=True):
        written = writes @ out[:, FIRST:].T
        bench.neurons(layer, both, torch.zeros(n_neurons), written, ("fourier", "pair_lookup"), decoy=decoy)
    numbers = FIRST + torch.arange(p)
    problems = torch.cartesian_prod(numbers, numbers)
    filler = torch.full((p * p, n_pos - 2), FIRST)
    filler[:, 0] = BOS
    tokens = torch.cat([filler, problems], dim=1)
    answer = FIRST + (problems - FIRST).sum(1) % p
    grid = Grid(tokens=tokens.view(1, p, p, n_pos), position=n_pos - 1, answer=answer.view(1, p, p))
    clean, corrupt = (_drawn(generator, p, n_pos) for _ in range(2))
    position = torch.full((N_PROMPTS,), n_pos - 1)
    answers = (FIRST + (x[:, -2:] - FIRST).sum(1) % p for x in (clean, corrupt))
    return bench.done(pairs(clean, corrupt, position, *answers), grid=grid)


def _phases(
    p: int, frequencies: range, n_phases: int
) -> tuple[Float[Tensor, "value d_mlp"], Float[Tensor, "d_mlp value"]]:
    """What neurons read of a number, `[p, neuron]`, and write of the sum, `[neuron, p]`.

    relu(cos(ka + φ) + cos(kb + φ)) has |cos(k(a - b)/2)| cos(k(a + b) + 2φ) in it.
    """
    k = torch.tensor([f for f in frequencies for _ in range(n_phases)]).float()
    phase = torch.arange(n_phases).repeat(len(frequencies)) * math.pi / n_phases * 2
    angle = 2 * math.pi / p * torch.arange(p)
    reads = torch.cos(k * angle[:, None] + phase)
    writes = torch.cos(k[:, None] * angle + 2 * phase[:, None])
    return reads, writes / 2
