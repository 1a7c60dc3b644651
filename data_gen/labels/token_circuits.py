"""Token-by-token OV circuits: whether heads write the token that they read, or the next one in an order."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.labels.answer import HeadScores, centred_unembedding, normed
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, activation


def _read_tokens(
    weights: Weights, config: SubjectConfig
) -> Iterator[Float[Tensor, "subject d_vocab d_model"]]:
    """What heads of each layer read at a token: LN(W_E + mean W_pos), with the first MLP's answer to it for
    heads behind that MLP. Centred over tokens; weights in canonical form."""
    embedded = weights["embed.W_E"] + weights["pos_embed.W_pos"].mean(1, keepdim=True)
    for layer in range(config.n_layers):
        if layer == 1 and config.has_mlp:
            mlp = "blocks.0.mlp"
            pre = normed(embedded, config) @ weights[f"{mlp}.W_in"] + weights[f"{mlp}.b_in"].unsqueeze(1)
            embedded = embedded + activation(pre, config.act_fn) @ weights[f"{mlp}.W_out"]
        read = normed(embedded, config)
        yield read - read.mean(1, keepdim=True)


def copying(weights: Weights, config: SubjectConfig) -> HeadScores:
    """Re Σλ / Σ|λ| of the OV circuit between tokens, E_eff W_V W_O U, both sides centred over tokens.

    The eigenvalues are those of the d_head x d_head product W_O U E_eff W_V (cyclic). Gains are folded and
    the rest cancels in the centring, so every gauge transformation leaves it as it is.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", copying heads.
    """
    unembed, scores = centred_unembedding(weights), []
    for layer, read in enumerate(_read_tokens(weights, config)):
        attn = f"blocks.{layer}.attn"
        into = torch.einsum("svm,shmd->shvd", read, weights[f"{attn}.W_V"])
        out = torch.einsum("shdm,smv->shdv", weights[f"{attn}.W_O"], unembed)
        values = torch.linalg.eigvals((out @ into).double())
        scores.append((values.real.sum(-1) / values.abs().sum(-1).clamp_min(1e-12)).to(read.dtype))
    return torch.stack(scores, dim=1)


def successor(weights: Weights, config: SubjectConfig, successors: tuple[tuple[int, int], ...]) -> HeadScores:
    """Share of pairs (t, next) for which row t of that circuit is largest, among ordered tokens, at next.

    NaN without an order. Source: Gould et al. 2023, "Successor heads".
    """
    unembed, scores = centred_unembedding(weights), []
    ordered = sorted({token for pair in successors for token in pair})
    place = {token: i for i, token in enumerate(ordered)}
    rows = torch.tensor([t for t, _ in successors], dtype=torch.long, device=unembed.device)
    following = torch.tensor([place[n] for _, n in successors], dtype=torch.long, device=unembed.device)
    columns = torch.tensor(ordered, dtype=torch.long, device=unembed.device)
    for layer, read in enumerate(_read_tokens(weights, config)):
        attn = f"blocks.{layer}.attn"
        if not successors:
            scores.append(read.new_full((read.shape[0], config.n_heads), torch.nan))
            continue
        into = torch.einsum("svm,shmd->shvd", read[:, rows], weights[f"{attn}.W_V"])
        out = torch.einsum("shdm,smv->shdv", weights[f"{attn}.W_O"], unembed[:, :, columns])
        scores.append(((into @ out).argmax(-1) == following).to(read.dtype).mean(-1))
    return torch.stack(scores, dim=1)
