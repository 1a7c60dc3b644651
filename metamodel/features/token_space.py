"""Closed-form scores of heads in token and position space: what the baseline `token_space` knows.

In the spirit of MAPS (Elhelo & Geva 2025, "Inferring functionality of attention heads from parameters"):
project a head's QK and OV onto tokens and positions and read its function off, without running or training.
Pattern functions come from the position-by-position QK softmax, duplicate-token from the token-by-token QK,
induction from K-composition through previous-token heads, copying from the OV circuit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.subjects.canonical import folded
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject

MAX_TOKENS = 256
MAX_POSITIONS = 64
OFFSETS = (2, 3, 4)
"""Distances of which `offset_k` takes the best."""
FIRST_TOKEN = 0
"""Token that starts a prompt, in the layout that all tasks share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Space:
    """Embeddings as a layer reads them, before any component has written."""

    tokens: Float[Tensor, "d_vocab d_model"]
    positions: Float[Tensor, "pos d_model"]
    first: Float[Tensor, " d_model"]
    """Embedding of the token that starts a prompt."""
    answers: Float[Tensor, "d_model d_vocab"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Head:
    layer: int
    W_Q: Float[Tensor, "d_model d_head"]
    W_K: Float[Tensor, "d_model d_head"]
    W_V: Float[Tensor, "d_model d_head"]
    W_O: Float[Tensor, "d_head d_model"]
    b_Q: Float[Tensor, " d_head"]


def token_space_scores(subject: Subject, labels: Sequence[str]) -> Float[Tensor, "node label"]:
    """Score of every component for every label, higher for more of it; NaN where no closed form exists.

    Labels are recognised by name: previous-token, offset-k, self, sink, duplicate, induction, copying,
    name-mover, positional, with `-` or `_`. Components other than heads are NaN.
    """
    plain = folded(subject)
    space, heads = _space(plain), _heads(plain)
    causal = subject.config.attention_dir == "causal"
    patterns = [_pattern(space, head, causal=causal) for head in heads]
    previous = [_at_offset(pattern, 1) for pattern in patterns]
    columns = []
    for label in labels:
        key = label.replace("-", "_")
        scores = [_score(key, i, space, heads, patterns, previous) for i in range(len(heads))]
        columns.append(torch.stack(scores))
    nodes = components(subject.config)
    found = torch.full((len(nodes), len(labels)), math.nan, device=space.tokens.device)
    at = [i for i, node in enumerate(nodes) if node.kind == "head"]
    if labels:
        found[at] = torch.stack(columns, dim=1).float()
    return found


def _score(
    key: str,
    i: int,
    space: _Space,
    heads: list[_Head],
    patterns: list[Tensor],
    previous: list[Tensor],
) -> Float[Tensor, ""]:
    head, pattern = heads[i], patterns[i]
    if "offset" in key:
        return torch.stack([_at_offset(pattern, k) for k in OFFSETS]).amax()
    if "previous" in key:
        return previous[i]
    if "self" in key:
        return _at_offset(pattern, 0)
    if "sink" in key:
        return pattern[1:, 0].mean()
    if "duplicate" in key:
        return _same_token(_queries(space, head), space.tokens @ head.W_K)
    if "induction" in key:
        return _induction(i, space, heads, previous)
    if "copying" in key:
        return _positive_share(space, head)
    if "mover" in key:
        return (space.tokens @ head.W_V @ head.W_O @ space.answers).softmax(-1).diagonal().mean()
    if "positional" in key:
        return _position_share(space, head)
    return torch.tensor(math.nan, dtype=pattern.dtype, device=pattern.device)


def _space(subject: Subject) -> _Space:
    weights = subject.weights
    W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
    W_U = weights["unembed.W_U"]
    mean = W_pos.mean(0)
    tokens, positions = W_E + mean, W_pos - mean
    step = max(1, math.ceil(tokens.shape[0] / MAX_TOKENS))
    chosen, places = tokens[::step], positions[:MAX_POSITIONS]
    if subject.config.has_norm:
        # one scale for all, or the split into token and position terms would not be linear
        spread = (chosen.var(1, correction=0).mean() + places.var(1, correction=0).mean()).add(1e-12).sqrt()
        centred = [x - x.mean(-1, keepdim=True) for x in (chosen, places, tokens[FIRST_TOKEN])]
        chosen, places, first = (x / spread for x in centred)
    else:
        first = tokens[FIRST_TOKEN]
    return _Space(tokens=chosen, positions=places, first=first, answers=W_U[:, ::step])


def _heads(subject: Subject) -> list[_Head]:
    """Heads of a folded subject."""
    found = []
    for layer in range(subject.config.n_layers):
        W = {x: subject.weights[f"blocks.{layer}.attn.W_{x}"] for x in "QKVO"}
        b_Q = subject.weights[f"blocks.{layer}.attn.b_Q"]
        found += [
            _Head(layer=layer, W_Q=W["Q"][h], W_K=W["K"][h], W_V=W["V"][h], W_O=W["O"][h], b_Q=b_Q[h])
            for h in range(subject.config.n_heads)
        ]
    return found


def _queries(space: _Space, head: _Head) -> Float[Tensor, "d_vocab d_head"]:
    return (space.tokens @ head.W_Q + head.b_Q) / math.sqrt(head.W_Q.shape[1])


def _pattern(space: _Space, head: _Head, *, causal: bool) -> Float[Tensor, "query key"]:
    """Attention among random tokens: position terms, what a token adds on itself, and the first key."""
    scale = math.sqrt(head.W_Q.shape[1])
    mean_token = space.tokens.mean(0)
    queries = ((mean_token + space.positions) @ head.W_Q + head.b_Q) / scale
    scores = queries @ (space.positions @ head.W_K).T
    token = _queries(space, head) @ (space.tokens @ head.W_K).T
    own = (token.diagonal() - token.mean(1)).mean()
    scores = scores + own * torch.eye(scores.shape[0], dtype=scores.dtype, device=scores.device)
    first = queries @ ((space.first - mean_token) @ head.W_K)
    scores[:, 0] = scores[:, 0] + first
    if causal:
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1)


