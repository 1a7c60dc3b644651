"""Every feature by name, the track it belongs to, and the statistic that it is.

Labels say from which statistics they are computed. `check_no_label_statistic` holds the two lists against
each other before training, so that no reader is fed the answer (law "no free lunch" of the design).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metamodel.config.errors import InputError
from metamodel.config.words import Track
from metamodel.features.activations import OFFSETS as WRITTEN_OFFSETS
from metamodel.features.asked import OFFSETS as ASKED_OFFSETS
from metamodel.features.asked import WRITTEN_OFFSETS as WRITTEN_ASKED
from metamodel.features.composition import CHANNELS
from metamodel.features.weights import OFFSETS
from metamodel.subjects.config import Kind

FEATURE_VERSION = 2
"""Changes when a feature changes its meaning: a checkpoint of another version is refused."""

FORBIDDEN = (
    r"attention_(mean|offset|stripe|self|sink|first|duplicate|previous|induction|position)",
    r"pattern_(mean|offset|stripe|self|sink|duplicate|previous|induction|position)",
    r"edge_score|noising|ablation|logit_attribution|margin",
    r"^answer_|successor_share|mlp_(pair|split|frequency)",
)
"""Statistics that no feature may be, on any track: they define function labels or circuit membership."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column of a component graph."""

    name: str
    """`kind.statistic`, unique."""
    kind: Kind
    track: Track
    """`weights` or `activations`."""
    statistic: str

    @property
    def asks(self) -> bool:
        """Whether it is computed from prompts that show what is asked."""
        return self.statistic.startswith("asked_")


def _spectrum(prefix: str) -> list[str]:
    found = ["stable_rank", "participation", "log_norm", "sigma_2", "sigma_3", "sigma_4"]
    return [f"{prefix}_{x}" for x in (*found, *(f"sigma_at_{share}" for share in (0.25, 0.5, 0.75, 1.0)))]


def _square(prefix: str) -> list[str]:
    found = (
        "log_scale",
        "diagonal",
        "top_1",
        "symmetric",
        "diagonal_q0.5",
        "diagonal_q0.8",
        "diagonal_q0.95",
    )
    return [f"{prefix}_{x}" for x in found]


def _head_weights() -> list[str]:
    salience = [f"{x}_salience_{y}" for x in ("token", "position") for y in ("log_scale", "first", "max")]
    return [
        *_spectrum("qk"),
        *_spectrum("ov"),
        *_square("qk_token"),
        *_square("ov_token"),
        *_square("ov_embedding"),
        *salience,
        "qk_position_log_scale",
        *(f"qk_position_offset_{k}" for k in OFFSETS),
        "qk_position_explained",
        "qk_position_first",
        "position_softmax_entropy",
        "position_softmax_first",
        *(f"position_softmax_offset_{k}" for k in OFFSETS),
        "first_order_softmax_first",
        *(f"first_order_softmax_offset_{k}" for k in OFFSETS),
        "first_order_softmax_offset_far",
        "k_composed_match",
        "qk_token_softmax_own",
        "ov_token_softmax_own",
        "qk_cross_token_position",
        "qk_cross_position_token",
        "qk_position_over_token",
        "ov_token_over_position",
        "ov_token_rows",
        "ov_eigenvalue_positivity",
        "ov_token_eigenvalue_positivity",
        "qk_eigenvalue_positivity",
        "query_bias",
        *(f"asked_softmax_offset_{k}" for k in ASKED_OFFSETS),
        *(f"asked_softmax_{x}" for x in ("far", "first", "entropy", "largest")),
    ]


def _mlp_weights() -> list[str]:
    neurons = ("size", "cosine", "bias", "token_kurtosis", "answer_kurtosis", "position_share")
    pooled = [f"neuron_{name}_{how}" for name in neurons for how in ("mean", "spread", "max")]
    return [*pooled, *_square("lookup"), *_spectrum("lookup"), "lookup_over_embedding", "lookup_rows"]


def _written() -> list[str]:
    groups = [f"token_at_{k}" for k in WRITTEN_OFFSETS]
    groups += ["position", "first_token", "after_previous", "before_previous", "seen_before"]
    rest = ("varying_share", "first_position_size", "repetition_response", "participation", "relative_size")
    return [*(f"writes_by_{group}" for group in groups), *rest]


def _asked() -> list[str]:
    groups = [*(f"token_at_{k}" for k in WRITTEN_ASKED), "answer"]
    rest = ("varying_share", "over_elsewhere", "participation", "relative_size")
    return [*(f"asked_writes_by_{group}" for group in groups), *(f"asked_{x}" for x in rest)]


