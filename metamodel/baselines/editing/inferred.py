"""Rules that are inferred without training: where an edit holds, and what it wants there.

Scope: the one kernel ridge classifier of pairs against inputs to keep that does best when each is left out.
Answers: a map of the answers, matched by the profiles of their Gram matrix under the pairs (Hungarian
algorithm), if it explains the pairs; otherwise the answer of the most similar pair, or that of the most
similar input out of scope, whichever tells pairs better.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.config.edits import CHANCE, KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told, observed
from metamodel.networks.editing.profiles import matched
from metamodel.networks.editing.scope import fitted
from metamodel.subjects.canonical import canonical
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

SAID, UNEMBEDDING = 0, 2
"""Gram matrices of the answers: of what is said of one where the other is right, and of the unembedding."""
EXPLAINED = 0.8
"""Share of pairs that a one-to-one map of answers must explain to be the rule."""
LEFT_OUT_ERROR, LEFT_OUT_ACCURACY = slice(0, 2), slice(2, 4)
"""Columns of the statistics of a kernel, of pairs and of inputs to keep."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inferred:
    """What an edit seems to want of every example."""

    inside: Bool[Tensor, " example"]
    """Pairs, and unlabelled inputs that seem in scope."""
    wanted: Float[Tensor, "example answer"]
    """A distribution over answers; of examples out of scope what is said already."""


def inferred(subject: Subject, examples: Examples, gram: int = SAID) -> Inferred:
    """From the canonical form, so that no gauge of the subject matters.

    Args:
        gram: index of the answers' Gram matrix that is matched.
    """
    seen = seen_of(subject, examples)
    role, pair = examples.role, examples.role == PAIR
    inside = pair | ((role == UNLABELLED) & in_scope(seen))
    old = torch.nn.functional.one_hot(seen.old[0].argmax(-1), seen.old.shape[-1]).float()
    said = seen.wanted[0]
    if bool((examples.wanted[pair] == CHANCE).all()):
        new = said[pair].mean(0).expand_as(said)
    else:
        new = _answers(seen, old, said, pair, inside, gram)
    wanted = torch.where(inside[:, None], new, old)
    return Inferred(inside=inside, wanted=torch.where(pair[:, None], said, wanted))


def seen_of(subject: Subject, examples: Examples) -> Observed:
    """What is observed of one subject on one specification, in canonical form."""
    form = canonical(subject)
    return observed(
        Told(
            config=form.config,
            weights=form.stacked,
            tokens=examples.tokens[None],
            position=examples.position[None],
            role=examples.role[None],
            wanted=examples.wanted[None],
            answers=examples.answers[None],
            answer_mask=torch.ones_like(examples.answers[None], dtype=torch.bool),
            n_known=len(examples.role),
        )
    )


def in_scope(seen: Observed) -> Bool[Tensor, " example"]:
    """What the classifier says whose left-out accuracy is best, and among equals whose error is smallest."""
    found = fitted(seen.kernels, seen.role)
    statistic = found.statistics[0]
    merit = 100 * statistic[:, LEFT_OUT_ACCURACY].sum(-1) - statistic[:, LEFT_OUT_ERROR].sum(-1)
    return found.score[0, merit.argmax()] > 0


def _answers(seen: Observed, old: Tensor, said: Tensor, pair: Tensor, inside: Tensor, gram: int) -> Tensor:
    """Of every example, as if it were in scope."""
    counts = torch.einsum("na,nb->ab", old[pair], said[pair])
    to = matched(seen.answer_grams[0, gram], counts)
    explained = float(said[pair][torch.arange(int(pair.sum())), to[old[pair].argmax(-1)]].mean())
    if explained >= EXPLAINED:
        return torch.nn.functional.one_hot(to[old.argmax(-1)], old.shape[-1]).float()
    kernels, role = seen.kernels[0].mT, seen.role[0]
    known = pair | (role == KEEP)
    answer = torch.where(pair[:, None], said, old)
    # copying is judged on all that is known: few pairs resemble each other
    nearest = [_nearest(kernel, known, answer) for kernel in kernels]
    right = torch.tensor([float((x[known] * answer[known]).sum(-1).mean()) for x in nearest])
    copied = _nearest(kernels[int(right.argmax())], pair, said)
    borrowed = [_nearest(kernel, ~inside, old) for kernel in seen.prompts[0]]
    lent = torch.tensor([_share(x, said, pair) for x in borrowed])
    way = borrowed[int(lent.argmax())]
    return way if float(lent.max()) > _share(copied, said, pair) else copied


def _nearest(kernel: Tensor, among: Tensor, values: Tensor) -> Tensor:
    """Value of the most similar other example that is `among` those; each is left out for itself."""
    itself = torch.eye(len(kernel), dtype=torch.bool)
    masked = kernel.masked_fill(itself | ~among[None], -torch.inf)
    return values[masked.argmax(-1)]


def _share(answers: Tensor, said: Tensor, pair: Tensor) -> float:
    return float((answers[pair] * said[pair]).sum(-1).mean())
