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
FEW = 6
"""Symbols of the battery on which MLPs are measured: few enough that every pair of them comes again."""
PRIMARY_SHARE = 0.25
"""Primary movers write at least this share of the largest direct effect on the answer; backup movers write
less, as long as the primary ones work."""
N_DIRECTIONS = 8
"""Principal directions of what an MLP writes in which `threshold` looks for a step: a step has one."""
STANDS_OUT = 2.0
"""Standard deviations over tokens by which the logit lens must rank a token above the average one for
`copy_suppression` to take it as predicted."""
TWIN_EFFECT = 0.02
"""Smallest effect of a causal twin, as a share of the subject's mean margin on its task prompts."""
TWIN_ERRORS = 2.0
"""Standard errors over prompts that a twin's effect must also exceed."""
KEPT_SHARE = 0.25
"""Largest loss from keeping only what a label says that matters, as a share of what losing that too costs."""
MIN_EDGE_EFFECT = 0.02
"""Smallest effect of a circuit's member edge, as a share of what corrupting the whole prompt does."""

_CUT = (
    "on task prompts, setting {} to zero and renormalising the rest of the row lowers the margin more than"
    " taking equal mass, as far as there is any, from the row's other entries"
)

_KEPT = (
    "{}, replacing what the {} by {} lowers the margin, and replacing it by {} costs less than a quarter of"
    " that"
)
_COMPOSITION = (
    "Largest over earlier heads of log(‖A B‖² / (‖A‖² ‖B‖²) / chance) on the canonical form, A the OV circuit"
    " of the earlier head, B the {} circuit of this one, chance that of a random direction."
)
_EDGE = (
    "on task prompts, replacing what the {} of this head read from that one earlier head by its mean over"
    " prompts lowers the margin"
)

HEAD_LABELS: tuple[LabelDefinition, ...] = (
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
    LabelDefinition(
        name="negative_mover",
        description="Mean over task prompts of (attention from the answer position to positions that hold"
        " the answer - chance), counted where what the head moves from there lowers the answer's logit below"
        " the average token's.",
        statistics=("attention_answer_mean", "answer_logit_attribution_from_answer"),
        effect_size=0.2,
        twin="on task prompts, setting attention from the answer position to positions that hold the answer"
        " to zero and renormalising the rest of the row raises the margin more than taking equal mass, as far"
        " as there is any, from the row's other entries",
    ),
    LabelDefinition(
        name="backup_mover",
        description="What the head writes straight to the answer's logit (above the average token's) with all"
        " primary movers replaced by their means over prompts, minus what it writes without, over what the"
        " primary movers write; 0 for heads that write a quarter of the largest such effect anyway.",
        statistics=("answer_logit_attribution", "answer_logit_attribution_without_movers"),
        effect_size=0.1,
        twin="on task prompts, replacing the head by its mean over prompts lowers the margin more when all"
        " primary movers are replaced by theirs than when none is",
    ),
    LabelDefinition(
        name="s_inhibition",
        description="Largest over later heads of the mean over task prompts of the change of (attention from"
        " the answer position to a wrong candidate - to the answer) when this head's output is replaced by"
        " its mean in that head's query alone, counted where what that head moves from the answer raises"
        " its logit.",
        statistics=("answer_attention_change_of_movers",),
        effect_size=0.1,
        twin="on task prompts, replacing what the queries of all later heads read from this head at the"
        " answer position by its mean over prompts lowers the margin",
    ),
    LabelDefinition(
        name="copy_suppression",
        description="Mean over queries of task prompts of what the head's attention to the earlier token that"
        " the logit lens before its layer predicts takes from that token's logit (relative to the average"
        " token's), in standard deviations of the final logits; the larger of all queries and the answer"
        " position. Predicted is the highest of earlier tokens, two standard deviations above the"
        " average one.",
        statistics=("attention_predicted_logit_attribution",),
        effect_size=0.1,
        twin="on task prompts, setting attention from the answer position to that token to zero and"
        " renormalising the rest of the row raises the token's logit (relative to the average token's) more"
        " than taking equal mass, as far as there is any, from the row's other entries",
    ),
    LabelDefinition(
        name="successor",
        description="Share of a task's ordered tokens t for which, among ordered tokens, the entry of row t"
        " of the token-by-token OV circuit that is largest is the next token's.",
        statistics=("ov_successor_share",),
        effect_size=0.5,
        twin="on task prompts, replacing what the head writes straight to the logits at the answer position"
        " by its mean over prompts lowers the margin",
    ),
    LabelDefinition(
        name="q_composition",
        description=_COMPOSITION.format("query-key"),
        statistics=("q_composition",),
        effect_size=0.7,
        twin=_EDGE.format("queries"),
        determined_by=("weights", "both"),
    ),
    LabelDefinition(
        name="k_composition",
        description=_COMPOSITION.format("key-query"),
        statistics=("k_composition",),
        effect_size=0.7,
        twin=_EDGE.format("keys"),
        determined_by=("weights", "both"),
    ),
    LabelDefinition(
        name="v_composition",
        description=_COMPOSITION.format("OV"),
        statistics=("v_composition",),
        effect_size=0.7,
        twin=_EDGE.format("values"),
        determined_by=("weights", "both"),
    ),
)
"""Labels of heads; masked for whatever is not one."""

