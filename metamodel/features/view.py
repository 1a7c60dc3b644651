"""The view of a subject from which every feature is computed: its canonical form on a sample of tokens.

Nothing here, but through products in which the residual stream is contracted at both ends, may become a
feature. Under LayerNorm tokens enter as `LN(W_E + mean W_pos)`, since `E·QK·Eᵀ` would otherwise scale with
the residual stream; positions are divided by the same typical scale.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import activation
from metamodel.subjects.subject import Subject

MAX_TOKENS = 64
"""Tokens in the sample: the whole vocabulary of the subjects of a zoo."""
MAX_POSITIONS = 24
LARGE_VOCABULARY = 1024
"""Vocabulary from which a subject with LayerNorm is cut to the sample before anything else is computed."""
DOUBLE_UP_TO = 8_000_000
"""Parameters up to which everything is computed in float64."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """Prompts that show what a behavior is about. Which answer is right is not told."""

    tokens: Int[Tensor, "shown pos"]
    position: Int[Tensor, " shown"]
    """Where each of them asks for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """Embeddings and matrices of one subject as its layers read them."""

    config: SubjectConfig
    subject: Subject
    """In canonical form; of a large vocabulary, the sample alone."""
    tokens: Int[Tensor, " token"]
    """The sample, as tokens of `subject`."""
    E: Float[Tensor, "token d_model"]
    P: Float[Tensor, "pos d_model"]
    U: Float[Tensor, "d_model token"]
    """Unembedding of the sample, centred over it."""
    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer head d_model d_head"]
    W_V: Float[Tensor, "layer head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    b_Q: Float[Tensor, "layer head d_head"]
    shown: Shown | None
    """Prompts of the behavior that is asked about, as tokens of `subject`."""

    def mlp(self, layer: int, read: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """What the MLP of a layer writes when it reads `read`, already normalised."""
        weights, block = self.subject.weights, f"blocks.{layer}.mlp"
        pre = read @ weights[f"{block}.W_in"].to(read) + weights[f"{block}.b_in"].to(read)
        return activation(pre, self.config.act_fn) @ weights[f"{block}.W_out"].to(read)

    def embed(self, tokens: Int[Tensor, "*rest"]) -> Float[Tensor, "*rest d_model"]:
        """Tokens as layers read them."""
        return normalised(self.subject.weights["embed.W_E"][tokens].to(self.E), self.config)


def normalised(x: Tensor, config: SubjectConfig) -> Tensor:
    """LayerNorm without gain and bias, or `x` where the subject has none."""
    if not config.has_norm:
        return x
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=config.eps)


def view(subject: Subject, *, seed: int = 0, shown: Shown | None = None) -> View:
    """The canonical form of a subject, on tokens drawn with `seed`, and on prompts that are shown.

    Raises: InputError for prompts that do not fit the subject.
    """
    config = subject.config
    if shown is not None:
        _check_fit(shown, config, subject.name)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(config.d_vocab - 1, generator=generator)[: MAX_TOKENS - 1] + 1
    # token 0 starts half of the probes
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), drawn.sort().values])
    tokens = tokens.to(subject.weights["embed.W_E"].device)
    if config.has_norm and config.d_vocab > LARGE_VOCABULARY:
        kept = tokens if shown is None else torch.cat([tokens, shown.tokens.flatten()]).unique()
        subject = _only(subject, kept)
        config, tokens = subject.config, torch.searchsorted(kept, tokens)
        if shown is not None:
            shown = replace(shown, tokens=torch.searchsorted(kept, shown.tokens))
    size = sum(value.numel() for value in subject.weights.values())
    form = canonical(subject.double() if size <= DOUBLE_UP_TO else subject)
    weights = form.weights
    W_E = weights["embed.W_E"]
    P = weights["pos_embed.W_pos"][:MAX_POSITIONS]
    if config.has_norm:
        P = P / (W_E[tokens].var(-1, correction=0).mean() + config.eps).sqrt()
    U = weights["unembed.W_U"][:, tokens]
    stacked = {
        name: torch.stack([weights[f"blocks.{layer}.attn.{name}"] for layer in range(config.n_layers)])
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q")
    }
    return View(
        config=config,
        subject=form,
        tokens=tokens,
        E=normalised(W_E[tokens], config),
        P=P,
        U=U - U.mean(1, keepdim=True),
        shown=shown,
        **stacked,
    )


def _check_fit(shown: Shown, config: SubjectConfig, name: str) -> None:
    """Raises: InputError for tokens that the subject lacks, prompts too long, or positions outside them."""
    n_pos = shown.tokens.shape[1]
    require(
        0 < n_pos <= config.n_ctx,
        f"{name}: prompts",
        expected=f"1 to {config.n_ctx} tokens",
        got=n_pos,
        do="Shorten them.",
    )
    for where, values, bound in (
        ("tokens", shown.tokens, config.d_vocab),
        ("position", shown.position, n_pos),
    ):
        low, high = int(values.min()), int(values.max())
        require(
            low >= 0 and high < bound,
            f"{name}: prompts: {where}",
            expected=f"0 to {bound - 1}",
            got=low if low < 0 else high,
            do="Tokenise the prompts for this subject.",
        )


def _only(subject: Subject, tokens: Int[Tensor, " token"]) -> Subject:
    """The subject on a few tokens. Under LayerNorm folding treats each token alone, so the two commute."""
    weights = dict(subject.weights)
    weights["embed.W_E"] = weights["embed.W_E"][tokens]
    weights["unembed.W_U"] = weights["unembed.W_U"][:, tokens]
    weights["unembed.b_U"] = weights["unembed.b_U"][tokens]
    return subject.with_weights(weights, config=replace(subject.config, d_vocab=len(tokens)))


def double_centred(scores: Float[Tensor, "*rest row column"]) -> Float[Tensor, "*rest row column"]:
    """Row and column means taken away: what a softmax over keys and a shift of embeddings leave."""
    return (
        scores
        - scores.mean(-1, keepdim=True)
        - scores.mean(-2, keepdim=True)
        + scores.mean((-1, -2), keepdim=True)
    )


def log_size(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Log root mean square over `dims`, floored at e^-9."""
    return x.pow(2).mean(dims).sqrt().clamp_min(math.exp(-9.0)).log()


def diagonal_scores(scores: Float[Tensor, "*rest token same"]) -> Float[Tensor, "*rest token"]:
    """Diagonal entries of a double-centred square matrix, in standard deviations of the rest."""
    n = scores.shape[-1]
    diagonal = scores.diagonal(dim1=-2, dim2=-1)
    n_off = max(n * (n - 1), 1)
    off_mean = (scores.sum((-1, -2)) - diagonal.sum(-1)) / n_off
    off_square = (scores.pow(2).sum((-1, -2)) - diagonal.pow(2).sum(-1)) / n_off
    spread = (off_square - off_mean.pow(2)).clamp_min(1e-18).sqrt()
    return ((diagonal - off_mean[..., None]) / spread[..., None]).clamp(-30, 30)
