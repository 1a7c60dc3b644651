"""How opponents answer a subject's probes: from the same evidence as the meta-model, pooled over components.

Rows are (probe, possible answer); columns are each channel of evidence, averaged over the components of a
kind, and its maximum over heads and over MLPs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from metamodel.features.examples import Example, Seen
from metamodel.subjects.config import KINDS

Candidates = Float[ndarray, "probe d_vocab column"]
AnswerProbes = Callable[[Seen], Int[Tensor, " probe"]]
AnswerLearner = Callable[[Sequence[Example], Sequence[Example]], AnswerProbes | None]
"""Learns from examples, tuned on validation. None: evidence says nothing, so the prior answers."""
PENALTIES = (1e-4, 1e-3, 1e-2)
"""Ridge of the conditional logit per probe, chosen on validation."""
N_WRONG = 15
"""Wrong answers that boosted trees see beside each right one."""
TREES = (20, 40, 80)
BOOSTED: dict[str, Any] = {"max_leaf_nodes": 12, "max_bins": 63, "early_stopping": False, "random_state": 0}


def candidate_columns(seen: Seen) -> Candidates:
    """Pooled evidence, centred over possible answers."""
    evidence = seen.evidence.detach().cpu().numpy().astype(np.float32)
    kinds = seen.graph.kinds.cpu().numpy()
    blank = np.zeros(evidence.shape[:1] + evidence.shape[2:], dtype=np.float32)
    columns = []
    for kind, name in enumerate(KINDS):
        own = evidence[:, kinds == kind]
        columns.append(own.mean(1) if own.shape[1] else blank)
        if name in ("head", "mlp"):
            columns.append(own.max(1) if own.shape[1] else blank)
    joined = np.concatenate(columns, axis=2)
    return joined - joined.mean(1, keepdims=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Probes:
    """All probes of several subjects, their vocabularies padded to the largest."""

    x: Candidates
    known: Bool[ndarray, "probe d_vocab"]
    """False for tokens that a probe's subject does not have: never an answer, right or wrong."""
    answer: Int[ndarray, " probe"]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "_Probes":
        each = [candidate_columns(seen) for seen, _ in examples]
        n_tokens = np.concatenate([np.full(len(x), x.shape[1]) for x in each])
        most = int(n_tokens.max())
        return cls(
            x=np.concatenate([np.pad(x, ((0, 0), (0, most - x.shape[1]), (0, 0))) for x in each]),
            known=np.arange(most) < n_tokens[:, None],
            answer=np.concatenate([truth.probe_answer.cpu().numpy() for _, truth in examples]),
        )

    def accuracy(self, score: Callable[[Candidates], ndarray]) -> float:
        picked = np.where(self.known, score(self.x), -np.inf).argmax(1)
        return float((picked == self.answer).mean())


def single_channel(examples: Sequence[Example], validation: Sequence[Example]) -> AnswerProbes | None:
    """The one column, with its sign, whose highest answer is right most often in training."""
    train = _Probes.of(examples)
    if not train.x.any():
        return None
    found = [
        (train.accuracy(lambda x, at=at, sign=sign: sign * x[:, :, at]), -at, sign)
        for at in range(train.x.shape[2])
        for sign in (1, -1)
    ]
    _, at, sign = max(found)
    return _picking(lambda x: sign * x[:, :, -at])


def conditional_logit(examples: Sequence[Example], validation: Sequence[Example]) -> AnswerProbes | None:
    """Softmax over answers of a linear score (conditional logit), its ridge tuned on validation."""
    train = _Probes.of(examples)
    if not train.x.any():
        return None
    tuning = _Probes.of(validation) if validation else train
    spread = train.x[train.known].std(0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6)
    weights = [scale * _logit_weights(train, scale, penalty) for penalty in PENALTIES]
    best = max(weights, key=lambda w: tuning.accuracy(lambda x: x @ w))
    return _picking(lambda x: x @ best)


def _logit_weights(
    train: _Probes, scale: Float[ndarray, " column"], penalty: float
) -> Float[ndarray, " column"]:
    rows, right = torch.from_numpy(train.x * scale), torch.from_numpy(train.answer)
    unknown = torch.from_numpy(~train.known)
    w = torch.zeros(len(scale), requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = (rows @ w).masked_fill(unknown, -torch.inf)
        value = torch.nn.functional.cross_entropy(logits, right) + penalty * w.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    return w.detach().numpy()


def boosted_candidates(examples: Sequence[Example], validation: Sequence[Example]) -> AnswerProbes | None:
    """Boosted trees that tell the right answer from a few wrong ones; the number of trees tuned."""
    train = _Probes.of(examples)
    if not train.x.any():
        return None
    tuning = _Probes.of(validation) if validation else train
    n = len(train.x)
    n_tokens = train.known.sum(1, keepdims=True)
    wrong = np.random.default_rng(0).integers(0, n_tokens, (n, N_WRONG))
    shown = np.concatenate([train.answer[:, None], wrong], axis=1)
    rows = np.take_along_axis(train.x, shown[:, :, None], axis=1).reshape(n * (N_WRONG + 1), -1)
    right = (shown == train.answer[:, None]).reshape(-1)

    def fitted(trees: int) -> Callable[[Candidates], ndarray]:
        fit = HistGradientBoostingClassifier(max_iter=trees, **BOOSTED).fit(rows, right)
        return lambda x: fit.decision_function(x.reshape(-1, x.shape[2])).reshape(x.shape[:2])

    fits = [fitted(trees) for trees in TREES]
    return _picking(max(fits, key=tuning.accuracy))


def _picking(score: Callable[[Candidates], ndarray]) -> AnswerProbes:
    def answer(seen: Seen) -> Int[Tensor, " probe"]:
        picked = score(candidate_columns(seen)).argmax(1)
        return torch.as_tensor(picked, dtype=torch.int64, device=seen.probe_tokens.device)

    return answer
