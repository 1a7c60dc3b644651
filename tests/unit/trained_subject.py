"""Small subjects that are taught whole tables of answers."""

import torch

from metamodel.subjects import Subject, SubjectConfig, initial_weights
from metamodel.subjects.forward import forward


def said_of(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at the last token."""
    return forward(subject.stacked, subject.config, tokens).logits[0, :, -1]


def taught(
    config: SubjectConfig,
    tokens: torch.Tensor,
    right: torch.Tensor,
    *,
    seed: int,
    steps: int,
    weight_decay: float,
) -> Subject:
    """A subject in double precision that answers every input right."""
    weights = initial_weights(config, [torch.Generator().manual_seed(seed)])
    weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
    search = torch.optim.AdamW(weights.values(), lr=5e-3, weight_decay=weight_decay)
    for _ in range(steps):
        said = forward(weights, config, tokens).logits[0, :, -1]
        search.zero_grad()
        torch.nn.functional.cross_entropy(said, right).backward()
        search.step()
    weights = {name: w.detach()[0] for name, w in weights.items()}
    subject = Subject(config=config, weights=weights, name="taught").double()
    assert (said_of(subject, tokens).argmax(-1) == right).all()
    return subject
