"""The zoo of triples that pairs were made from: where it is at hand, both subjects of some pairs can be run.

Those are pairs of two subjects that it holds: `natural` and `program` ones, and relatives that were not made
for the pair. No matcher sees subjects; a few opponents need them.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.baselines.matching.activations import Activations, linear_cka, norm_correlation
from metamodel.baselines.matching.weight_matching import WeightMatching
from metamodel.config.errors import InputError
from metamodel.subjects.subject import Subject
from metamodel.triples.store import Zoo

Similarity = Callable[[MatchedPair], Float[Tensor, "node theirs"] | None]
OF_SUBJECTS = ("activations", "raw_activations", "weights")
"""Similarities that need both subjects."""
KEPT = 64
"""Subjects that are held ready."""


def source_of(zoo: PairZoo, progress: Callable[[str], object]) -> Zoo | None:
    """The zoo that pairs were made from; None, with a word, where it is not at hand or is another one now."""
    made_of = zoo.manifest.config
    folder = Path(str(made_of.get("source", "")))
    try:
        found = Zoo.open(folder)
    except InputError as error:
        progress(f"no subjects to run: {error}")
        return None
    if found.fingerprint != made_of.get("source_fingerprint"):
        progress(f"no subjects to run: {folder} is another zoo than the one that the pairs were made from")
        return None
    return found


def of_subjects(source: Zoo) -> Mapping[str, Similarity]:
    """The similarities `OF_SUBJECTS`, each computed once for a pair."""
    ids = frozenset(source.ids)

    @lru_cache(maxsize=KEPT)
    def subject(id: str) -> Subject | None:
        return source.subject(id) if id in ids else None

    @lru_cache(maxsize=KEPT)
    def tokens(id: str) -> Int[Tensor, "batch pos"] | None:
        return source.triple(id).behavior.probe_tokens.long() if id in ids else None

    return {
        "activations": once(Activations(norm_correlation, subject, tokens)),
        "raw_activations": once(Activations(linear_cka, subject, tokens)),
        "weights": once(WeightMatching(subject)),
    }


def once(similarity: Similarity) -> Similarity:
    """The same, remembered for every pair that was asked about."""
    return partial(_remembered, similarity, {})


def _remembered(
    similarity: Similarity, held: dict[int, tuple[MatchedPair, Tensor | None]], pair: MatchedPair
) -> Float[Tensor, "node theirs"] | None:
    if id(pair) not in held:
        held[id(pair)] = (pair, similarity(pair))  # the pair is held, so that no other one gets its number
    return held[id(pair)][1]
