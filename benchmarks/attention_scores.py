"""Where the heads of any model attend, as function labels count it, from its attention patterns alone.

The labels are those of `data_gen.labels.registry` that say where a head attends on any prompt, without the
part about the answers of a task, which a model that somebody else trained does not have.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.labels.entries import attention_entries, offset_entries
from data_gen.labels.measure import pattern_score
from data_gen.labels.registry import ATTENTION_LABELS, OFFSETS
from data_gen.labels.token_circuits import copying
from metamodel.subjects.canonical import folded
from metamodel.subjects.subject import Subject

REPEATING = ("duplicate_token", "induction")
"""Labels that need tokens which come again."""
MAX_TOKENS = 2048
"""Tokens on which `copying` is measured at most; the closed form has a sample of 64."""
Scores = Float[Tensor, "layer head"]


def labels_of(attention_dir: str) -> tuple[str, ...]:
    """Labels that the attention of a model can show. Induction tells an earlier token from a later one."""
    return tuple(x for x in ATTENTION_LABELS if x != "induction" or attention_dir == "causal")


def attention_scores(
    pattern: Float[Tensor, "layer batch head query key"],
    tokens: Int[Tensor, "batch pos"],
    attention_dir: str,
    labels: Collection[str],
) -> dict[str, Scores]:
    """Mean attention above chance to the entries of each label; NaN where no prompt has one.

    The first position of a prompt is a key for `first_token_sink` only.
    """
    found = {}
    for label in labels:
        if label == "offset_k":
            entries = [offset_entries(tokens, k, attention_dir) for k in OFFSETS]
        else:
            entries = [attention_entries(label, tokens, attention_dir)]
        scores = [pattern_score(pattern[None], one, attention_dir)[0] for one in entries]
        best = torch.stack(scores).nan_to_num(-torch.inf).amax(0)
        found[label] = best.masked_fill(best.isinf(), torch.nan)
    return found


def copying_scores(subject: Subject, *, seed: int) -> Scores:
    """Share of positive eigenvalues of the OV circuit between tokens, on `MAX_TOKENS` of them at most."""
    weights, n = dict(subject.weights), subject.config.d_vocab
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randperm(n, generator=draw)[:MAX_TOKENS].sort().values
    weights["embed.W_E"] = weights["embed.W_E"][tokens]
    weights["unembed.W_U"] = weights["unembed.W_U"][:, tokens]
    weights["unembed.b_U"] = weights["unembed.b_U"][tokens]
    few = subject.with_weights(weights, config=replace(subject.config, d_vocab=len(tokens)))
    return copying(folded(few).stacked, few.config)[0]
