"""Carries a case from its subject's stream to another's: one orthogonal map, from probes that both have."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.procrustes import procrustes
from metamodel.cases.case import Case, answers_of, ranked, readout_of, streams_of
from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told

FEWEST = 16
"""Prompts that two specifications must share to be the probes; with fewer, examples of one role are matched
by what is answered before."""
RIDGE = 1e-3
"""Of the regression that writes what was carried over, relative to the mean moment."""
FRONT, BEHIND, READOUT = range(3)
Sites = tuple[int, ...]
SITES: tuple[Sites, ...] = ((BEHIND,), (BEHIND, READOUT), (FRONT, READOUT))
"""What the map is fitted by: the stream behind the last matrix, where answers are told apart; that in front
of it, where a fault of that matrix has not yet moved anything; and the unembedding of answers of both."""
TINY = 1e-12


def corresponding(
    case: Case,
    tokens: Int[Tensor, "example pos"],
    role: Int[Tensor, " example"],
    said: Int[Tensor, " example"],
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Examples of a specification and those of a case that are its probes: the same prompts where there are
    enough; else those of one role, in the order of what is answered before."""
    prompts = {tuple(row): i for i, row in enumerate(case.tokens.tolist())}
    shared = [
        (i, prompts[key]) for i, row in enumerate(tokens.tolist()) for key in (tuple(row),) if key in prompts
    ]
    if len(shared) >= FEWEST:
        own, other = torch.tensor(shared).T
        return own, other
    first, second = [], []
    for each in (PAIR, KEEP, UNLABELLED):
        ordered = []
        for roles, answers in ((role, said), (case.role, case.said)):
            among = (roles == each).nonzero()[:, 0]
            ordered.append(among[answers[among].argsort(stable=True)])
        n = min(map(len, ordered))
        first.append(ordered[0][:n])
        second.append(ordered[1][:n])
    return torch.cat(first), torch.cat(second)


def carried(
    case: Case, told: Told, seen: Observed, sites: Sites
) -> tuple[Int[Tensor, " row"], Float[Tensor, "row d_model"]]:
    """The vectors of a case in a subject's own stream, and the examples that they belong to.

    Args:
        sites: what the map between the two streams is fitted by.
    """
    own, other = corresponding(case, told.tokens[0], told.role[0].cpu(), ranked(told, seen).cpu())
    place = seen.stream.device
    mine, theirs = streams_of(told, seen).double()[:, own], case.streams.to(place).double()[:, other]
    pairs = [(theirs[site], mine[site]) for site in sites if site != READOUT]
    if READOUT in sites and torch.equal(case.tokens[other].to(place), told.tokens[0][own]):
        # the same prompts: then the same token is the same answer
        both = (answers_of(told)[:, None] == case.answers.to(place)).nonzero()
        columns = case.readout.to(place).double()[both[:, 1]], readout_of(told).double()[both[:, 0]]
        pairs += [columns] if len(both) > 1 else []
    first, second = (torch.cat([_centred(x) for x in parts]) for parts in zip(*pairs, strict=True))
    rotation, _ = procrustes(first, second)
    sizes = [(x[BEHIND] - x[BEHIND].mean(0)).norm() for x in (theirs, mine)]
    moved = case.moved[other].to(place).double()
    return own, moved @ rotation * sizes[1] / sizes[0].clamp_min(TINY)


def _centred(x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """About the mean, and of norm one: each probe then counts alike."""
    x = x - x.mean(0)
    return x / x.norm().clamp_min(TINY)


def written(case: Case, told: Told, seen: Observed, sites: Sites) -> Float[Tensor, "unit d_model"]:
    """The change of a subject's own last matrix that moves its stream as a case moved another's."""
    own, moved = carried(case, told, seen, sites)
    read = seen.hidden[0].double()[own]
    moment = read.T @ read
    ridge = RIDGE * moment.diagonal().mean().clamp_min(TINY)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return torch.linalg.solve(moment + ridge * eye, read.T @ moved)
