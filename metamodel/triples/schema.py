"""What a zoo holds: one triple (activation, circuit, behavior) with labels for each subject and task.

Every array with a `node` axis follows `metamodel.subjects.components`, every array with an `edge` axis
`metamodel.circuits.graph.component_edges`, of the subject's shape.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.words import Departure, Track
from metamodel.subjects.subject import Subject

SCHEMA_VERSION = 3

Origin = Literal["trained", "compiled", "siit", "planted", "imported"]
Relation = Literal["none", "checkpoint", "finetuned", "pruned"]

MASKED, NEGATIVE, POSITIVE, PATTERN_ONLY = -1, 0, 1, 2
"""States of a function label. `PATTERN_ONLY`: the pattern is there, its causal twin is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDefinition:
    """What a function label means, from which statistics it is computed, and when it counts as positive."""

    name: str
    description: str
    """One sentence, with the formula."""
    statistics: tuple[str, ...]
    """Names of the measured statistics that it is computed from: no feature may carry one of them."""
    effect_size: float
    """Smallest raw score of a positive component."""
    twin: str
    """The causal check that a positive must also pass, in words."""
    determined_by: tuple[Track, ...] = ()
    """Tracks whose inputs determine it by a formula: there it stays outside the macro average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectInfo:
    """Where a subject comes from. One row of the zoo's table."""

    id: str
    """Unique inside its zoo, such as `repeated-base-l2h4-0003`; `subject@family` where a subject has several
    tasks, and so several triples."""
    subject: str
    """The network: triples of one subject on several tasks share it."""
    family: str
    variant: str
    size: str
    recipe: str
    seed: int
    lineage: str
    """Shared by all subjects with a common initialisation or parent; no split cuts one."""
    origin: Origin
    departs: Departure
    relation: Relation = "none"
    """How the subject was made from another one of its lineage."""
    relative: str = ""
    """That other subject, if any: the end of the training that a checkpoint was taken from, or the subject
    that was fine-tuned or pruned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activation:
    """What flows through a subject on its task's prompts."""

    output_norm: Float[Tensor, " node"]
    """Root mean square norm of what each component writes; 0 for the unembedding."""
    second_moment: Float[Tensor, "node d_model d_model"]
    """Uncentred second moment of what each component writes."""
    pattern_entropy: Float[Tensor, " node"]
    """Mean attention entropy of each head in nats; 0 for whatever is not a head."""
    pattern_mean: Float[Tensor, "node pos pos"]
    """Mean attention pattern of each head."""
    logit_attribution: Float[Tensor, " node"]
    """Mean direct contribution to answer logit minus corrupt answer's, final LayerNorm's scale frozen."""
    probe_tokens: Int[Tensor, "probe pos"]
    probe_outputs: Float[Tensor, "probe pos node d_model"]
    """What each component writes on a few prompts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CircuitScores:
    """Exact score of every edge, on the canonical form. Score = metric(patched) - metric(clean), signed.

    `margin` is the logit of the right answer minus that of the runner-up, `kl` the divergence of the clean
    answer distribution from the patched one in nats; both averaged over prompts.
    """

    noising_margin: Float[Tensor, " edge"]
    noising_kl: Float[Tensor, " edge"]
    zero_margin: Float[Tensor, " edge"]
    zero_kl: Float[Tensor, " edge"]
    null_threshold: Float[Tensor, ""]
    """99th percentile of |noising_margin| over the edges of re-initialised copies."""
    member: Bool[Tensor, " edge"]
    """|noising_margin| above the null threshold and above the smallest effect that counts."""
    node_member: Bool[Tensor, " node"]
    """The node touches a member edge."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Behavior:
    """What a subject answers."""

    accuracy: Float[Tensor, ""]
    margin: Float[Tensor, ""]
    """Mean logit of the right answer minus the runner-up's."""
    cross_entropy: Float[Tensor, ""]
    """KL divergence of the subject's answer distribution from the exact answer, in nats."""
    slice_accuracy: Float[Tensor, " slice"]
    """Accuracy in each slice; NaN where a slice has no prompt."""
    slice_names: tuple[str, ...]
    ablation_margin: Float[Tensor, " node"]
    """Margin(component's output replaced by its mean) - margin(clean)."""
    ablation_kl: Float[Tensor, " node"]
    probe_tokens: Int[Tensor, "probe pos"]
    probe_position: Int[Tensor, " probe"]
    probe_answer: Int[Tensor, " probe"]
    """What the subject answers (argmax)."""
    probe_right_answer: Int[Tensor, " probe"]
    probe_slice: Int[Tensor, " probe"]
    shown_tokens: Int[Tensor, "shown pos"]
    """Prompts of the task, none of them a probe by design: they say what is asked, not what is answered."""
    shown_position: Int[Tensor, " shown"]
    """Where each of them asks for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionLabels:
    """What each component does. The labels are those of the zoo, in its order."""

    raw: Float[Tensor, "node label"]
    """Measured score; NaN where undefined."""
    null_max: Float[Tensor, "node label"]
    """Largest score among re-initialised copies."""
    null_z: Float[Tensor, "node label"]
    """(raw - null mean) / null standard deviation."""
    twin: Float[Tensor, "node label"]
    """Effect of the causal twin; positive values support the label. NaN where undefined."""
    state: Int[Tensor, "node label"]
    """MASKED, NEGATIVE, POSITIVE or PATTERN_ONLY."""


ROLES = ("host", "circuit", "redundant", "negative", "decoy", "distractor")
"""What a component is in a subject whose circuit is known. `circuit`: carries a variable of the algorithm;
`redundant`: does what another one does already; `negative`: the same with the sign turned; `decoy`: shows
the attention pattern, and writes where nothing reads; `distractor`: random, of matched norm; `host`: the
rest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """A circuit that is known because the subject was made to have it, and how well that holds."""

    structural: Bool[Tensor, " edge"]
    """Edges along which the algorithm moves a variable."""
    visible: Bool[Tensor, " edge"]
    """Those of them whose exchange alone changes the algorithm's answer, between some clean prompt and its
    corrupt one. Copies that share the work of a component hide each other: none of their edges is visible."""
    role: Int[Tensor, " node"]
    """Index into `ROLES`."""
    variables: Int[Tensor, " node"]
    """Bit i is set where a component carries the algorithm's i-th variable: components of two subjects of one
    task correspond where they share a bit."""
    node_accuracy: Float[Tensor, " node"]
    """Certificate, on held-out pairs of inputs: how often the subject answers as the algorithm does after one
    component's output is taken from the other input; places whose answer changes weigh as much as the rest.
    For components that carry no variable the answer must stay. NaN where no exchange can tell: for the
    unembedding, and for variables that are the same on all inputs."""

    @property
    def worst(self) -> float:
        """Accuracy of the worst component: what the certificate says in one number."""
        return float(self.node_accuracy[~self.node_accuracy.isnan()].min())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Triple:
    """(activation, circuit, behavior) of one subject on one task, with its function labels."""

    info: SubjectInfo
    subject: Subject
    activation: Activation
    circuit: CircuitScores
    behavior: Behavior
    labels: FunctionLabels
    truth: Truth | None = None
    """Of subjects whose circuit is known."""
