"""Seeds that derive from names: whatever is drawn depends on what it is for, not on the order of drawing."""

import hashlib

import torch


def derived_seed(*parts: object) -> int:
    """A seed below 2^53 from a seed and what it is for."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:13], 16)


def generator_for(*parts: object) -> torch.Generator:
    """A fresh generator on the CPU, seeded from a seed and what it is for."""
    return torch.Generator().manual_seed(derived_seed(*parts))


WEIGHTS, DATA, HELD_OUT = range(3)
"""Streams of random numbers of one subject that is trained."""


def generator_of(seed: int, stream: int) -> torch.Generator:
    """A subject's own random numbers; streams never meet."""
    return torch.Generator().manual_seed(seed * 8 + stream)
