"""Draws what an editor is told of an edit: pairs, inputs to keep, and inputs without an answer.

A user writes this down in a specification; here it is drawn from an edit whose truth is known, so that
editors can be trained and judged.
"""

import torch

from metamodel.config.edits import FAR, KEEP, NEAR, PAIR, UNLABELLED
from metamodel.triples.edits import Edit, Editable, Examples

MOST_PAIRS, N_KEEPS, N_UNLABELLED = 16, 32, 640
"""Inputs without an answer are those that a subject is written on: a rule over many answers does not lie in
the span of a few pairs, so there are as many as a domain has."""
PAIRS = (1, 2, 4, 16)
"""Numbers of pairs that are drawn where an edit does not fix it."""


def specify(
    editable: Editable,
    edit: Edit,
    n_pairs: int,
    generator: torch.Generator,
    *,
    n_unlabelled: int = N_UNLABELLED,
) -> tuple[Examples, torch.Tensor]:
    """What an editor is told, and the inputs of the domain (indices) that it is told.

    Pairs come from the edit's pool, inputs to keep from those that stay, half of them near where there are as
    many; inputs without an answer from all that is left, in and out of scope alike. Unseen inputs are none
    of them.

    Args:
        n_pairs: pairs to be shown, unless the edit fixes it; fewer where the pool holds fewer.
        n_unlabelled: inputs without an answer, as far as there are so many.
    """
    shown = ~editable.unseen
    pool = (edit.pool & shown).nonzero()[:, 0]
    pairs = _drawn(pool, edit.n_pairs or n_pairs, generator)
    near = _drawn((shown & (edit.scope == NEAR)).nonzero()[:, 0], N_KEEPS, generator)
    far = _drawn((shown & (edit.scope == FAR)).nonzero()[:, 0], N_KEEPS, generator)
    n_near = max(N_KEEPS - len(far), min(len(near), N_KEEPS // 2))
    keeps = torch.cat([near[:n_near], far[: N_KEEPS - min(n_near, len(near))]])
    told = torch.zeros_like(edit.pool)
    told[torch.cat([pairs, keeps])] = True
    others = _drawn((shown & ~told).nonzero()[:, 0], n_unlabelled, generator)
    inputs = torch.cat([pairs, keeps, others])
    roles = torch.cat(
        [
            torch.full((len(part),), role)
            for part, role in ((pairs, PAIR), (keeps, KEEP), (others, UNLABELLED))
        ]
    )
    tokens = editable.tokens[inputs]
    examples = Examples(
        tokens=tokens,
        position=torch.full((len(inputs),), tokens.shape[1] - 1),
        role=roles,
        wanted=torch.where(roles == PAIR, edit.wanted[inputs], 0),
        answers=editable.answers,
    )
    return examples, inputs


def _drawn(among: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    return among[torch.randperm(len(among), generator=generator)[:n]]
