"""What every reader offers, opponents and meta-model alike: answers to all questions about one subject."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from metamodel.features.examples import Example, Prediction, Seen

META_MODEL = "meta-model"


def is_ours(method: str) -> bool:
    """Whether a method of a report is a meta-model of this package, on whatever track."""
    return method.partition("/")[0] == META_MODEL


class Predictor(ABC):
    """Learns from labelled subjects, and then answers about one that it sees without labels."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in reports."""

    @abstractmethod
    def fit(self, examples: Sequence[Example], validation: Sequence[Example]) -> None:
        """Learns from `examples`; whatever is tuned is tuned on `validation`. Deterministic."""

    @abstractmethod
    def predict(self, seen: Seen) -> Prediction:
        """All answers about one subject."""


class MetaModel(Predictor):
    """A meta-model that was trained elsewhere, behind the interface of its opponents."""

    def __init__(self, answer: Callable[[Seen], Prediction], track: str = ""):
        """Args:
        track: of a reader beside the main one, for its name in reports.
        """
        self._answer, self._track = answer, track

    @property
    def name(self) -> str:
        return f"{META_MODEL}/{self._track}" if self._track else META_MODEL

    def fit(self, examples: Sequence[Example], validation: Sequence[Example]) -> None:
        """Nothing: it comes trained."""

    def predict(self, seen: Seen) -> Prediction:
        return self._answer(seen)
