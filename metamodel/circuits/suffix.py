"""The rest of a forward, for many patched residual streams at once, when one position's answer is asked for.

Patching an edge changes nothing before its destination, so only what comes after runs, on a batch of
`[patch, batch]`. In the last block only the query at the answer's position matters; with one query, its
scores and its mixture are taken on the residual stream itself and projected afterwards, which is d_head
times cheaper than keys and values of all positions. Weights are `folded`: LayerNorm without gain and bias,
no key or value biases.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, activation
from metamodel.subjects.subject import Subject


def check_prompts(subject: Subject, prompts: Prompts) -> None:
    """Raises: InputError unless these prompts fit the subject."""
    config, (n_prompts, n_pos) = subject.config, prompts.clean.shape
    require(
        n_prompts > 0, "prompts", expected="at least one prompt", got=n_prompts, do="Sample more prompts."
    )
    require(
        n_pos <= config.n_ctx,
        "prompts",
        expected=f"at most {config.n_ctx} positions, those {subject.name} embeds",
        got=n_pos,
        do="Shorten the prompts.",
    )
    for name in ("clean", "corrupt", "answer", "corrupt_answer"):
        check_tokens(config, getattr(prompts, name), where=f"prompts.{name}", who=subject.name)
    require(
        bool(((prompts.position >= 0) & (prompts.position < n_pos)).all()),
        "prompts.position",
        expected=f"positions from 0 to {n_pos - 1}",
        got=f"{int(prompts.position.min())} to {int(prompts.position.max())}",
        do="Read the answer inside the prompt.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suffix:
    """One folded subject, ready to run from any block on. Methods take `[patch, batch, ...]`."""

    config: SubjectConfig
    weights: Weights
    position: Int[Tensor, " batch"]
    """Where the answer is read."""
    visible: Bool[Tensor, "pos pos"]
    """Which keys (last axis) a query may attend to."""

    @classmethod
    def of(cls, subject: Subject, prompts: Prompts) -> "Suffix":
        """`subject` is folded already."""
        n_pos = prompts.clean.shape[-1]
        visible = torch.ones(n_pos, n_pos, dtype=torch.bool, device=prompts.clean.device)
        if subject.config.attention_dir == "causal":
            visible = visible.tril()
        return cls(config=subject.config, weights=subject.weights, position=prompts.position, visible=visible)

    def is_last(self, layer: int) -> bool:
        return layer == self.config.n_layers - 1

    def at_answer(self, x: Float[Tensor, "*patch batch pos column"]) -> Float[Tensor, "*patch batch column"]:
        """The row of each prompt's answer position."""
        rows = torch.arange(len(self.position), device=x.device)
        return x[..., rows, self.position, :]

    def norm(self, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        return F.layer_norm(x, x.shape[-1:], eps=self.config.eps) if self.config.has_norm else x

    def mlp(self, layer: int, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """What the MLP writes when it reads `resid`."""
        name = f"blocks.{layer}.mlp"
        flat = self.norm(resid).reshape(-1, self.config.d_model)
        pre = torch.addmm(self.weights[f"{name}.b_in"], flat, self.weights[f"{name}.W_in"])
        # The array is ours alone, and passing over it once less is much of the time.
        post = pre.relu_() if self.config.act_fn == "relu" else activation(pre, self.config.act_fn)
        out = torch.addmm(self.weights[f"{name}.b_out"], post, self.weights[f"{name}.W_out"])
        return out.view(resid.shape)

    def project(
        self, layer: int, which: str, normed: Float[Tensor, "*rest pos d_model"]
    ) -> Float[Tensor, "*rest head pos d_head"]:
        """Queries, keys or values (`which` is Q, K or V) of all heads."""
        name = f"blocks.{layer}.attn"
        flat = normed.reshape(-1, self.config.d_model)
        w, b = self.weights[f"{name}.W_{which}"], self.weights[f"{name}.b_{which}"]
        made = torch.addmm(b.flatten(), flat, w.transpose(0, 1).flatten(1))
        heads = (self.config.n_heads, self.config.d_head)
        return made.view(*normed.shape[:-1], *heads).transpose(-2, -3)

    def attend(
        self,
        q: Float[Tensor, "*rest query d_head"],
        k: Float[Tensor, "*more key d_head"],
    ) -> Float[Tensor, "*all query key"]:
        """Attention patterns of full sequences."""
        scores = (q / math.sqrt(self.config.d_head)) @ k.transpose(-1, -2)
        return scores.masked_fill(~self.visible, -torch.inf).softmax(-1)

    def answer_query(
        self, layer: int, normed: Float[Tensor, "*patch batch d_model"]
    ) -> Float[Tensor, "*patch batch head d_model"]:
        """Queries at the answer position, as vectors that are dotted with the normed residual stream."""
        name, c = f"blocks.{layer}.attn", self.config
        flat = normed.reshape(-1, c.d_model)
        w_q = self.weights[f"{name}.W_Q"].transpose(0, 1).flatten(1)
        q = torch.addmm(self.weights[f"{name}.b_Q"].flatten(), flat, w_q).view(-1, c.n_heads, c.d_head)
        q = q.transpose(0, 1) / math.sqrt(c.d_head)
        probe = torch.bmm(q, self.weights[f"{name}.W_K"].transpose(1, 2)).transpose(0, 1)
        return probe.reshape(*normed.shape[:-1], c.n_heads, c.d_model)

    def answer_pattern(
        self,
        probe: Float[Tensor, "*patch batch head d_model"],
        normed: Float[Tensor, "*more batch pos d_model"],
    ) -> Float[Tensor, "*all batch head pos"]:
        """Attention of the answer position over the sequence that `normed` holds."""
        scores = probe @ normed.transpose(-1, -2)
        hidden = ~self.visible[self.position].unsqueeze(1)
        return scores.masked_fill_(hidden, -torch.inf).softmax(-1)

    def write(
        self, layer: int, mixture: Float[Tensor, "*patch batch head d_model"]
    ) -> Float[Tensor, "*patch batch head d_head"]:
        """`z` of each head, from its mixture of the normed residual stream."""
        flat = mixture.reshape(-1, self.config.n_heads, self.config.d_model).transpose(0, 1)
        z = torch.bmm(flat, self.weights[f"blocks.{layer}.attn.W_V"]).transpose(0, 1)
        return z.reshape(*mixture.shape[:-1], self.config.d_head)

    def block(
        self, layer: int, resid: Float[Tensor, "patch batch pos d_model"]
    ) -> Float[Tensor, "patch batch pos d_model"]:
        """The residual stream after a whole block."""
        name, normed = f"blocks.{layer}.attn", self.norm(resid)
        q, k, v = (self.project(layer, x, normed) for x in "QKV")
        z = (self.attend(q, k) @ v).transpose(-2, -3).flatten(-2)
        w_o = self.weights[f"{name}.W_O"].flatten(0, 1)
        out = torch.addmm(self.weights[f"{name}.b_O"], z.reshape(-1, z.shape[-1]), w_o)
        resid = resid + out.view(resid.shape)
        return resid + self.mlp(layer, resid) if self.config.has_mlp else resid

    def last_block(
        self, layer: int, resid: Float[Tensor, "patch batch pos d_model"]
    ) -> Float[Tensor, "patch batch d_model"]:
        """The residual stream after the last block, at the answer position."""
        normed = self.norm(resid)
        probe = self.answer_query(layer, self.at_answer(normed))
        z = self.write(layer, self.answer_pattern(probe, normed) @ normed)
        return self.last_mid(layer, self.at_answer(resid), z)

    def last_mid(
        self,
        layer: int,
        resid: Float[Tensor, "*patch batch d_model"],
        z: Float[Tensor, "*patch batch head d_head"],
    ) -> Float[Tensor, "*patch batch d_model"]:
        """The last block's end at the answer position, from its start and `z` of all heads."""
        name = f"blocks.{layer}.attn"
        flat = z.reshape(-1, self.config.n_heads * self.config.d_head)
        out = torch.addmm(self.weights[f"{name}.b_O"], flat, self.weights[f"{name}.W_O"].flatten(0, 1))
        resid = resid + out.view(resid.shape)
        return resid + self.mlp(layer, resid) if self.config.has_mlp else resid

    def logits_after(
        self, layer: int, resid: Float[Tensor, "patch batch pos d_model"]
    ) -> Float[Tensor, "patch batch d_vocab"]:
        """Answer logits from the residual stream after block `layer`, which is not the last."""
        for later in range(layer + 1, self.config.n_layers - 1):
            resid = self.block(later, resid)
        return self.unembed(self.last_block(self.config.n_layers - 1, resid))

    def unembed(self, resid: Float[Tensor, "*patch d_model"]) -> Float[Tensor, "*patch d_vocab"]:
        flat = self.norm(resid).reshape(-1, self.config.d_model)
        logits = torch.addmm(self.weights["unembed.b_U"], flat, self.weights["unembed.W_U"])
        return logits.view(*resid.shape[:-1], self.config.d_vocab)
