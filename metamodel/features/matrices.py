"""Circuits of a subject as small matrices, for an encoder that learns what to look for in them.

Entries, not summaries: each head's token-by-token and position-by-position circuits and the crossed ones,
each pair's virtual circuit (a token that is followed through the source into the reader), each MLP's neurons.
Rows and columns are a sample of tokens or the first positions, so that any width, depth and vocabulary gives
the same kind of matrix; the encoder treats them as sets. Formulas of Elhage et al. 2021; all entries are
gauge-invariant, since the residual stream is contracted at both ends.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.graph import component_edges
from metamodel.features.view import View, double_centred, normalised
from metamodel.features.weights import neuron_columns
from metamodel.subjects.config import Component, components

TOKENS, POSITIONS, FOLLOWED, NEURONS = 12, 12, 8, 32
"""Most tokens, positions, tokens of a virtual circuit, and neurons of a layer."""
TOKEN_CHANNELS = ("qk", "ov", "ov_embedding")
POSITION_CHANNELS = ("qk", "softmax", "embedding")
CROSSED_CHANNELS = ("token_to_position", "position_to_token")
FOLLOWED_CHANNELS = ("q", "k", "v")
"""What MLPs and the unembedding read stands under `v`."""
NEURON_CHANNELS = ("size", "cosine", "bias", "token_kurtosis", "answer_kurtosis", "position_share")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matrices:
    """Matrices of one subject, each of unit mean square but for the positions', which are logits."""

    tokens: Float[Tensor, "node channel token token"]
    positions: Float[Tensor, "node placed pos pos"]
    crossed: Float[Tensor, "node crossing token pos"]
    followed: Float[Tensor, "virtual through answer answer"]
    """Pairs in the order of `ComponentGraph.edges[..., 0].nonzero()`."""
    neurons: Float[Tensor, "node neuron told"]
    """Zero for whatever is no MLP."""


@torch.no_grad()
def matrices_of(v: View) -> Matrices:
    """Every matrix of a subject."""
    nodes = components(v.config)
    of = {kind: [i for i, node in enumerate(nodes) if node.kind == kind] for kind in ("head", "mlp")}
    token = _sample(len(v.tokens), TOKENS)
    n_pos = min(POSITIONS, v.P.shape[0])
    tokens = v.E.new_zeros(len(nodes), len(TOKEN_CHANNELS), len(v.tokens), len(v.tokens))
    positions = v.E.new_zeros(len(nodes), len(POSITION_CHANNELS), n_pos, n_pos)
    crossed = v.E.new_zeros(len(nodes), len(CROSSED_CHANNELS), len(v.tokens), n_pos)
    E, P, U = v.E, v.P[:n_pos], v.U
    scale = math.sqrt(v.config.d_head)
    heads = of["head"]
    queries, keys = E @ v.W_Q + v.b_Q[..., None, :], E @ v.W_K
    values = E @ v.W_V @ v.W_O
    whole = torch.stack([queries @ keys.transpose(-1, -2), values @ U, values @ E.T], dim=2)
    tokens[heads] = double_centred(whole.flatten(0, 1))
    mean_query = (torch.einsum("m,lhmd->lhd", E.mean(0), v.W_Q) + v.b_Q)[..., None, :]
    by_position = (P @ v.W_Q + mean_query) @ (P @ v.W_K).transpose(-1, -2) / scale
    positions[heads, :2] = _attention(by_position, causal=v.config.attention_dir == "causal").flatten(0, 1)
    to_position = double_centred(queries @ (P @ v.W_K).transpose(-1, -2))
    to_token = double_centred((P @ v.W_Q) @ keys.transpose(-1, -2)).transpose(-1, -2)
    crossed[heads] = torch.stack([to_position, to_token], dim=2).flatten(0, 1)
    centred = E - E.mean(0)
    for i, node in enumerate(nodes):
        match node.kind:
            case "mlp":
                written = v.mlp(node.layer, E)
                tokens[i, 1:] = double_centred(torch.stack([written @ U, written @ E.T]))
            case "token_embedding" | "unembedding":
                tokens[i, 1:] = double_centred(torch.stack([centred @ U, centred @ E.T]))
            case "position_embedding":
                place = P - P.mean(0)
                positions[i, 2] = _unit(place @ place.T)
            case _:
                pass
    neurons = v.E.new_zeros(len(nodes), min(NEURONS, max(v.config.d_mlp, 1)), len(NEURON_CHANNELS))
    for i in of["mlp"]:
        some = _sample(v.config.d_mlp, NEURONS)
        columns = neuron_columns(v, nodes[i].layer)
        neurons[i] = torch.stack([columns[name][some] for name in NEURON_CHANNELS], dim=-1)
    return Matrices(
        tokens=_unit(tokens)[..., token, :][..., token].float(),
        positions=positions.float(),
        crossed=_unit(crossed)[..., token, :].float(),
        followed=_followed(v, nodes).float(),
        neurons=neurons.float(),
    )


