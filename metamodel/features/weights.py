"""Weight features of every node: spectra, token-by-token and position-by-position circuits, neurons.

All are invariant under the whole gauge group (formulas of Elhage et al. 2021, "A mathematical framework for
transformer circuits"; the table of what survives which symmetry is in the project's design) and free of
sizes: sums over tokens, positions, neurons and singular values enter as means, shares and quantiles.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.features.view import View, diagonal_scores, double_centred, log_size, normalised

OFFSETS = (0, 1, 2, 3, 4)
FAR_OFFSETS = (2, 3, 4)
FIRST = 0
"""Of the sample of tokens: the one that starts a prompt."""
_QUANTILES = (0.5, 0.8, 0.95)
_SPECTRUM = (0.25, 0.5, 0.75, 1.0)
Columns = dict[str, Tensor]
"""Feature name -> one value a node, leading axes as in the function that made it."""


def spectrum(prefix: str, singular: Float[Tensor, "*rest rank"]) -> Columns:
    """Shape of a spectrum: top ratios, quantiles, stable rank and participation as shares of the rank."""
    top = singular[..., :1].clamp_min(1e-12)
    shares = (singular / top).clamp_min(1e-4)
    rank = singular.shape[-1]
    square = shares.pow(2)
    columns = {
        f"{prefix}_stable_rank": square.sum(-1).log(),
        f"{prefix}_participation": (square.sum(-1).pow(2) / square.pow(2).sum(-1)).log(),
        f"{prefix}_log_norm": (singular.pow(2).sum(-1) / rank).clamp_min(1e-16).log() / 2,
    }
    for i in (1, 2, 3):
        columns[f"{prefix}_sigma_{i + 1}"] = shares[..., min(i, rank - 1)].log()
    for share in _SPECTRUM:
        columns[f"{prefix}_sigma_at_{share}"] = shares[..., math.ceil(share * rank) - 1].log()
    return columns


def _product_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of `left @ right.T` through the small core."""
    return torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right).R.transpose(-1, -2))


def positivity(core: Float[Tensor, "*rest d_head same"]) -> Float[Tensor, "*rest"]:
    """Sum of eigenvalues over the sum of their sizes, in [-1, 1]."""
    values = torch.linalg.eigvals(core.double())
    return (values.real.sum(-1) / values.abs().sum(-1).clamp_min(1e-15)).to(core.dtype)


def square_circuit(prefix: str, scores: Float[Tensor, "*rest token same"]) -> Columns:
    """How much a centred token-by-token circuit prefers the same token, and its shape."""
    own = diagonal_scores(scores)
    symmetric = (scores + scores.transpose(-1, -2)) / 2
    energy = scores.pow(2).sum((-1, -2)).clamp_min(1e-18)
    best = scores.argmax(-1) == torch.arange(scores.shape[-1], device=scores.device)
    columns = {
        f"{prefix}_log_scale": log_size(scores, (-1, -2)),
        f"{prefix}_diagonal": own.mean(-1),
        f"{prefix}_top_1": best.to(scores).mean(-1),
        f"{prefix}_symmetric": symmetric.pow(2).sum((-1, -2)) / energy,
    }
    for q in _QUANTILES:
        columns[f"{prefix}_diagonal_q{q}"] = own.quantile(q, dim=-1)
    return columns


def _key_side(prefix: str, scores: Tensor) -> Columns:
    """Which keys draw attention whatever the query: `scores[..., key]`, centred."""
    scores = scores - scores.mean(-1, keepdim=True)
    spread = scores.std(-1, correction=0).clamp_min(1e-9)
    return {
        f"{prefix}_log_scale": log_size(scores, -1),
        f"{prefix}_first": (scores[..., 0] / spread).clamp(-30, 30),
        f"{prefix}_max": (scores.amax(-1) / spread).clamp(-30, 30),
    }


