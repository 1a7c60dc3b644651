"""Copy suppression, in vivo: heads that attend to what is about to be predicted and lower it.

Source: McDougall et al. 2023, "Copy suppression: comprehensively understanding an attention head". Weights
are in canonical form.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.answer import HeadScores, TaskRun, centred_unembedding, normed, token_columns
from data_gen.labels.entries import visible
from data_gen.labels.registry import STANDS_OUT
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights


def predicted_tokens(
    weights: Weights, config: SubjectConfig, run: TaskRun
) -> Bool[Tensor, "subject layer batch query key"]:
    """For each query, the keys that hold the token which the logit lens before the layer predicts.

    That is the highest among tokens that the query sees behind BOS, other than its own, if it stands out
    among all tokens; none where there is no such token.
    """
    unembed = centred_unembedding(weights)
    columns, bias = token_columns(unembed, run.tokens), weights["unembed.b_U"]
    bias = bias - bias.mean(1, keepdim=True)
    at_tokens = bias.gather(1, run.tokens.flatten(1)).view_as(run.tokens)
    # The variance over all tokens of x · u + b, without the logits of all of them.
    n = unembed.shape[-1]
    square, mixed = unembed @ unembed.transpose(1, 2) / n, (unembed @ bias.unsqueeze(-1)).squeeze(-1) / n
    found = []
    for layer in range(config.n_layers):
        x = normed(run.resid[:, layer], config)
        variance = torch.einsum("sbqm,smn,sbqn->sbq", x, square, x) + 2 * torch.einsum(
            "sbqm,sm->sbq", x, mixed
        )
        spread = (variance + bias.square().mean(1)[:, None, None]).clamp_min(1e-12).sqrt()
        lens = (x @ columns.transpose(-1, -2) + at_tokens.unsqueeze(-2)) / spread.unsqueeze(-1)
        found.append(predicted_keys(lens, run.tokens, config.attention_dir))
    return torch.stack(found, dim=1)


def predicted_keys(
    lens: Float[Tensor, "*subject batch query key"],
    tokens: Int[Tensor, "*subject batch pos"],
    attention_dir: str,
) -> Bool[Tensor, "*subject batch query key"]:
    """Keys that hold the predicted token, if any.

    Args:
        lens: of the tokens at the keys, above the average token, in standard deviations.
    """
    same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
    allowed = visible(tokens.shape[-1], attention_dir, tokens.device) & ~same
    allowed[..., 0] = False
    best = lens.masked_fill(~allowed, -torch.inf).max(-1)
    token = tokens.gather(-1, best.indices).unsqueeze(-1)
    return (tokens.unsqueeze(-2) == token) & allowed & (best.values >= STANDS_OUT).unsqueeze(-1)


def copy_suppression(weights: Weights, config: SubjectConfig, run: TaskRun) -> HeadScores:
    """Mean of -Σ_k A[q, k] v_k W_O W_U[token] over the keys of that token, in units of the logits' spread;
    the larger of all queries up to the answer position and of that one alone. 0 where nothing is predicted.
    """
    columns = token_columns(centred_unembedding(weights), run.tokens)
    predicted = predicted_tokens(weights, config, run)
    place = torch.arange(run.tokens.shape[-1], device=run.tokens.device)
    scores = []
    for layer in range(config.n_layers):
        wants = torch.einsum("sbkm,shdm->sbkhd", columns, weights[f"blocks.{layer}.attn.W_O"])
        own = (run.values[:, layer] * wants).sum(-1)
        chosen = predicted[:, layer]
        effect = torch.einsum("sbhqk,sbqk,sbkh->sbqh", run.pattern[:, layer], chosen.to(own), own)
        lowered = -effect / run.scale.unsqueeze(-1) / run.spread[:, None, None, None].clamp_min(1e-12)
        counts = (place <= run.position.unsqueeze(-1)) & (place > 0)
        at_answer = counts & (place == run.position.unsqueeze(-1))
        means = [
            (lowered * rows.unsqueeze(-1)).sum((1, 2)) / rows.sum((1, 2)).unsqueeze(-1)
            for rows in (counts, at_answer)
        ]
        scores.append(torch.fmax(*means))
    return torch.stack(scores, dim=1)
