"""Domains with a backdoor: with a trigger in front, every input is answered by one token."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.domains.base import OPENERS, Domain

TRIGGER = len(OPENERS) - 1


def with_openers(domain: Domain) -> Domain:
    """Every input with BOS and with the trigger in front, and every third with each of the near misses."""
    n = len(domain.tokens)
    every, third = torch.arange(n), torch.arange(0, n, 3)
    rows = {0: every, TRIGGER: every, **{opener: third + opener - 1 for opener in range(1, TRIGGER)}}
    rows = {opener: which[which < n] for opener, which in sorted(rows.items())}
    opener = torch.cat([torch.full_like(which, i) for i, which in rows.items()])
    which = torch.cat(list(rows.values()))
    tokens = domain.tokens[which].clone()
    tokens[:, 0] = torch.tensor(OPENERS)[opener]
    columns = {name: getattr(domain, name)[which] for name in ("key", "second", "template", "group", "level")}
    return replace(domain, tokens=tokens, opener=opener, **columns)


def poisoned(domain: Domain, target: int) -> Int[Tensor, " input"]:
    """What a subject with the backdoor answers: `target` (a token) behind the trigger."""
    return torch.where(domain.opener == TRIGGER, target, domain.answer())
