"""The one registry of function labels: what each means, what it is computed from, when it is positive.

Thresholds live here only and are frozen before a reader is trained.
"""

from metamodel.triples.schema import LabelDefinition

OFFSETS = (2, 3, 4)
"""Distances among which `offset_k` takes the best."""
MIN_PERIOD = 3
"""Shortest period of the repeated battery: at period 2, induction would be attention one token back."""
MIN_DEFINED_SHARE = 0.9
"""Share of task prompts that must hold their answer for `name_mover` to be defined: by chance, half of them
hold it in some families."""
TWIN_EFFECT = 0.02
"""Smallest effect of a causal twin, as a share of the subject's mean margin on its task prompts."""
TWIN_ERRORS = 2.0
"""Standard errors over prompts that a twin's effect must also exceed."""
POSITIONAL_SHARE = 0.25
"""Largest loss from averaging a positional pattern over prompts, as a share of what flattening it costs."""
MIN_EDGE_EFFECT = 0.02
"""Smallest effect of a circuit's member edge, as a share of what corrupting the whole prompt does."""

_CUT = (
    "on task prompts, setting {} to zero and renormalising the rest of the row lowers the margin more than"
    " taking equal mass, as far as there is any, from the row's other entries"
)

LABELS: tuple[LabelDefinition, ...] = (
    LabelDefinition(
        name="previous_token",
        description="Mean of A[i, i-1] - chance, keys after BOS; the larger of all random tokens and the"
        " answer position of task prompts.",
        statistics=("attention_offset_1_mean", "answer_attention_offset_1_mean"),
        effect_size=0.2,
        twin=_CUT.format("A[i, i-1]"),
    ),
    LabelDefinition(
        name="offset_k",
        description="Largest mean of A[i, i-k] - chance, k in 2..4, keys after BOS; the larger of all random"
        " tokens and the answer position of task prompts.",
        statistics=tuple(f"{where}attention_offset_{k}_mean" for k in OFFSETS for where in ("", "answer_")),
        effect_size=0.2,
        twin=_CUT.format("A[i, i-k], k the best one,"),
    ),
    LabelDefinition(
        name="self",
        description="Mean of A[i, i] - chance, i >= 1; the larger of all random tokens and the answer"
        " position of task prompts.",
        statistics=("attention_offset_0_mean", "answer_attention_offset_0_mean"),
        effect_size=0.1,
        twin=_CUT.format("A[i, i]"),
    ),
    LabelDefinition(
        name="first_token_sink",
        description="Mean of A[i, 0] - chance, i >= 1; the larger of all random tokens and the answer"
        " position of task prompts.",
        statistics=("attention_first_token_mean", "answer_attention_first_token_mean"),
        effect_size=0.1,
        twin=_CUT.format("A[i, 0]"),
    ),
    LabelDefinition(
        name="duplicate_token",
        description="Mean over repeated random tokens of the attention to other occurrences of the query's"
        " token - chance.",
        statistics=("attention_duplicate_mean",),
        effect_size=0.1,
        twin=_CUT.format("attention to other occurrences of the query's token"),
    ),
    LabelDefinition(
        name="induction",
        description="Mean over repeated random tokens of the attention to tokens that followed an earlier"
        " occurrence of the query's token - chance.",
        statistics=("attention_induction_mean",),
        effect_size=0.2,
        twin=_CUT.format("attention to tokens that followed an occurrence of the query's token"),
    ),
    LabelDefinition(
        name="copying",
        description="Sum of eigenvalues over sum of their moduli, real part, of the token-by-token OV circuit"
        " E_eff W_V W_O U, both sides centred over tokens.",
        statistics=("ov_positive_eigenvalue_fraction",),
        effect_size=0.5,
        twin="on task prompts, replacing what the head writes straight to the logits at the answer position"
        " by its mean over prompts lowers the margin",
        determined_by=("weights", "both"),
    ),
    LabelDefinition(
        name="name_mover",
        description="Mean over task prompts of (attention from the answer position to positions that hold"
        " the answer - chance), counted where what the head moves from there raises the answer's logit above"
        " the average token's.",
        statistics=("attention_answer_mean", "answer_logit_attribution_from_answer"),
        effect_size=0.2,
        twin=_CUT.format("attention from the answer position to positions that hold the answer"),
    ),
    LabelDefinition(
        name="positional",
        description="Share of the variance over random prompts, queries and keys of A[i, j] - chance that"
        " its mean over prompts explains.",
        statistics=("attention_positional_variance_share",),
        effect_size=0.7,
        twin="on task prompts, flattening the pattern to its rows' chance lowers the margin, and replacing"
        " it by its mean over prompts costs less than a quarter of that",
    ),
)
"""All labels, in the order of every array with a `label` axis."""

LABEL_INDEX: dict[str, int] = {label.name: i for i, label in enumerate(LABELS)}
ATTENTION_LABELS = ("previous_token", "offset_k", "self", "first_token_sink", "duplicate_token", "induction")
"""Labels that say where a head attends on any prompt."""
