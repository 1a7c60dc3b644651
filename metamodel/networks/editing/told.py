"""From subjects and specifications to the padded batch that the editor reads."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metamodel.config.edits import PADDING, UNLABELLED
from metamodel.config.errors import require
from metamodel.features.observed import Told
from metamodel.subjects.subject import Subject, stack
from metamodel.triples.edits import Examples


def told_batch(forms: Sequence[Subject], examples: Sequence[Examples]) -> Told:
    """One specification for each of several subjects of one shape, padded in examples and answers.

    Args:
        forms: in editing form.
        examples: with inputs of one length, since the editor compares inputs position by position.

    Raises: InputError for subjects of several shapes, or inputs of several lengths.
    """
    lengths = sorted({one.tokens.shape[1] for one in examples})
    require(
        len(lengths) == 1,
        "batch of edits",
        expected="specifications of one input length",
        got=f"lengths {', '.join(map(str, lengths))}",
        do="Edit them one by one, or group them by length.",
    )
    n, n_answers = max(len(one.role) for one in examples), max(len(one.answers) for one in examples)

    examples = [_known_first(one) for one in examples]
    known = torch.tensor([int((one.role != UNLABELLED).sum()) for one in examples])

    def padded(name: str, size: int, value: int) -> Tensor:
        parts = [getattr(one, name) for one in examples]
        return torch.stack(
            [torch.cat([part, part.new_full((size - len(part), *part.shape[1:]), value)]) for part in parts]
        )

    weights = stack(forms)
    place = weights["embed.W_E"].device
    counts = torch.tensor([len(one.answers) for one in examples])
    return Told(
        config=forms[0].config,
        weights=weights,
        tokens=padded("tokens", n, 0).to(place),
        position=padded("position", n, 0).to(place),
        role=padded("role", n, PADDING).to(place),
        wanted=padded("wanted", n, 0).to(place),
        answers=padded("answers", n_answers, 0).to(place),
        answer_mask=(torch.arange(n_answers)[None] < counts[:, None]).to(place),
        n_known=int(known.max()),
    )


def _known_first(examples: Examples) -> Examples:
    """The same examples, those without an answer behind the others."""
    order = (examples.role == UNLABELLED).long().argsort(stable=True)
    parts = {name: getattr(examples, name)[order] for name in ("tokens", "position", "role", "wanted")}
    return replace(examples, **parts)
