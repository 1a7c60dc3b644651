"""What makes one edit resemble another, whatever the coordinates of their subjects."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.config.edits import CHANCE, KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told

N_EIGENVALUES = 6
TINY = 1e-12


def distance(first: Tensor, second: Tensor) -> float:
    """Root mean square of the differences of two signatures."""
    return float((first - second).double().square().mean().sqrt())


@torch.no_grad()
def signature(told: Told, seen: Observed) -> Float[Tensor, " statistic"]:
    """Invariants of one specification on its subject: spectra of Gram matrices, losses, and what tells kinds.

    No gauge moves them, nor the order of examples; all lie between 0 and about 1.
    """
    role = told.role[0]
    pair, keep = role == PAIR, role == KEEP
    said, wanted = seen.old[0], seen.wanted[0]
    n = pair.sum().clamp_min(1)
    removed = (told.wanted[0][pair] == CHANCE).double().mean()
    hit = (said * wanted).sum(-1)[pair].double()
    sure = said.amax(-1).double()
    second = said.topk(min(2, said.shape[-1]), -1).indices[:, -1]
    units = nn.functional.normalize(seen.hidden[0] - seen.hidden[0].mean(0), dim=-1)

    def alike(first: Bool[Tensor, " example"], other: Bool[Tensor, " example"]) -> Tensor:
        return (units[first] @ units[other].T).mean().nan_to_num() / 2 + 0.5

    numbers = [
        *_spectrum(seen.stream[0]),
        *_spectrum(seen.hidden[0]),
        *(hit.mean(), hit.min(), hit.max()),
        *(sure[among].mean().nan_to_num() for among in (pair, keep, role == UNLABELLED)),
        removed,
        (second[pair] == wanted[pair].argmax(-1)).double().mean() * (1 - removed),
        torch.tensor(len(wanted[pair].argmax(-1).unique()) / float(n)),
        torch.tensor(len(said[pair].argmax(-1).unique()) / float(n)),
        torch.tensor(float(told.answer_mask.sum())).log() / 4,
        *(alike(pair, pair), alike(pair, keep), alike(keep, keep)),
    ]
    return torch.stack([number.double().cpu() for number in numbers])


def _spectrum(x: Float[Tensor, "example width"]) -> list[Tensor]:
    """Largest eigenvalues of the Gram matrix about the mean, as shares of its trace."""
    value = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    value = nn.functional.pad(value, (0, max(0, N_EIGENVALUES - len(value))))
    return list((value / value.sum().clamp_min(TINY))[:N_EIGENVALUES])
