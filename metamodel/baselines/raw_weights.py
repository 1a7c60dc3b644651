"""The weights of a subject, layers stacked, for opponents that learn from them.

LayerNorm's biases and gains are folded into the readers that follow, as the forward applies them, and value
and key biases where they act: what is left are matrices and few biases. Nothing else is made canonical, so
that each opponent keeps the symmetries, and the lack of them, of its own paper.
"""

import torch
from torch import Tensor

from metamodel.features.examples import Seen
from metamodel.subjects.canonical import folded

_ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_O")
_MLP = ("W_in", "b_in", "W_out", "b_out")


def raw_weights(seen: Seen) -> dict[str, Tensor]:
    """`W_E`, `W_pos`, `W_U`, `b_U`, and with a leading `layer` axis `W_Q W_K W_V W_O b_Q b_O` and, where the
    subject has MLPs, `W_in b_in W_out b_out`; TransformerLens's shapes."""
    assert seen.baseline_inputs is not None, f"{seen.id}: examples for baselines carry baseline_inputs"
    weights, config = folded(seen.baseline_inputs.subject).weights, seen.config
    whole = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U", "unembed.b_U")
    found = {key.rpartition(".")[2]: weights[key] for key in whole}
    for part, names in (("attn", _ATTENTION), ("mlp", _MLP if config.has_mlp else ())):
        for name in names:
            layers = range(config.n_layers)
            found[name] = torch.stack([weights[f"blocks.{layer}.{part}.{name}"] for layer in layers])
    return {name: value.detach().float() for name, value in found.items()}
