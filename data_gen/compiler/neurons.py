"""Neurons that compute functions of variables, in blocks of the residual stream."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.errors import require

_RAMP = 0.25
"""Where between two neighbouring values a step begins; it ends as far from the second."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neurons:
    """ReLU neurons that write one block."""

    read: Float[Tensor, "d_model d_mlp"]
    bias: Float[Tensor, " d_mlp"]
    write: Float[Tensor, "d_mlp out"]
    base: Float[Tensor, " out"]
    """What is written when no neuron is active."""


def map_neurons(
    d_model: int,
    block: slice,
    table: tuple[int, ...],
    n_out: int,
    mean: tuple[Fraction, ...] | None,
    unit: float,
) -> Neurons:
    """One neuron a value, on at 1; two neurons a step of a function of a mean, which is held in `1/unit`s."""
    if mean is not None:
        direction = torch.zeros(d_model, dtype=torch.float64)
        direction[block] = unit
        return _steps(direction, mean, table, n_out)
    base = _most_common(table)
    values = [value for value, out in enumerate(table) if out != base]
    read = torch.zeros(d_model, len(values), dtype=torch.float64)
    for neuron, value in enumerate(values):
        read[block.start + value, neuron] = 2
    return _switches(read, -1.0, [table[value] for value in values], n_out, base)


def sequence_map_neurons(
    d_model: int,
    blocks: tuple[slice, slice],
    table: tuple[tuple[int, ...], ...],
    n_out: int,
    means: tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None,
    unit: float,
    longest: int,
    where: str,
) -> Neurons:
    """One neuron a pair of values, on where both are there; of two means, a function of their difference.

    Args:
        longest: of two means over the same places, the largest number of them; 0 for any two means.

    Raises: InputError if a function of two means depends on more than their difference.
    """
    if means is not None:
        direction = torch.zeros(d_model, dtype=torch.float64)
        direction[blocks[0]], direction[blocks[1]] = unit, -unit
        found: dict[Fraction, int] = {}
        counts = range(1, longest + 1)
        for a, row in zip(means[0], table, strict=True):
            for b, out in zip(means[1], row, strict=True):
                if longest and not any((n * a).denominator == (n * b).denominator == 1 for n in counts):
                    continue
                ok, got = found.setdefault(a - b, out) == out, f"{a} and {b}"
                do = "Map the means first."
                require(ok, where, expected="a function of the difference of two means", got=got, do=do)
        ordered = tuple(sorted(found))
        return _steps(direction, ordered, tuple(found[x] for x in ordered), n_out)
    base = _most_common(tuple(out for row in table for out in row))
    pairs = [(a, b) for a, row in enumerate(table) for b, out in enumerate(row) if out != base]
    read = torch.zeros(d_model, len(pairs), dtype=torch.float64)
    for neuron, (a, b) in enumerate(pairs):
        read[blocks[0].start + a, neuron] += 2
        read[blocks[1].start + b, neuron] += 2
    return _switches(read, -3.0, [table[a][b] for a, b in pairs], n_out, base)


def inversion(d_model: int, block: slice, unit: float, length: int) -> Neurons:
    """n, one-hot, of 1/(1+n)."""
    direction = torch.zeros(d_model, dtype=torch.float64)
    direction[block] = unit
    widths = tuple(range(length, -1, -1))
    return _steps(direction, tuple(Fraction(1, 1 + n) for n in widths), widths, length + 1)


def _most_common(table: tuple[int, ...]) -> int:
    return Counter(table).most_common(1)[0][0]


def _switches(read: Tensor, bias: float, outs: list[int], n_out: int, base: int) -> Neurons:
    """Neurons that are 1 where they are on: each moves the output from `base` to its own."""
    eye = torch.eye(n_out, dtype=torch.float64)
    return Neurons(
        read=read,
        bias=torch.full((len(outs),), bias, dtype=torch.float64),
        write=eye[outs] - eye[base],
        base=eye[base],
    )


def _steps(direction: Tensor, domain: tuple[Fraction, ...], table: tuple[int, ...], n_out: int) -> Neurons:
    """A function of one number: where it changes between neighbouring values, two neurons make a step."""
    eye = torch.eye(n_out, dtype=torch.float64)
    reads, biases, writes = [], [], []
    for i in range(1, len(domain)):
        if table[i] == table[i - 1]:
            continue
        low, high = float(domain[i - 1]), float(domain[i])
        start, stop = low + _RAMP * (high - low), high - _RAMP * (high - low)
        slope = 1 / (stop - start)
        # The slope is shared out between what a neuron reads and what it writes.
        root = slope**0.5
        for sign, at in ((1, start), (-1, stop)):
            reads.append(root * direction)
            biases.append(-root * at)
            writes.append(sign * root * (eye[table[i]] - eye[table[i - 1]]))
    empty = torch.zeros(0, len(direction), dtype=torch.float64)
    return Neurons(
        read=(torch.stack(reads) if reads else empty).T,
        bias=torch.tensor(biases, dtype=torch.float64),
        write=torch.stack(writes) if writes else torch.zeros(0, n_out, dtype=torch.float64),
        base=eye[table[0]],
    )
