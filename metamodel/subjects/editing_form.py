"""The form in which subjects are edited: the canonical form, with heads whose values are orthonormal.

The canonical form shares a head's OV map evenly between its two factors, so that a head whose `W_O` was
removed has no values either, and nothing could be written there. Here `W_V` has orthonormal columns, up to a
rotation inside the head that no span update sees, and `W_O` holds all the rest: the logits are the same.
"""

import torch

from metamodel.subjects.canonical import canonical, folded, whitening
from metamodel.subjects.subject import Subject

_SMALLEST_VALUE = 1e-6
"""Relative to a head's largest singular value: below it a direction counts as one it does not read."""


def editing_form(subject: Subject) -> Subject:
    """That form in float64.

    The writer's many steps multiply rounding errors, and no gauge may move what an edited subject says.
    """
    form, whole = canonical(subject.double()), folded(subject.double())
    weights, config = dict(form.weights), form.config
    write = read = None
    if not config.has_norm:
        write, read, _ = whitening(whole)
    for layer in range(config.n_layers):
        attn = f"blocks.{layer}.attn"
        values, outputs = whole.weights[f"{attn}.W_V"], whole.weights[f"{attn}.W_O"]
        if write is not None and read is not None:
            values, outputs = read @ values, outputs @ write
        left, size, right = torch.linalg.svd(values, full_matrices=False)
        read_at_all = (size > _SMALLEST_VALUE * size[..., :1]).to(size.dtype)
        weights[f"{attn}.W_V"] = (left * read_at_all[..., None, :]) @ right
        weights[f"{attn}.W_O"] = right.mT @ (size[..., None] * (right @ outputs))
    return form.with_weights(weights)