MLP_LABELS: tuple[LabelDefinition, ...] = (
    LabelDefinition(
        name="token_lookup",
        description="Share of the variance of what the MLP writes on random tokens of a small alphabet that"
        " the current token explains, each prompt predicted from the others.",
        statistics=("writes_by_token_at_0",),
        effect_size=0.5,
        twin=_KEPT.format(
            "on task prompts", "MLP writes", "one mean", "the mean of other prompts at the same token"
        ),
        determined_by=("activations", "both"),
    ),
    LabelDefinition(
        name="pair_lookup",
        description="Share of that variance that the previous and the current token explain together, minus"
        " what the current one explains alone.",
        statistics=("mlp_pair_beyond_token_share",),
        effect_size=0.25,
        twin=_KEPT.format(
            "at positions of task prompts whose pair stands in other prompts too",
            "MLP writes",
            "their mean at the same token",
            "their mean at the same pair",
        ),
    ),
    LabelDefinition(
        name="threshold",
        description="Largest over neurons and splits of their inputs of the share of the variance of what the"
        " MLP writes that two means, one a side, explain of what the best linear function of that input"
        " leaves: a step of a graded number, not a line, nor a number that has two values.",
        statistics=("mlp_split_variance_share",),
        effect_size=0.5,
        twin=_KEPT.format(
            "on task prompts",
            "MLP writes",
            "one mean",
            "two, one a side of the best split of a neuron's input",
        ),
    ),
    LabelDefinition(
        name="fourier",
        description="Over all pairs (a, b) of a modular task, the share of the variance of neurons, weighted"
        " by what they write, in the best frequency k of each: sines and cosines of k·a, k·b, and one of"
        " k·(a+b) and k·(a-b).",
        statistics=("mlp_frequency_variance_share",),
        effect_size=0.7,
        twin=_KEPT.format(
            "on the grid of all problems",
            "neurons say at the answer position",
            "their mean",
            "their best frequency",
        ),
    ),
)
"""Labels of MLPs; masked for whatever is not one."""

LABELS = (*HEAD_LABELS, *MLP_LABELS)
"""All labels, in the order of every array with a `label` axis."""

LABEL_INDEX: dict[str, int] = {label.name: i for i, label in enumerate(LABELS)}
ATTENTION_LABELS = ("previous_token", "offset_k", "self", "first_token_sink", "duplicate_token", "induction")
"""Labels that say where a head attends on any prompt."""
