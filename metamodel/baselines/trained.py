"""Opponents that are networks themselves: one training loop, one set of readouts, several encoders.

An encoder turns subjects of one shape into an embedding of every component. The rest is here once: kind and
depth of the component, the subject's other components in mean, readouts, masked losses, and the choice among
settings and epochs on validation.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from metamodel.baselines.base import Predictor
from metamodel.baselines.prior import Prior
from metamodel.baselines.table import pairs_of
from metamodel.baselines.trained_readout import Answered, Readout
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.losses.function import (
    FunctionTargets,
    masked_cross_entropy,
    masked_regression,
    pad_truth,
    positive_weights,
)
from metamodel.subjects.config import SubjectConfig

Inputs = Mapping[str, Tensor]
"""What an encoder reads of a subject, by name; stacked, with a leading `subject` axis."""
Describe = Callable[[Seen], Inputs | None]
"""What is computed once of a subject. None: this opponent cannot read it, so the prior answers."""
Encode = Callable[[int, float], nn.Module]
"""From width and dropout to a module that takes a shape and stacked inputs to `[subject, node, width]`."""

BATCH = 16
"""Subjects of one shape in a step."""
FEWEST_STEPS = 120
"""Steps that few subjects are trained for all the same."""
CHECKS = 10
"""How often the training is scored on validation: the best of these states is kept."""
LEAST_POSITIVES = 5
"""Positives that a label needs in validation to count: average precision of one or two is a coin toss."""
WEIGHT_POWER, MOST_WEIGHT = 0.5, 20.0
"""Weight of a label's positives: (negatives / positives) to a power, up to a most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is chosen on validation."""

    lr: float
    """Largest learning rate of AdamW; it warms up, then falls along a cosine."""
    width: int
    """Of node embeddings."""
    dropout: float
    epochs: int
    weight_decay: float = 0.05


