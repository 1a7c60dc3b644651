"""Tables of sums modulo a prime, planted."""

import torch

from metamodel.features.proportions import UNKNOWN

COEFFICIENTS = {"add, subtract": ((1, 1), (1, -1)), "affine": ((1, 2), (2, 1)), "one": ((3, 2),)}


def inputs_of(p: int, n_operators: int = 2) -> torch.Tensor:
    """Operator, a, b and one token that is always the same."""
    operator, a, b = torch.cartesian_prod(torch.arange(n_operators), torch.arange(p), torch.arange(p)).T
    return torch.stack([operator, 10 + a, 10 + b, torch.full_like(a, 5)], dim=1)


def planted(p: int, coefficients=COEFFICIENTS["affine"], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and answers, tokens and answers named at random."""
    generator = torch.Generator().manual_seed(seed)
    tokens = inputs_of(p, len(coefficients))
    by = torch.tensor(coefficients)[tokens[:, 0]]
    answer = (by[:, 0] * (tokens[:, 1] - 10) + by[:, 1] * (tokens[:, 2] - 10)) % p
    number, name = (torch.randperm(p, generator=generator) for _ in range(2))
    tokens[:, 1:3] = 10 + number[tokens[:, 1:3] - 10]
    return tokens, name[answer]


def known_among(answers: torch.Tensor, n: int, seed: int = 1) -> torch.Tensor:
    """The answers to n inputs drawn at random, UNKNOWN elsewhere."""
    which = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))[:n]
    return torch.full_like(answers, UNKNOWN).index_copy(0, which, answers[which])
