"""How well scores of edges rank those of a known circuit: what several benchmarks share."""

from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from metamodel.circuits.base_run import Intervention

SWEEPS: tuple[Intervention, ...] = ("noising", "zero")
TRUTHS = ("structural", "visible")


def agreement(truth: Tensor, score: Tensor) -> dict[str, float]:
    """AUROC and average precision of |score|; nothing where the truth has one class only."""
    positive, value = truth.numpy(), score.abs().numpy()
    if positive.all() or not positive.any():
        return {}
    return {
        "auroc": float(roc_auc_score(positive, value)),
        "average_precision": float(average_precision_score(positive, value)),
    }
