"""Edge features: how strongly a component reads what an earlier one writes, and whether as "the same token".

Composition is `log(‖A B‖² / (‖A‖² ‖B‖²) / chance)`, with what the source writes as rows of `A` and what the
reader reads as columns of `B`; chance is 1/(d_model-1) for centred residual streams under LayerNorm and
1/d_model without (Elhage et al. 2021; the Haar expectation is exact whatever the ranks). The factors have at
most d_head, d_model or a sample of tokens rows, so nothing of size d_vocab² or d_model² a pair is formed.

Token-space channels follow a token through the source into the reader's query, key or value: for the key,
`E · (E·OV_source · W_K W_Qᵀ_reader)ᵀ`, whose diagonal is the signature of induction.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.graph import component_edges
from metamodel.features.streams import Written, log_shares, variance
from metamodel.features.view import View, diagonal_scores, double_centred, normalised
from metamodel.subjects.config import Component, components

CHANNELS = (
    "exists",
    "depth_step",
    "q_composition",
    "k_composition",
    "v_composition",
    "in_composition",
    "q_token_diagonal",
    "k_token_diagonal",
    "v_token_diagonal",
    "in_token_diagonal",
    "log_strength",
    "stream_share",
    "q_share",
    "k_share",
    "v_share",
    "in_share",
    "asked_stream_share",
    "asked_q_share",
    "asked_k_share",
    "asked_v_share",
    "asked_in_share",
)
_AT = {name: i for i, name in enumerate(CHANNELS)}


def structure(v: View) -> Float[Tensor, "node node channel"]:
    """Which source (first axis) computes before which reader (second axis), and how far apart.

    All that the track `activations` sees; channels that need weights are zero.
    """
    nodes = components(v.config)
    found = v.E.new_zeros(len(nodes), len(nodes), len(CHANNELS))
    graph = component_edges(v.config)
    source, reader = torch.tensor(graph.source_node), torch.tensor(graph.destination_node)
    found[source, reader, _AT["exists"]] = 1.0
    layers = torch.tensor([_place(node, v.config.n_layers) for node in nodes], dtype=found.dtype)
    found[source, reader, _AT["depth_step"]] = (layers[reader] - layers[source]).to(found) / v.config.n_layers
    return found


Factors = list[dict[str, Tensor]]
"""For each block of readers what they read, by channel: `[reader, d_model, column]`."""


def factors(v: View) -> Factors:
    """Of all blocks, in their order: what `edges` and `add_shares` both need."""
    nodes = components(v.config)
    return [
        _reader(v, nodes[block[0]]) if nodes[block[0]].kind in ("head", "mlp", "unembedding") else {}
        for block in _blocks(nodes)
    ]


def edges(v: View, read_by: Factors) -> Float[Tensor, "node node channel"]:
    """Structure, and how strongly every reader reads what every source before it writes.

    Args:
        read_by: `factors(v)`.
    """
    nodes, found = components(v.config), structure(v)
    blocks = _blocks(nodes)
    writers = [(rows, *_writer(v, nodes[rows[0]])) for rows in blocks[:-1]]
    for columns, own in zip(blocks, read_by, strict=True):
        before = [writer for writer in writers if found[writer[0][0], columns[0], _AT["exists"]] > 0]
        if before:
            node = nodes[columns[0]]
            reads = {name: _unit(read) for name, read in own.items()}
            for rows, factor, followed in before:
                block = _relations(v, factor, followed, node, reads)
                for name, value in block.items():
                    found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, _AT[name]] = value
    return found


def add_shares(
    v: View,
    found: Float[Tensor, "node node channel"],
    ran: Written,
    *,
    prefix: str,
    read_by: Factors | None,
) -> None:
    """Fills the channels of shares, in place: whose writing each reader reads, on the prompts of one run.

    Args:
        prefix: `asked_` for prompts that are shown, empty for probes.
        read_by: `factors(v)`; None where no weights may be looked at: shares of the stream alone.
    """
    nodes = components(v.config)
    blocks = _blocks(nodes)
    for columns, own in zip(blocks, read_by or [{}] * len(blocks), strict=True):
        before = [rows for rows in blocks[:-1] if found[rows[0], columns[0], _AT["exists"]] > 0]
        if not before:
            continue
        reads: dict[str, Tensor | None] = {"stream": None}
        for name, read in (reads | own).items():
            roots = ran.anywhere if name in ("k", "v") else ran.asked
            parts = []
            for rows in before:
                root = roots[nodes[rows[0]].kind, nodes[rows[0]].layer]
                parts.append(root.pow(2).sum((1, 2))[:, None] if read is None else variance(root, read))
            shares = log_shares(torch.cat(parts))
            sources = [row for rows in before for row in rows]
            found[
                sources[0] : sources[-1] + 1, columns[0] : columns[-1] + 1, _AT[f"{prefix}{name}_share"]
            ] = shares


def _place(node: Component, n_layers: int) -> float:
    """Layer as a number: embeddings before the first, unembedding after the last."""
    if node.layer >= 0:
        return node.layer + (0.5 if node.kind == "mlp" else 0.0)
    return float(n_layers) if node.kind == "unembedding" else -1.0


def _blocks(nodes: tuple[Component, ...]) -> list[list[int]]:
    """Indices of nodes of one kind and layer, which are adjacent: their relations are computed together."""
    blocks: list[list[int]] = []
    for i, node in enumerate(nodes):
        if blocks and (nodes[blocks[-1][0]].kind, nodes[blocks[-1][0]].layer) == (node.kind, node.layer):
            blocks[-1].append(i)
        else:
            blocks.append([i])
    return blocks


def _root(moment: Float[Tensor, "*rest row same"]) -> Float[Tensor, "*rest row same"]:
    """`R` with `Rᵀ R` the moment, for moments that may be singular."""
    values, basis = torch.linalg.eigh(moment)
    return values.clamp_min(0).sqrt()[..., None] * basis.transpose(-1, -2)


def _unit(factor: Float[Tensor, "*rest row column"]) -> Float[Tensor, "*rest row column"]:
    return factor / factor.norm(dim=(-1, -2), keepdim=True).clamp_min(1e-12)


def _writer(
    v: View, node: Component
) -> tuple[Float[Tensor, "source row d_model"], Float[Tensor, "source token d_model"]]:
    """What components of one block write: the factor `A`, and each token of the sample followed through."""
    match node.kind:
        case "token_embedding":
            return _unit(v.E - v.E.mean(0))[None], v.E[None]
        case "position_embedding":
            return _unit(v.P - v.P.mean(0))[None], torch.zeros_like(v.E)[None]
        case "mlp":
            weights = v.subject.weights
            W_out = weights[f"blocks.{node.layer}.mlp.W_out"].to(v.E)
            return _unit(_root(W_out.T @ W_out))[None], v.mlp(node.layer, v.E)[None]
    W_V, W_O = v.W_V[node.layer], v.W_O[node.layer]
    return _unit(_root(W_V.transpose(-1, -2) @ W_V) @ W_O), v.E @ W_V @ W_O


def _reader(v: View, node: Component) -> dict[str, Float[Tensor, "reader d_model column"]]:
    """What readers of one block read, by channel: the factor `B`."""
    match node.kind:
        case "mlp":
            W_in = v.subject.weights[f"blocks.{node.layer}.mlp.W_in"].to(v.E)
            return {"in": _root(W_in @ W_in.T).T[None]}
        case "unembedding":
            return {"in": v.U[None]}
    Q, K, V, W_O = (w[node.layer] for w in (v.W_Q, v.W_K, v.W_V, v.W_O))
    moments = {"q": (Q, K.transpose(-1, -2) @ K), "k": (K, Q.transpose(-1, -2) @ Q)}
    moments["v"] = (V, W_O @ W_O.transpose(-1, -2))
    return {name: w @ _root(moment).transpose(-1, -2) for name, (w, moment) in moments.items()}


def _relations(
    v: View,
    factor: Float[Tensor, "source row d_model"],
    followed: Float[Tensor, "source token d_model"],
    node: Component,
    reads: dict[str, Float[Tensor, "reader d_model column"]],
) -> dict[str, Float[Tensor, "source reader"]]:
    """Composition and token-space channels between two blocks.

    Args:
        reads: the readers' factors by channel, of norm one.
    """
    config = v.config
    chance = 1.0 / max(config.d_model - 1, 1) if config.has_norm else 1.0 / config.d_model
    found, best = {}, None
    for name, read in reads.items():
        flat = factor.flatten(0, 1) @ read.transpose(0, 1).flatten(1)
        square = flat.pow(2).view(factor.shape[0], factor.shape[1], read.shape[0], read.shape[2]).sum((1, 3))
        ratio = (square / chance).clamp_min(math.exp(-6.0)).log()
        found[f"{name}_composition"] = ratio
        best = ratio if best is None else torch.maximum(best, ratio)
    assert best is not None
    found["log_strength"] = best
    if followed.abs().amax() > 0:
        # scale does not matter, but each token counts alike as in the subject's own LayerNorm
        found |= _token_channels(v, normalised(followed, config), node)
    return found


def _token_channels(
    v: View, followed: Float[Tensor, "source token d_model"], node: Component
) -> dict[str, Float[Tensor, "source reader"]]:
    """Mean diagonal z-score of the virtual token-by-token circuits through each source."""

    def mean_diagonal(scores: Tensor) -> Tensor:
        return diagonal_scores(double_centred(scores)).mean(-1)

    if node.kind == "unembedding":
        return {"in_token_diagonal": mean_diagonal(followed @ v.U)[:, None]}
    if node.kind == "mlp":
        W_in = v.subject.weights[f"blocks.{node.layer}.mlp.W_in"].to(v.E)
        direct = v.E @ W_in
        return {"in_token_diagonal": mean_diagonal(followed @ W_in @ direct.T)[:, None]}
    layer = node.layer
    rows = {"q_token_diagonal": [], "k_token_diagonal": [], "v_token_diagonal": []}
    for head in range(v.config.n_heads):
        Q, K = v.W_Q[layer, head], v.W_K[layer, head]
        queries, keys = v.E @ Q, v.E @ K
        rows["q_token_diagonal"].append(mean_diagonal((followed @ Q) @ keys.T))
        rows["k_token_diagonal"].append(mean_diagonal(queries @ (followed @ K).transpose(-1, -2)))
        answers = v.W_O[layer, head] @ v.U
        rows["v_token_diagonal"].append(mean_diagonal(followed @ v.W_V[layer, head] @ answers))
    return {name: torch.stack(value, dim=1) for name, value in rows.items()}
