"""Opponents of the editor, all behind one interface, and the oracle that their gain is measured by."""

from metamodel.baselines.editing.ablation import HeadAblation
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.closed_form import closed_forms
from metamodel.baselines.editing.fine_tuning import FineTuning, GradientStep, NoOp, readout
from metamodel.baselines.editing.given_sums import GivenSums
from metamodel.baselines.editing.mend import Mend
from metamodel.baselines.editing.oracle import oracle
from metamodel.baselines.editing.profile_match import ProfileMatch, SelfLabel
from metamodel.baselines.editing.transport import transports
from metamodel.baselines.editing.tuning import Judge
from metamodel.baselines.editing.weights_only import WeightsOnly

__all__ = ["Changes", "Episode", "Judge", "Opponent", "opponents", "oracle"]


def opponents(judge: Judge) -> list[Opponent]:
    """All opponents, not yet tuned.

    Args:
        judge: what they are tuned by, the harmonic mean S of a change.
    """
    return [
        NoOp(),
        GradientStep(judge),
        FineTuning(judge),
        FineTuning(judge, keeps=False),
        readout(judge),
        *closed_forms(judge),
        ProfileMatch(judge),
        SelfLabel(judge),
        GivenSums(judge, FineTuning),
        GivenSums(judge, SelfLabel),
        Mend(judge),
        WeightsOnly(),
        HeadAblation(together=False),
        HeadAblation(together=True),
        *transports(judge),
    ]
