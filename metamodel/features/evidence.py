"""Evidence for the behavior readout: what each component would say of each answer on a probe prompt.

A component's token-by-token circuit (`E·OV·U` for a head, the MLP on single tokens, `E·U` for the direct
path) is looked up at the tokens of the prompt. So private tables, such as a subject's facts, are read from
weights, and a reader only has to judge which component counts where. On the track `activations` the channels
that need weights are zero: running the subject on the probe would be its answer itself.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.words import Track
from metamodel.features.view import View, normalised
from metamodel.subjects.config import components

CHANNELS = (
    "at_last",
    "at_previous",
    "mean",
    "maximum",
    "after_previous_occurrence",
    "where_it_attends",
    "answer_follows_previous_occurrence",
    "answer_in_prompt",
    "answer_in_prompt_once",
    "answer_is_last",
)
"""The first six look up a component's own circuit, the others describe prompt and answer only."""
FROM_WEIGHTS = 6


@torch.no_grad()
def evidence(
    v: View, probe_tokens: Int[Tensor, "probe pos"], probe_position: Int[Tensor, " probe"], track: Track
) -> Float[Tensor, "probe node d_vocab channel"]:
    """Evidence for every token as the answer after `probe_position`; circuits scaled to unit spread."""
    config = v.config

    nodes = components(config)
    n_probe, n_pos = probe_tokens.shape
    at = torch.arange(n_pos, device=probe_tokens.device)
    prompt = _Prompt(probe_tokens, probe_position, at)
    found = v.E.new_zeros(n_probe, len(nodes), config.d_vocab, len(CHANNELS))
    found[..., FROM_WEIGHTS:] = prompt.of_answers(config.d_vocab).to(v.E)[:, None]
    if track == "activations":
        return found.float()
    read = v.embed(probe_tokens)
    weights = v.subject.weights
    W_U = weights["unembed.W_U"].to(v.E)
    mean_read = v.E.mean(0)
    for i, node in enumerate(nodes):
        match node.kind:
            case "token_embedding":
                said = (read - mean_read) @ W_U
            case "head":
                W_V, W_O = v.W_V[node.layer, node.head], v.W_O[node.layer, node.head]
                said = (read - mean_read) @ W_V @ (W_O @ W_U)
            case "mlp":
                mean_written = v.mlp(node.layer, v.E).mean(0)
                said = (v.mlp(node.layer, read) - mean_written) @ W_U
            case "unembedding":
                said = weights["unembed.b_U"].to(v.E).expand(n_probe, n_pos, config.d_vocab)
            case _:
                continue
        said = _standardised(said)
        found[:, i, :, :FROM_WEIGHTS] = prompt.looked_up(said, _attention(v, i, read, prompt))
    return found.float()


def _standardised(said: Float[Tensor, "probe pos d_vocab"]) -> Float[Tensor, "probe pos d_vocab"]:
    """Centred over answers, with unit spread over answers, positions and probes together."""
    said = said - said.mean(-1, keepdim=True)
    return said / said.pow(2).mean().sqrt().clamp_min(1e-9)


class _Prompt:
    """The probe prompts, with what is looked up in them."""

    def __init__(self, tokens: Tensor, position: Tensor, at: Tensor):
        self.tokens, self.position = tokens, position
        self.each = torch.arange(tokens.shape[0], device=tokens.device)
        self.visible = at[None] <= position[:, None]
        last = tokens[self.each, position]
        same = (tokens == last[:, None]) & (at[None] < position[:, None])
        self.previous = torch.where(same, at[None], -1).amax(-1)
        self.after = (self.previous + 1).clamp_max(tokens.shape[1] - 1)
        self.last = last

    def of_answers(self, d_vocab: int) -> Float[Tensor, "probe d_vocab channel"]:
        """Channels that need nothing of the subject."""
        in_prompt = torch.nn.functional.one_hot(self.tokens, d_vocab) * self.visible[..., None]
        count = in_prompt.sum(1)
        follows = torch.nn.functional.one_hot(self.tokens[self.each, self.after], d_vocab)
        follows = follows * (self.previous >= 0)[:, None]
        is_last = torch.nn.functional.one_hot(self.last, d_vocab)
        return torch.stack([follows, (count > 0).long(), (count == 1).long(), is_last], dim=-1).float()

    def looked_up(
        self, said: Float[Tensor, "probe pos d_vocab"], attention: Float[Tensor, "probe pos"]
    ) -> Float[Tensor, "probe d_vocab channel"]:
        """Channels of one component's circuit, in the order of `CHANNELS`."""
        seen = self.visible[..., None]
        mean = (said * seen).sum(1) / seen.sum(1)
        highest = said.masked_fill(~seen, -math.inf).amax(1)
        after = said[self.each, self.after] * (self.previous >= 0)[:, None]
        attended = torch.einsum("bp,bpv->bv", attention, said)
        before = said[self.each, (self.position - 1).clamp_min(0)]
        return torch.stack([said[self.each, self.position], before, mean, highest, after, attended], dim=-1)


def _attention(
    v: View, node: int, read: Float[Tensor, "probe pos d_model"], prompt: _Prompt
) -> Float[Tensor, "probe pos"]:
    """Where a head would attend from the answer position if nothing had been written before it.

    Components that do not attend look at the answer position itself.
    """
    component = components(v.config)[node]
    itself = torch.nn.functional.one_hot(prompt.position, read.shape[1]).to(read)
    if component.kind != "head":
        return itself
    n_pos = read.shape[1]
    W_E, W_pos = v.subject.weights["embed.W_E"], v.subject.weights["pos_embed.W_pos"]
    whole = normalised((W_E[prompt.tokens] + W_pos[:n_pos]).to(read), v.config)
    layer, head = component.layer, component.head
    query = whole[prompt.each, prompt.position] @ v.W_Q[layer, head] + v.b_Q[layer, head]
    scores = torch.einsum("bd,bpd->bp", query, whole @ v.W_K[layer, head]) / math.sqrt(v.config.d_head)
    if v.config.attention_dir == "causal":
        scores = scores.masked_fill(~prompt.visible, -math.inf)
    return scores.softmax(-1)