_SAME_STATISTIC = {
    "ov_eigenvalue_positivity": "ov_positive_eigenvalue_fraction",
    "ov_token_eigenvalue_positivity": "ov_positive_eigenvalue_fraction",
}
"""Features that are, under another name or in another basis, a statistic of which labels are made."""


def _made() -> tuple[Feature, ...]:
    direct = _square("direct")
    near = [f"neighbour_{k}" for k in OFFSETS[1:]]
    lists: list[tuple[Kind, Track, list[str]]] = [
        ("head", "weights", _head_weights()),
        ("mlp", "weights", _mlp_weights()),
        ("token_embedding", "weights", [*_spectrum("embedding"), *direct]),
        ("position_embedding", "weights", [*_spectrum("embedding"), *near, "embedding_over_token"]),
        ("unembedding", "weights", [*_spectrum("embedding"), *direct]),
        ("head", "activations", [*_written(), "attention_entropy", "attention_entropy_spread"]),
        ("head", "activations", [*_asked(), "asked_attention_entropy"]),
        ("mlp", "activations", [*_written(), "active_share", "active_spread", *_asked()]),
    ]
    return tuple(
        Feature(name=f"{kind}.{name}", kind=kind, track=track, statistic=_SAME_STATISTIC.get(name, name))
        for kind, track, names in lists
        for name in names
    )


def forbidden(statistic: str) -> bool:
    """Whether no feature may be this statistic, whatever the labels of a zoo."""
    return any(re.search(pattern, statistic) for pattern in FORBIDDEN)


FEATURES = _made()
"""Every feature, in the order of the columns of the track `both`, but for the two that say what was seen."""
assert not [feature.name for feature in FEATURES if forbidden(feature.statistic)]
CLOSED_FORMS = {
    "previous_token": "head.first_order_softmax_offset_1",
    "offset_k": "head.first_order_softmax_offset_far",
    "self": "head.first_order_softmax_offset_0",
    "first_token_sink": "head.first_order_softmax_first",
    "duplicate_token": "head.qk_token_softmax_own",
    "induction": "head.k_composed_match",
    "copying": "head.ov_token_eigenvalue_positivity",
    "name_mover": "head.ov_token_softmax_own",
    "positional": "head.qk_position_over_token",
}
"""For each label that has one, the feature that one would compute to name a head without learning.

In the spirit of MAPS (Elhelo & Geva 2025, "Inferring functionality of attention heads from parameters").
The baseline `token_space` answers with it, the reader starts from it.
"""
ACTIVATIONS_SEEN = "activations_seen"
"""Column that says whether the subject was run: 0 for one that can only be read from its weights."""
PROMPTS_SEEN = "prompts_seen"
"""Column that says whether prompts of the behavior were shown."""
PROMPTS_COLUMN, ACTIVATIONS_COLUMN = -2, -1
"""Where the two stand, in graphs of every track."""


def features_of(track: Track) -> tuple[Feature, ...]:
    """Features of a track, in the order of the columns of its graphs."""
    return tuple(feature for feature in FEATURES if track in ("both", feature.track))


def feature_names(track: Track) -> tuple[str, ...]:
    """Column names of a graph of this track."""
    return (*(feature.name for feature in features_of(track)), PROMPTS_SEEN, ACTIVATIONS_SEEN)


def closed_form_columns(track: Track, labels: Sequence[str]) -> tuple[int, ...]:
    """For each label the column of its closed form in graphs of this track, -1 where it has none."""
    column = {name: i for i, name in enumerate(feature_names(track))}
    return tuple(column.get(CLOSED_FORMS.get(label, ""), -1) for label in labels)


def check_no_label_statistic(
    track: Track,
    statistics: Mapping[str, Sequence[str]],
    determined_by: Mapping[str, Sequence[str]],
) -> None:
    """Refuses to train where a label's own statistic is a feature of nodes or a channel of edges.

    Args:
        statistics: for each label, names of the statistics that it is computed from.
        determined_by: for each label, tracks on which it is known to be determined and reported apart.

    Raises: InputError naming label and feature.
    """
    seen = {feature.statistic: feature.name for feature in features_of(track)}
    if track != "activations":
        seen |= {channel: f"edge.{channel}" for channel in CHANNELS}
    for label, used in statistics.items():
        overlap = sorted(set(used) & seen.keys())
        if overlap and track not in determined_by.get(label, ()):
            raise InputError(
                f"label {label}",
                expected=f"no statistic that is a feature of the track '{track}'",
                got=seen[overlap[0]],
                do=f"Remove that feature, or declare the label as determined by '{track}'.",
            )