class TrainedPredictor(Predictor):
    """An encoder and the shared readouts, trained on subjects grouped by shape.

    Labels of which the training subjects show one class only, subjects that the encoder cannot read, slice
    accuracy and probes are answered by the prior.
    """

    def __init__(self, name: str, *, describe: Describe, encoder: Encode, settings: Sequence[Setting]):
        self._name, self._describe, self._encoder, self._settings = name, describe, encoder, settings
        self._prior = Prior()
        self._reader: Reader | None = None

    @property
    def name(self) -> str:
        return self._name

    def fit(self, examples: Sequence[Example], validation: Sequence[Example]) -> None:
        self._prior.fit(examples, validation)
        self._reader = None
        train, tuning = _groups(examples, self._describe), _groups(validation, self._describe)
        if not train:
            return
        best = -np.inf
        for setting in self._settings:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                reader = _fresh(self._encoder, setting, train)
                for score, state in _training(reader, setting, train, tuning):
                    if score > best:
                        best, self._reader = score, state
        assert self._reader is not None, "training gave no state"

    @torch.no_grad()
    def predict(self, seen: Seen) -> Prediction:
        base, inputs = self._prior.predict(seen), self._describe(seen)
        if self._reader is None or inputs is None:
            return base
        reader = self._reader
        said = reader(_group_of([(seen, inputs)], None)).first()
        exists = torch.as_tensor(pairs_of(seen), device=base.edge_member.device)
        return replace(
            base,
            function_probability=torch.where(
                reader.learnt, reader.probability(said.label), base.function_probability
            ),
            function_score=torch.where(reader.scored, reader.score(said.score), base.function_score),
            node_member=said.node_member.sigmoid(),
            edge_member=said.edge_member.sigmoid() * exists,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Subjects of one shape, with what is true of them where it is known."""

    config: SubjectConfig
    inputs: Inputs
    kinds: Int[Tensor, "subject node"]
    depth: Float[Tensor, "subject node"]
    truth: FunctionTargets | None

    def __len__(self) -> int:
        return len(self.kinds)

    def chosen(self, rows: Tensor) -> "Group":
        truth = self.truth
        if truth is not None:
            names = FunctionTargets.__dataclass_fields__
            truth = FunctionTargets(**{name: getattr(truth, name)[rows] for name in names})
        inputs = {name: value[rows] for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, kinds=self.kinds[rows], depth=self.depth[rows], truth=truth)


def _group_of(members: Sequence[tuple[Seen, Inputs]], truth: FunctionTargets | None) -> Group:
    first, inputs = members[0]
    return Group(
        config=first.config,
        inputs={name: torch.stack([each[name] for _, each in members]) for name in inputs},
        kinds=torch.stack([seen.graph.kinds for seen, _ in members]),
        depth=torch.stack([seen.graph.depth for seen, _ in members]),
        truth=truth,
    )


def _groups(examples: Sequence[Example], describe: Describe) -> list[Group]:
    """Readable subjects by shape, in the order in which shapes first come."""
    found: dict[SubjectConfig, list[tuple[Seen, Inputs]]] = defaultdict(list)
    truths = defaultdict(list)
    for seen, truth in examples:
        inputs = describe(seen)
        if inputs is not None:
            found[seen.config].append((seen, inputs))
            truths[seen.config].append(truth)
    return [_group_of(members, pad_truth(truths[config])) for config, members in found.items()]


class Reader(nn.Module):
    """Encoder, readouts, and what of the training labels they must be read with."""

    learnt: Bool[Tensor, " label"]
    """Whether training shows both classes."""
    scored: Bool[Tensor, " label"]
    log_weight: Float[Tensor, " label"]
    mean: Float[Tensor, " label"]
    spread: Float[Tensor, " label"]

    def __init__(self, encoder: nn.Module, setting: Setting, truth: Sequence[FunctionTargets]):
        super().__init__()
        positive = torch.cat([t.positive.flatten(0, 1) for t in truth])
        score = torch.cat([t.score.flatten(0, 1) for t in truth])
        self.encoder, self.readout = encoder, Readout(setting.width, positive.shape[1], setting.dropout)
        weight = positive_weights(positive, power=WEIGHT_POWER, most=MOST_WEIGHT)
        self.register_buffer("learnt", (positive > 0.5).any(0) & (positive <= 0.5).any(0))
        self.register_buffer("log_weight", weight.log())
        known = ~score.isnan()
        count = known.sum(0).clamp_min(1)
        mean = score.nan_to_num(0.0).sum(0) / count
        square = ((score - mean).nan_to_num(0.0) ** 2).sum(0) / count
        self.register_buffer("scored", (known.sum(0) > 1) & (square > 0))
        self.register_buffer("mean", mean)
        self.register_buffer("spread", square.sqrt().clamp_min(1e-6))

    def forward(self, group: Group) -> Answered:
        encoded = self.encoder(group.config, group.inputs)
        return self.readout(encoded, group.kinds, group.depth)

    def probability(self, logits: Float[Tensor, "node label"]) -> Float[Tensor, "node label"]:
        """What weighted training calls logits, without the weight of positives."""
        return (logits - self.log_weight).sigmoid()

    def score(self, value: Float[Tensor, "node label"]) -> Float[Tensor, "node label"]:
        return value * self.spread + self.mean

    def loss(self, group: Group) -> Float[Tensor, ""]:
        said, truth = self(group), group.truth
        assert truth is not None
        score = ((truth.score - self.mean) / self.spread).clamp(-5, 5)
        return (
            2 * masked_cross_entropy(said.label, truth.positive, self.log_weight.exp())
            + masked_regression(said.score, score)
            + masked_cross_entropy(said.node_member, truth.node_member)
            + masked_cross_entropy(said.edge_member, truth.edge_member)
        )


def _fresh(encoder: Encode, setting: Setting, train: Sequence[Group]) -> Reader:
    truths = [group.truth for group in train if group.truth is not None]
    reader = Reader(encoder(setting.width, setting.dropout), setting, truths)
    return reader.to(train[0].depth.device)


def _training(
    reader: Reader, setting: Setting, train: Sequence[Group], tuning: Sequence[Group]
) -> Iterator[tuple[float, Reader]]:
    """Score on validation and a copy of the reader, at every check; without validation at the end only."""
    rng = np.random.default_rng(0)
    n_batches = sum(-(-len(group) // BATCH) for group in train)
    steps = max(setting.epochs * n_batches, FEWEST_STEPS)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=setting.lr, weight_decay=setting.weight_decay)
    warm = max(steps // 20, 1)

    def rate(step: int) -> float:
        return min((step + 1) / warm, 0.5 * (1 + np.cos(np.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    checks = {steps * (i + 1) // CHECKS for i in range(CHECKS)} if tuning else {steps}
    batches: list[Group] = []
    for step in range(1, steps + 1):
        batches = batches or _batches(train, rng)
        with torch.enable_grad():
            optimiser.zero_grad()
            reader.loss(batches.pop()).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step in checks:
            state = copy.deepcopy(reader).eval()
            yield _validation_score(state, tuning), state


def _batches(train: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    """Every subject once, in batches of one shape, in random order."""
    found = []
    for group in train:
        order = torch.as_tensor(rng.permutation(len(group)), device=group.depth.device)
        found += [group.chosen(rows) for rows in order.split(BATCH)]
    return [found[i] for i in rng.permutation(len(found))]


@torch.no_grad()
def _validation_score(reader: Reader, tuning: Sequence[Group]) -> float:
    """Mean average precision over labels that validation shows often, and over both circuit questions."""
    asked: dict[object, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for group in tuning:
        said, truth = reader(group), group.truth
        assert truth is not None
        for label in reader.learnt.nonzero().flatten().tolist():
            asked[label].append((truth.positive[..., label], said.label[..., label]))
        asked["node"].append((truth.node_member, said.node_member))
        asked["edge"].append((truth.edge_member, said.edge_member))
    found = []
    for pairs in asked.values():
        truth = torch.cat([t.flatten() for t, _ in pairs])
        value = torch.cat([v.flatten() for _, v in pairs])
        known = ~truth.isnan()
        y = (truth[known] > 0.5).cpu().numpy()
        if LEAST_POSITIVES <= y.sum() < len(y):
            found.append(float(average_precision_score(y, value[known].cpu().numpy())))
    return float(np.mean(found)) if found else 0.0
