"""Which algorithms readers are asked to tell apart: those that training subjects run at least twice."""

from collections import Counter
from collections.abc import Iterable, Sequence

from metamodel.features.examples import NONE_OF_THESE, Truth

LEAST_SUBJECTS = 2
"""Training subjects that must run a program: of a single one nothing can be said in general."""


def algorithm_names(truths: Iterable[Truth]) -> tuple[str, ...]:
    """Programs that at least `LEAST_SUBJECTS` of these subjects run, sorted, without `NONE_OF_THESE`.

    Args:
        truths: of training subjects. One whose circuit is known has one task, so it counts once.
    """
    counts = Counter(truth.algorithm for truth in truths if truth.algorithm)
    return tuple(sorted(name for name, count in counts.items() if count >= LEAST_SUBJECTS))


def algorithm_in(truth: Truth, names: Sequence[str]) -> str:
    """The right answer among these names: `NONE_OF_THESE` for a program that is not among them.

    Empty where the circuit is not known, so that nothing is asked.
    """
    return truth.algorithm if not truth.algorithm or truth.algorithm in names else NONE_OF_THESE