def _sample(n: int, most: int) -> Tensor:
    """Indices of at most `most` of n, evenly spread, the first among them."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()


def _unit(x: Float[Tensor, "*rest row column"]) -> Float[Tensor, "*rest row column"]:
    """Scaled to unit mean square: how large a circuit is, a feature of its own says."""
    return x / x.pow(2).mean((-1, -2), keepdim=True).sqrt().clamp_min(1e-9)


def _attention(
    scores: Float[Tensor, "layer head query key"], *, causal: bool
) -> Float[Tensor, "layer head channel query key"]:
    """Logits centred over the keys that a query sees, and their softmax; zero where it sees nothing."""
    n = scores.shape[-1]
    seen = torch.ones(n, n, dtype=torch.bool, device=scores.device)
    seen = seen.tril() if causal else seen
    mean = (scores * seen).sum(-1, keepdim=True) / seen.sum(-1)[:, None]
    soft = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.stack([(scores - mean) * seen, soft], dim=2)


def _followed(v: View, nodes: tuple[Component, ...]) -> Float[Tensor, "virtual through answer answer"]:
    """Each pair's virtual circuits: tokens through the source into the reader's query, key or value."""
    edges = component_edges(v.config)
    pairs = sorted(set(zip(edges.source_node, edges.destination_node, strict=True)))
    some = _sample(len(v.tokens), FOLLOWED)
    E, U = v.E[some], v.U[:, some]
    moved = [_moved(v, node, E) for node in nodes]
    found = E.new_zeros(len(pairs), len(FOLLOWED_CHANNELS), len(some), len(some))
    sources: dict[int, list[tuple[int, int]]] = {}
    for row, (source, reader) in enumerate(pairs):
        sources.setdefault(reader, []).append((row, source))
    for reader, own in sources.items():
        node = nodes[reader]
        rows, x = [row for row, _ in own], torch.stack([moved[source] for _, source in own])
        match node.kind:
            case "head":
                Q, K, V, W_O = (w[node.layer, node.head] for w in (v.W_Q, v.W_K, v.W_V, v.W_O))
                found[rows, 0] = (x @ Q) @ (E @ K).T
                found[rows, 1] = (E @ Q) @ (x @ K).transpose(-1, -2)
                found[rows, 2] = x @ V @ (W_O @ U)
            case "mlp":
                W_in = v.subject.weights[f"blocks.{node.layer}.mlp.W_in"].to(E)
                found[rows, 2] = (x @ W_in) @ (E @ W_in).T
            case _:
                found[rows, 2] = x @ U
    return _unit(double_centred(found))


def _moved(v: View, node: Component, E: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """What a component writes when it moves each token, as later layers would read it alone."""
    match node.kind:
        case "token_embedding":
            return E
        case "head":
            return normalised(E @ v.W_V[node.layer, node.head] @ v.W_O[node.layer, node.head], v.config)
        case "mlp":
            return normalised(v.mlp(node.layer, E), v.config)
        case _:
            return torch.zeros_like(E)