def _position_circuit(scores: Float[Tensor, "*rest query key"], *, causal: bool) -> Columns:
    """Offsets, first key, and the attention that positions alone would cause."""
    n = scores.shape[-1]
    centred = double_centred(scores)
    at = torch.arange(n, device=scores.device)
    lag = at[:, None] - at[None, :]
    spread = centred.pow(2).mean((-1, -2)).sqrt().clamp_min(1e-9)
    explained = torch.zeros_like(centred)
    columns = {"qk_position_log_scale": spread.log()}
    for k in range(1 - n, n):
        mean = centred.diagonal(dim1=-2, dim2=-1, offset=-k).mean(-1)
        explained = explained + mean[..., None, None] * (lag == k)
        if k in OFFSETS:
            columns[f"qk_position_offset_{k}"] = mean / spread
    for k in OFFSETS:
        columns.setdefault(f"qk_position_offset_{k}", torch.zeros_like(spread))
    columns["qk_position_explained"] = explained.pow(2).mean((-1, -2)) / spread.pow(2)
    columns["qk_position_first"] = centred[..., 0].mean(-1) / spread
    logits = scores.masked_fill(lag < 0, -torch.inf) if causal else scores
    soft = logits.softmax(-1)
    rows = slice(min(1, n - 1), None)
    n_keys = (at[rows] + 1.0).to(scores) if causal else torch.full_like(at[rows], n).to(scores)
    entropy = -(soft * soft.clamp_min(1e-12).log()).sum(-1)[..., rows]
    columns["position_softmax_entropy"] = (entropy / n_keys.log().clamp_min(1e-9)).mean(-1)
    columns["position_softmax_first"] = soft[..., rows, 0].mean(-1)
    for k in OFFSETS:
        band = soft.diagonal(dim1=-2, dim2=-1, offset=-k)
        mean = band.mean(-1) if k < n else torch.zeros_like(spread)
        columns[f"position_softmax_offset_{k}"] = mean
    return columns