def _at_offset(pattern: Float[Tensor, "query key"], offset: int) -> Float[Tensor, ""]:
    """Mean attention to the key `offset` places back, over queries that have one; 0 if none has."""
    if offset >= pattern.shape[0]:
        return torch.zeros((), dtype=pattern.dtype, device=pattern.device)
    return pattern.diagonal(-offset).mean()


def _same_token(queries: Float[Tensor, "d_vocab d_head"], keys: Float[Tensor, "d_vocab d_head"]) -> Tensor:
    """Mean attention to the same token if every token stood once among the keys."""
    return (queries @ keys.T).softmax(-1).diagonal().mean()


def _induction(i: int, space: _Space, heads: list[_Head], previous: list[Tensor]) -> Float[Tensor, ""]:
    """Best K-composition: previous-token score of an earlier head, times the match through its OV circuit."""
    head, best = heads[i], torch.zeros_like(previous[i])
    queries = _queries(space, head)
    for earlier, share in zip(heads, previous, strict=True):
        if earlier.layer < head.layer:
            keys = space.tokens @ earlier.W_V @ earlier.W_O @ head.W_K
            best = torch.maximum(best, share * _same_token(queries, keys))
    return best


def _positive_share(space: _Space, head: _Head) -> Float[Tensor, ""]:
    """Sum of the eigenvalues of the OV circuit over tokens, over the sum of their sizes; in [-1, 1].

    Computed on the `[d_head, d_head]` cyclic product, which has the same nonzero eigenvalues.
    """
    answers = space.answers - space.answers.mean(1, keepdim=True)
    core = head.W_O @ answers @ (space.tokens - space.tokens.mean(0)) @ head.W_V
    values = torch.linalg.eigvals(core.double())
    return (values.real.sum() / values.abs().sum().clamp_min(1e-12)).to(core.dtype)


def _position_share(space: _Space, head: _Head) -> Float[Tensor, ""]:
    """Share of the variance of attention scores that positions explain, against tokens."""
    token = _queries(space, head) @ (space.tokens @ head.W_K).T
    position = (space.positions @ head.W_Q + head.b_Q) @ (space.positions @ head.W_K).T
    of_position = (position / math.sqrt(head.W_Q.shape[1])).var()
    return of_position / (of_position + token.var()).clamp_min(1e-12)
