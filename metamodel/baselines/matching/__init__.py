"""Opponents of the matcher, all behind one interface. To add one, write its file and list it here."""

from metamodel.baselines.matching.base import MatchingOpponent, Setting, TrainingPair
from metamodel.baselines.matching.faq import ChannelFaq, ScipyFaq
from metamodel.baselines.matching.growth import StructureMapping
from metamodel.baselines.matching.lawler import IntegerProjection, ReweightedWalks, SpectralMatching
from metamodel.baselines.matching.learned import LearnedSolver
from metamodel.baselines.matching.plain import DepthAndKind, LocalStatistics, Random, Similarity, Uniform
from metamodel.baselines.matching.transport import Fused, Partial, Unbalanced
from metamodel.baselines.matching.tuning import Choice, Judge, Tuned, tuned

__all__ = ["Choice", "Judge", "MatchingOpponent", "Setting", "TrainingPair", "Tuned", "opponents", "tuned"]


def opponents() -> tuple[MatchingOpponent, ...]:
    """All opponents, neither trained nor tuned.

    The similarities `activations`, `raw_activations` and `weights` need both subjects; `tuned` leaves out the
    opponents that are made of one that it is not given.
    """
    return (
        Random(),
        Uniform(),
        DepthAndKind(),
        LocalStatistics(),
        Similarity("raw_similarity", "raw"),
        Similarity("prompt_only", "prompts"),
        Similarity("activation_correlation", "activations"),
        Similarity("raw_activations", "raw_activations"),
        Similarity("weight_matching", "weights"),
        ScipyFaq(),
        ChannelFaq(),
        SpectralMatching(),
        ReweightedWalks(),
        IntegerProjection(),
        LearnedSolver(),
        Fused(),
        Partial(),
        Unbalanced(),
        StructureMapping(),
    )
