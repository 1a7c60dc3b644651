"""Fits temperature and shift of a reader's logits on validation subjects: its probabilities shall hold."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.features.batch import pad_seen
from metamodel.features.examples import Example
from metamodel.losses.function import masked_cross_entropy, pad_truth
from metamodel.networks.reader import Reader

PRIOR = 0.02
"""Weight of the pull towards temperature 1 and shift 0: with few validation positives, little is moved."""


def calibrate(reader: Reader, validation: Sequence[Example], slice_names: Sequence[str]) -> None:
    """Sets temperatures and shifts of function labels and of circuit membership."""
    reader.eval()
    batch = pad_seen([seen for seen, _ in validation], slice_names)
    truth = pad_truth([truth for _, truth in validation])
    with torch.no_grad():
        members = reader(batch)

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(member, name) for member in members]).mean(0)

    logits = mean("function_logits")
    for label in range(logits.shape[-1]):
        fitted = _fit(logits[..., label], truth.positive[..., label])
        reader.log_temperature[label], reader.shift[label] = fitted
    node, edge = _fit(mean("node_member"), truth.node_member), _fit(mean("edge_member"), truth.edge_member)
    reader.log_temperature_node.copy_(node[0])
    reader.shift_node.copy_(node[1])
    reader.log_temperature_edge.copy_(edge[0])
    reader.shift_edge.copy_(edge[1])


def _fit(logits: Float[Tensor, "*rest"], target: Float[Tensor, "*rest"]) -> Float[Tensor, " 2"]:
    """Log temperature and shift that minimise cross entropy with a weak pull towards zero."""
    known = ~target.isnan()
    if not bool(known.any()):
        return logits.new_zeros(2)
    logits, target = logits[known].detach(), target[known]
    values = logits.new_zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        moved = (logits + values[1]) / values[0].exp()
        pull = PRIOR * (values[0].pow(2) + 0.1 * values[1].pow(2))
        loss = masked_cross_entropy(moved, target) + pull
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    found = values.detach()
    return found if bool(found.isfinite().all()) else torch.zeros_like(found)
