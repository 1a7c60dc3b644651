"""A transformer written as a loop over destinations: what each reads is summed up source by source.

Slow and plain, the opposite of the engine: no batching of patches, no suffixes, no shared projections.
"""

import torch

from metamodel.circuits.graph import component_edges
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import activation
from metamodel.subjects.subject import Subject, initial_weights, unstack


def random_subject(seed: int, **shape) -> Subject:
    """Large random weights everywhere, biases and gains too, so that no path is negligible."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 3, "d_mlp": 12, "d_vocab": 9, "n_ctx": 7}
    config = SubjectConfig(**(sizes | shape))
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.5), 0)
    for key in weights:
        if key.rsplit(".", 1)[1][0] in "bw":
            weights[key] = weights[key] + 0.3 * torch.randn(weights[key].shape, generator=generator)
    return Subject(config=config, weights=weights)


def random_prompts(seed: int, config: SubjectConfig, *, n: int = 5, n_pos: int = 6) -> Prompts:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    answer = draw(config.d_vocab, n)
    return Prompts(
        clean=draw(config.d_vocab, n, n_pos),
        corrupt=draw(config.d_vocab, n, n_pos),
        position=draw(n_pos, n),
        answer=answer,
        corrupt_answer=(answer + 1 + draw(config.d_vocab - 1, n)) % config.d_vocab,
        slice=torch.zeros(n, dtype=torch.int64),
        slice_names=("all",),
    )


class SlowRun:
    """One run of a folded subject. `patched[edge index]` is what that edge carries in place of its source."""

    def __init__(self, subject: Subject, tokens, patched=None, scales=None):
        self.whole, self.config = folded(subject), subject.config
        self.patched, self.scales, self.own_scales = patched or {}, scales, {}
        self.index = {edge: i for i, edge in enumerate(component_edges(self.config).edges)}
        self.outputs, weights = {}, self.whole.weights
        nodes = components(self.config)
        self.outputs[nodes[0]] = weights["embed.W_E"][tokens]
        position = weights["pos_embed.W_pos"][: tokens.shape[1]]
        self.outputs[nodes[1]] = position.expand(len(tokens), -1, -1)
        self.constant = torch.zeros_like(self.outputs[nodes[0]])
        for layer in range(self.config.n_layers):
            heads = [node for node in nodes if node.kind == "head" and node.layer == layer]
            written = {head: self.attention(head) for head in heads}
            self.outputs |= written
            self.constant = self.constant + weights[f"blocks.{layer}.attn.b_O"]
            if self.config.has_mlp:
                self.outputs |= {n: self.mlp(n) for n in nodes if n.kind == "mlp" and n.layer == layer}
        final = self.read(nodes[-1], "logits", "ln_final")
        self.logits = final @ weights["unembed.W_U"] + weights["unembed.b_U"]

    def read(self, reader, channel, norm):
        """What a destination reads, normalised."""
        total = self.constant
        for edge, i in self.index.items():
            if edge.destination.component == reader and edge.destination.channel == channel:
                total = total + self.patched.get(i, self.outputs[edge.source])
        if not self.config.has_norm:
            return total
        centred = total - total.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.config.eps).sqrt()
        self.own_scales[reader, channel] = scale
        return centred / (scale if self.scales is None else self.scales[reader, channel])

    def attention(self, head):
        weights, attn = self.whole.weights, f"blocks.{head.layer}.attn"
        read = {x: self.read(head, x.lower(), "ln1") for x in "QKV"}
        q, k, v = (
            read[x] @ weights[f"{attn}.W_{x}"][head.head] + weights[f"{attn}.b_{x}"][head.head] for x in "QKV"
        )
        scores = q @ k.transpose(1, 2) / self.config.d_head**0.5
        if self.config.attention_dir == "causal":
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        return scores.softmax(-1) @ v @ weights[f"{attn}.W_O"][head.head]

    def mlp(self, node):
        weights, mlp = self.whole.weights, f"blocks.{node.layer}.mlp"
        pre = self.read(node, "in", "ln2") @ weights[f"{mlp}.W_in"] + weights[f"{mlp}.b_in"]
        return activation(pre, self.config.act_fn) @ weights[f"{mlp}.W_out"] + weights[f"{mlp}.b_out"]


def slow_patches(subject: Subject, prompts: Prompts, intervention: str):
    """The run that is patched, and what each source would write when patched."""
    clean, corrupt = SlowRun(subject, prompts.clean), SlowRun(subject, prompts.corrupt)
    match intervention:
        case "noising":
            return clean, prompts.clean, corrupt.outputs
        case "denoising":
            return corrupt, prompts.corrupt, clean.outputs
        case "zero":
            return clean, prompts.clean, {n: torch.zeros_like(x) for n, x in clean.outputs.items()}
        case "mean":
            means = {n: x.mean(0, keepdim=True).expand_as(x) for n, x in clean.outputs.items()}
            return clean, prompts.clean, means
    raise AssertionError(intervention)