def _first_order_softmax(
    scores: Float[Tensor, "*rest query key"],
    own: Float[Tensor, "*rest"],
    first: Float[Tensor, "*rest query"],
    *,
    causal: bool,
) -> Columns:
    """Attention on random tokens if no earlier component had written: where QK alone would look.

    Args:
        scores: by position alone. own: what a token adds on itself. first: what the first token adds.
    """
    n = scores.shape[-1]
    scores = scores + own[..., None, None] * torch.eye(n, dtype=scores.dtype, device=scores.device)
    scores = torch.cat([scores[..., :1] + first[..., None], scores[..., 1:]], dim=-1)
    if causal:
        future = torch.ones(n, n, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    soft = scores.softmax(-1)
    rows = slice(min(1, n - 1), None)
    columns = {"first_order_softmax_first": soft[..., rows, 0].mean(-1)}
    for k in OFFSETS:
        # keys after the first token, which has a column of its own
        band = soft[..., 1 + k :, 1 : max(n - k, 1)].diagonal(dim1=-2, dim2=-1) if 1 + k < n else None
        columns[f"first_order_softmax_offset_{k}"] = (
            band.mean(-1) if band is not None else torch.zeros_like(own)
        )
    return columns


def head_features(v: View) -> Columns:
    """Features `[layer, head]` of every head."""
    E, P, U = v.E, v.P, v.U
    scale = math.sqrt(v.config.d_head)
    queries, keys = E @ v.W_Q + v.b_Q[..., None, :], E @ v.W_K
    position_queries, position_keys = P @ v.W_Q, P @ v.W_K
    token = double_centred(queries @ keys.transpose(-1, -2) / scale)
    centre = torch.einsum("m,lhmd->lhd", E.mean(0) + P.mean(0), v.W_Q) + v.b_Q
    with_bias = position_queries + (torch.einsum("m,lhmd->lhd", E.mean(0), v.W_Q) + v.b_Q)[..., None, :]
    by_position = with_bias @ position_keys.transpose(-1, -2) / scale
    token_salience = torch.einsum("lhd,lhtd->lht", centre, keys) / scale
    position_salience = torch.einsum("lhd,lhpd->lhp", centre, position_keys) / scale
    to_position = double_centred(queries @ position_keys.transpose(-1, -2) / scale)
    from_position = double_centred(position_queries @ keys.transpose(-1, -2) / scale)
    values = E @ v.W_V @ v.W_O
    out = double_centred(values @ U)
    back = double_centred(values @ E.T)
    W_OT = v.W_O.transpose(-1, -2)
    columns = spectrum("qk", _product_spectrum(v.W_Q, v.W_K)) | spectrum("ov", _product_spectrum(v.W_V, W_OT))
    columns |= square_circuit("qk_token", token) | square_circuit("ov_token", out)
    columns |= square_circuit("ov_embedding", back)
    columns |= _key_side("token_salience", token_salience) | _key_side("position_salience", position_salience)
    causal = v.config.attention_dir == "causal"
    columns |= _position_circuit(by_position, causal=causal)
    from_first = torch.einsum("lhqd,lhd->lhq", with_bias, (E[FIRST] - E.mean(0)) @ v.W_K) / scale
    columns |= _first_order_softmax(
        by_position, token.diagonal(dim1=-2, dim2=-1).mean(-1), from_first, causal=causal
    )
    offsets = [columns[f"first_order_softmax_offset_{k}"] for k in FAR_OFFSETS]
    columns["first_order_softmax_offset_far"] = torch.stack(offsets).amax(0)
    columns["k_composed_match"] = _k_composed_match(
        v, queries / scale, columns["first_order_softmax_offset_1"]
    )
    columns["qk_token_softmax_own"] = _softmax_own(queries @ keys.transpose(-1, -2) / scale)
    columns["ov_token_softmax_own"] = _softmax_own(values @ U)
    token_scale, position_scale = columns["qk_token_log_scale"], columns["qk_position_log_scale"]
    centred_E = E - E.mean(0)
    position_values = (P - P.mean(0)) @ v.W_V
    token_values = centred_E @ v.W_V
    columns |= {
        "qk_cross_token_position": log_size(to_position, (-1, -2)),
        "qk_cross_position_token": log_size(from_position, (-1, -2)),
        "qk_position_over_token": (position_scale - token_scale).clamp(-9, 9),
        "ov_token_over_position": log_size(token_values @ v.W_O, (-1, -2))
        - log_size(position_values @ v.W_O, (-1, -2)),
        "ov_token_rows": _row_spread(out),
        "ov_eigenvalue_positivity": positivity(v.W_O @ v.W_V),
        "ov_token_eigenvalue_positivity": positivity((v.W_O @ (U @ centred_E)) @ v.W_V),
        "qk_eigenvalue_positivity": positivity(v.W_K.transpose(-1, -2) @ v.W_Q),
        "query_bias": log_size(v.b_Q[..., None, :] @ keys.transpose(-1, -2) / scale, (-1, -2)),
    }
    return columns


def _k_composed_match(
    v: View, queries: Float[Tensor, "layer head token d_head"], previous: Float[Tensor, "layer head"]
) -> Float[Tensor, "layer head"]:
    """Best K-composition that finds the token after an earlier occurrence, over all earlier heads.

    What an earlier head attends to one token back, times the share of the same token in the softmax of the
    match through its OV circuit (Elhage et al. 2021, "K-composition").
    """
    found = [torch.zeros_like(previous[0])]
    for layer in range(1, v.config.n_layers):
        moved = normalised(v.E @ v.W_V[:layer] @ v.W_O[:layer], v.config).flatten(0, 1)
        keys = torch.einsum("stm,hmd->hstd", moved, v.W_K[layer])
        match = torch.einsum("hqd,hskd->hsqk", queries[layer], keys).softmax(-1)
        share = match.diagonal(dim1=-2, dim2=-1).mean(-1) * previous[:layer].flatten()
        found.append(share.amax(-1))
    return torch.stack(found)


def _softmax_own(scores: Float[Tensor, "*rest token same"]) -> Tensor:
    """Log of the mean share of the same token, over its chance."""
    own = scores.softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)
    return (own * scores.shape[-1]).clamp_min(1e-4).log()


