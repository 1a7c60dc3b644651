"""The rest of a forward, for many patched residual streams at once.

Patching an edge changes nothing before its destination, so only what comes after runs, on a batch of
`[patch, batch]`. Where each prompt asks one answer, only the query at its position matters in the last block;
with one query, its scores and its mixture are taken on the residual stream itself and projected afterwards,
which is d_head times cheaper than keys and values of all positions. Weights are `folded`: LayerNorm without
gain and bias, no key or value biases. LayerNorm divides by the patched stream's own scale, or, where `scales`
are given, by the one that it had before the patch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, activation
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suffix:
    """One folded subject, ready to run from any block on. Methods take `[patch, batch, ...]`."""

    config: SubjectConfig
    weights: Weights
    row: Int[Tensor, " ask"]
    position: Int[Tensor, " ask"]
    """Prompt and position of each answer."""
    everywhere: bool
    """Whether answers are asked at any number of positions of a prompt, so that the last block runs whole."""
    visible: Bool[Tensor, "pos pos"]
    """Which keys (last axis) a query may attend to."""
    scales: Mapping[str, Float[Tensor, "batch pos one"]] | None = None
    """Name of each LayerNorm -> what it divides by, if that is frozen."""

    @classmethod
    def of(cls, subject: Subject, prompts: Prompts) -> "Suffix":
        """`subject` is folded already."""
        n_pos, asked = prompts.clean.shape[-1], prompts.asked
        visible = torch.ones(n_pos, n_pos, dtype=torch.bool, device=prompts.clean.device)
        if subject.config.attention_dir == "causal":
            visible = visible.tril()
        return cls(
            config=subject.config,
            weights=subject.weights,
            row=asked.row,
            position=asked.position,
            everywhere=prompts.targets is not None,
            visible=visible,
        )

    def frozen(self, taps: Mapping[str, Float[Tensor, "batch pos d_model"]]) -> "Suffix":
        """The same with the scales of a run, whose residual streams `taps` holds."""
        c = self.config
        if not c.has_norm:
            return self
        streams = {"ln_final": taps[f"blocks.{c.n_layers - 1}.hook_resid_post"]}
        for layer in range(c.n_layers):
            streams[f"blocks.{layer}.ln1"] = taps[f"blocks.{layer}.hook_resid_pre"]
            streams[f"blocks.{layer}.ln2"] = taps[f"blocks.{layer}.hook_resid_mid"]
        scales = {name: (x.var(-1, correction=0, keepdim=True) + c.eps).sqrt() for name, x in streams.items()}
        return replace(self, scales=scales)

    def is_last(self, layer: int) -> bool:
        """Whether only answer positions matter behind this block's attention."""
        return layer == self.config.n_layers - 1 and not self.everywhere

    def at_answer(self, x: Float[Tensor, "*patch batch pos column"]) -> Float[Tensor, "*patch ask column"]:
        """The rows where answers are asked."""
        return x[..., self.row, self.position, :]

    def norm(
        self, x: Float[Tensor, "*rest d_model"], name: str, *, at_answer: bool = False
    ) -> Float[Tensor, "*rest d_model"]:
        """The input of the LayerNorm `name`, normalised. A frozen one is not centred: folded readers are."""
        if not self.config.has_norm:
            return x
        if self.scales is None:
            return F.layer_norm(x, x.shape[-1:], eps=self.config.eps)
        scale = self.scales[name]
        return x / (self.at_answer(scale) if at_answer else scale)

    def norm_pullback(
        self,
        x: Float[Tensor, "*rest d_model"],
        gradient: Float[Tensor, "*more d_model"],
        name: str,
        *,
        at_answer: bool = False,
    ) -> Float[Tensor, "*more d_model"]:
        """A gradient at what the LayerNorm `name` gives for `x`, as a gradient at `x`."""
        if not self.config.has_norm:
            return gradient
        if self.scales is not None:
            scale = self.scales[name]
            return gradient / (self.at_answer(scale) if at_answer else scale)
        scale = (x.var(-1, correction=0, keepdim=True) + self.config.eps).sqrt()
        normed = (x - x.mean(-1, keepdim=True)) / scale
        along = (gradient * normed).mean(-1, keepdim=True)
        return (gradient - gradient.mean(-1, keepdim=True) - normed * along) / scale

    def mlp(
        self, layer: int, resid: Float[Tensor, "*rest d_model"], *, at_answer: bool = False
    ) -> Float[Tensor, "*rest d_model"]:
        """What the MLP writes when it reads `resid`, at all positions or where answers are asked."""
        name = f"blocks.{layer}.mlp"
        normed = self.norm(resid, f"blocks.{layer}.ln2", at_answer=at_answer)
        flat = normed.reshape(-1, self.config.d_model)
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
        *,
        visible: Bool[Tensor, "*mask query key"] | None = None,
    ) -> Float[Tensor, "*all query key"]:
        """Attention patterns of full sequences, or of the queries for which `visible` is given."""
        visible = self.visible if visible is None else visible
        scores = (q / math.sqrt(self.config.d_head)) @ k.transpose(-1, -2)
        return scores.masked_fill(~visible, -torch.inf).softmax(-1)

    def seen_from_answer(self) -> Bool[Tensor, "ask key"]:
        """Which keys the query at each answer's position may attend to."""
        return self.visible[self.position]

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
        hidden = ~self.seen_from_answer().unsqueeze(1)  # one answer a prompt: asks are prompts here
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
        name, normed = f"blocks.{layer}.attn", self.norm(resid, f"blocks.{layer}.ln1")
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
        normed = self.norm(resid, f"blocks.{layer}.ln1")
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
        return resid + self.mlp(layer, resid, at_answer=True) if self.config.has_mlp else resid

    def logits_after(
        self, layer: int, resid: Float[Tensor, "*patch batch pos d_model"]
    ) -> Float[Tensor, "*patch ask d_vocab"]:
        """Answer logits from the residual stream after block `layer`, -1 for the embeddings.

        After the last block where one answer a prompt is asked, `unembed` takes it at the answer.
        """
        for later in range(layer + 1, self.config.n_layers):
            if self.is_last(later):
                return self.unembed(self.last_block(later, resid))
            resid = self.block(later, resid)
        return self.unembed(self.at_answer(resid))

    def unembed(self, resid: Float[Tensor, "*patch ask d_model"]) -> Float[Tensor, "*patch ask d_vocab"]:
        """Logits of the residual stream after the last block, where answers are asked."""
        flat = self.norm(resid, "ln_final", at_answer=True).reshape(-1, self.config.d_model)
        logits = torch.addmm(self.weights["unembed.b_U"], flat, self.weights["unembed.W_U"])
        return logits.view(*resid.shape[:-1], self.config.d_vocab)
