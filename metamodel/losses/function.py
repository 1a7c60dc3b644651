"""Loss of the function reader: every question masked where it is undefined, rare answers weighted up."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import normalised
from metamodel.features.batch import SeenBatch, padded
from metamodel.features.examples import Truth
from metamodel.losses.circuit import circuit_loss
from metamodel.triples.schema import MASKED, POSITIVE

NO_ANSWER = -100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionTargets:
    """Labels of a batch of subjects. NaN, or `NO_ANSWER`, is where a question is not asked."""

    positive: Float[Tensor, "subject node label"]
    """0 to 1, a share where measurements disagree; NaN where masked. `PATTERN_ONLY` counts as negative."""
    score: Float[Tensor, "subject node label"]
    node_member: Float[Tensor, "subject node"]
    edge_member: Float[Tensor, "subject node node"]
    """NaN where there is no edge."""
    edge_mass: Float[Tensor, "subject node node"]
    """Size of each edge's exact effect; NaN where there is no edge, or none was measured."""
    slice_accuracy: Float[Tensor, "subject slice"]
    probe_answer: Int[Tensor, "subject probe"]
    algorithm: Int[Tensor, " subject"]
    """Index into the programs that are known, the last for none of these; `NO_ANSWER` where it is unknown."""

    def to(self, device: torch.device | str) -> "FunctionTargets":
        return FunctionTargets(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def with_probes(self, chosen: Int[Tensor, " chosen"]) -> "FunctionTargets":
        """The same labels, for a few of the probes only."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return FunctionTargets(**(values | {"probe_answer": self.probe_answer[:, chosen]}))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionBatch:
    """What is seen and what is true of a few subjects. Only `seen` ever enters a network."""

    seen: SeenBatch
    truth: FunctionTargets

    def to(self, device: torch.device | str) -> "FunctionBatch":
        return FunctionBatch(seen=self.seen.to(device), truth=self.truth.to(device))

    def with_probes(self, chosen: Int[Tensor, " chosen"]) -> "FunctionBatch":
        """The same subjects, asked a few of the probes only."""
        return FunctionBatch(seen=self.seen.with_probes(chosen), truth=self.truth.with_probes(chosen))


def pad_truth(truth: Sequence[Truth], algorithms: Sequence[str] = ()) -> FunctionTargets:
    """Labels padded as `metamodel.features.batch.pad_seen` pads what is seen.

    Args:
        algorithms: programs that are known; others count as none of these.
    """
    program = {name: i for i, name in enumerate(algorithms)}
    nan = float("nan")
    positive = [
        torch.where(t.function_state == MASKED, nan, (t.function_state == POSITIVE).float())
        if t.agreement is None
        else t.agreement.positive
        for t in truth
    ]
    edge = [torch.where(t.edge_exists, t.edge_member.float(), nan) for t in truth]
    return FunctionTargets(
        positive=padded(positive, nan),
        score=padded([t.function_score.float() for t in truth], nan),
        node_member=padded(
            [t.node_member.float() if t.agreement is None else t.agreement.node_member for t in truth], nan
        ),
        edge_member=padded(edge, nan),
        edge_mass=padded([_mass(t) for t in truth], nan),
        slice_accuracy=padded([t.slice_accuracy.float() for t in truth], nan),
        probe_answer=padded([t.probe_answer for t in truth], NO_ANSWER),
        algorithm=torch.tensor(
            [program.get(t.algorithm, len(program)) if t.algorithm else NO_ANSWER for t in truth],
            device=truth[0].node_member.device,
        ),
    )


def _mass(truth: Truth) -> Float[Tensor, "node node"]:
    nothing = torch.full_like(truth.edge_member, torch.nan, dtype=torch.float32)
    return nothing if truth.edge_mass is None else torch.where(truth.edge_exists, truth.edge_mass, nothing)


def edge_mass_loss(
    logits: Float[Tensor, "subject node node"], mass: Float[Tensor, "subject node node"]
) -> Float[Tensor, ""]:
    """Circuit loss between probabilities of edges and exact edges, mean over subjects that have any.

    Components are those of one network, so the map is the identity and needs no threshold: τ is 0. Both sides
    have norm 1, since a probability has no unit: what counts is how edge mass is shared out.
    """
    known = ~mass.isnan()
    exact = torch.where(known, mass, torch.zeros_like(mass))
    measured = exact.flatten(1).any(1)
    if not bool(measured.any()):
        return logits.new_zeros(())
    exact, said = exact[measured][:, None], (logits.sigmoid() * known)[measured][:, None]
    identity = torch.eye(mass.shape[-1], device=said.device, dtype=said.dtype).expand(len(said), -1, -1)
    return circuit_loss(normalised(exact), normalised(said), tau=0.0, p=identity).mean()


def masked_cross_entropy(
    logits: Float[Tensor, "*rest"], target: Float[Tensor, "*rest"], positive_weight: Tensor | float = 1.0
) -> Float[Tensor, ""]:
    """Binary cross entropy, mean over targets that are not NaN; zero where there is none."""
    known = ~target.isnan()
    clean = torch.where(known, target, torch.zeros_like(target))
    weight = torch.where(clean > 0.5, torch.as_tensor(positive_weight, device=logits.device), 1.0)
    each = F.binary_cross_entropy_with_logits(logits, clean, reduction="none") * weight
    return (each * known).sum() / (weight * known).sum().clamp_min(1e-9)


def masked_regression(value: Float[Tensor, "*rest"], target: Float[Tensor, "*rest"]) -> Float[Tensor, ""]:
    """Huber loss, mean over targets that are not NaN; zero where there is none."""
    known = ~target.isnan()
    each = F.huber_loss(value, torch.where(known, target, value.detach()), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def answer_loss(
    logits: Float[Tensor, "subject probe d_vocab"], answer: Int[Tensor, "subject probe"]
) -> Float[Tensor, ""]:
    """Cross entropy of the answers that are asked for; zero where there is none."""
    if not bool((answer != NO_ANSWER).any()):
        return logits.new_zeros(())  # not a product with logits, which are infinite where tokens are padding
    return F.cross_entropy(logits.flatten(0, 1), answer.flatten(), ignore_index=NO_ANSWER)


def algorithm_loss(
    logits: Float[Tensor, "subject algorithm"], algorithm: Int[Tensor, " subject"]
) -> Float[Tensor, ""]:
    """Cross entropy over subjects whose program is known; zero where there is none."""
    if not bool((algorithm != NO_ANSWER).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, algorithm, ignore_index=NO_ANSWER)


def positive_weights(
    positive: Float[Tensor, "item label"], *, power: float, most: float
) -> Float[Tensor, " label"]:
    """Weight of each label's positives: (negatives / positives) to `power`, between 1 and `most`."""
    n_positive = positive.nansum(0)
    n_negative = (1 - positive).nansum(0)
    return (n_negative / n_positive.clamp_min(1.0)).clamp_min(1.0).pow(power).clamp(1.0, most)