def _row_spread(out: Float[Tensor, "*rest token answer"]) -> Tensor:
    """Unevenness of rows: whether few tokens write most."""
    rows = out.pow(2).mean(-1)
    return (rows.amax(-1) / rows.mean(-1).clamp_min(1e-18)).clamp(1, 1e3).log()


def kurtosis(x: Tensor, dim: int) -> Tensor:
    x = x - x.mean(dim, keepdim=True)
    return (x.pow(4).mean(dim) / x.pow(2).mean(dim).pow(2).clamp_min(1e-18)).clamp(1, 1e3).log()


def neuron_columns(v: View, layer: int) -> dict[str, Float[Tensor, " d_mlp"]]:
    """What is known of every neuron of a layer, invariant under scales and order."""
    weights, block = v.subject.weights, f"blocks.{layer}.mlp"
    W_in, W_out = weights[f"{block}.W_in"].to(v.E), weights[f"{block}.W_out"].to(v.E)
    size_in, size_out = W_in.norm(dim=0).clamp_min(1e-9), W_out.norm(dim=1).clamp_min(1e-9)
    share = log_size((v.P - v.P.mean(0)) @ W_in, 0) - log_size((v.E - v.E.mean(0)) @ W_in, 0)
    return {
        "size": (size_in * size_out).log(),
        "cosine": (W_in * W_out.T).sum(0) / (size_in * size_out),
        "bias": (weights[f"{block}.b_in"].to(v.E) / size_in).clamp(-30, 30),
        "token_kurtosis": kurtosis(v.E @ W_in, 0),
        "answer_kurtosis": kurtosis(W_out @ v.U, 1),
        "position_share": share,
    }


def mlp_features(v: View) -> Columns:
    """Features `[layer]` of every MLP, its neurons pooled by mean, spread and maximum."""
    rows = []
    for layer in range(v.config.n_layers if v.config.has_mlp else 0):
        written = v.mlp(layer, v.E)
        written = written - written.mean(0)
        answers = double_centred(written @ v.U)
        row = {}
        for name, value in neuron_columns(v, layer).items():
            row[f"neuron_{name}_mean"] = value.mean()
            row[f"neuron_{name}_spread"] = value.std(correction=0)
            row[f"neuron_{name}_max"] = value.amax()
        row |= square_circuit("lookup", answers)
        row |= spectrum("lookup", torch.linalg.svdvals(written))
        row["lookup_over_embedding"] = log_size(written, (0, 1)) - log_size(v.E - v.E.mean(0), (0, 1))
        row["lookup_rows"] = _row_spread(answers)
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def embedding_features(v: View) -> dict[str, Columns]:
    """Features of the token embedding, position embedding and unembedding, each a single value."""
    E, P = v.E - v.E.mean(0), v.P - v.P.mean(0)
    shifted = P / P.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    similarity = shifted @ shifted.T
    lags = {
        f"neighbour_{k}": similarity.diagonal(k).mean() if k < P.shape[0] else similarity.new_zeros(())
        for k in OFFSETS[1:]
    }
    token = spectrum("embedding", torch.linalg.svdvals(E))
    position = spectrum("embedding", torch.linalg.svdvals(P))
    position |= lags | {"embedding_over_token": log_size(P, (0, 1)) - log_size(E, (0, 1))}
    answer = spectrum("embedding", torch.linalg.svdvals(v.U))
    direct = square_circuit("direct", double_centred(E @ v.U))
    return {"token_embedding": token | direct, "position_embedding": position, "unembedding": answer | direct}
