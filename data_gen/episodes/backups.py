"""Backup heads: how they come about, and how much of a behavior still hangs on a single head.

Where a step of training leaves a head out, others learn its part: to remove the best head alone then removes
nothing, and an edit that disables the behavior must find all that carry it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.domains.base import Domain
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward, logits_at
from metamodel.subjects.subject import Subject


def left_out(
    config: SubjectConfig, share: float, generators: Sequence[torch.Generator]
) -> dict[str, Float[Tensor, "subject head 1 1"]]:
    """Factors of what heads write, in one step: in a `share` of all layers one head of each is left out."""
    found = {}
    for layer in range(config.n_layers):
        kept = torch.ones(len(generators), config.n_heads)
        for i, generator in enumerate(generators):
            if float(torch.rand((), generator=generator)) < share:
                kept[i, int(torch.randint(config.n_heads, (), generator=generator))] = 0
        found[f"blocks.{layer}.attn.W_O"] = kept[:, :, None, None]
    return found


@torch.no_grad()
def lost_to_one_head(subject: Subject, domain: Domain, inside: Bool[Tensor, " input"]) -> float:
    """Largest share of the inputs `inside` that are answered wrongly once any single head is removed.

    A head is removed twice, by zeros and by the mean of what it writes on the domain.
    """
    config, weights = subject.config, subject.weights
    taps = [f"blocks.{layer}.attn.hook_z" for layer in range(config.n_layers)]
    written = forward(subject.stacked, config, domain.tokens, taps=taps).taps
    changed: list[dict[str, Tensor]] = []
    for layer, tap in enumerate(taps):
        block = f"blocks.{layer}.attn"
        write, bias = weights[f"{block}.W_O"], weights[f"{block}.b_O"]
        mean = written[tap][0].flatten(0, 1).mean(0)
        for head in range(config.n_heads):
            without = write.clone()
            without[head] = 0
            changed.append({f"{block}.W_O": without})
            changed.append({f"{block}.W_O": without, f"{block}.b_O": bias + mean[head] @ write[head]})
    stacked = {key: torch.stack([one.get(key, value) for one in changed]) for key, value in weights.items()}
    tokens = domain.tokens[inside]
    said = logits_at(stacked, config, tokens.expand(len(changed), -1, -1), _last(tokens, len(changed)))
    return float((said.argmax(-1) != domain.answer()[inside]).float().mean(1).max())


def _last(tokens: Int[Tensor, "input pos"], n: int) -> Int[Tensor, "subject input"]:
    """Flat positions of the last tokens, for each of `n` changed subjects."""
    n_inputs, n_pos = tokens.shape
    return (torch.arange(n_inputs) * n_pos + n_pos - 1).expand(n, -1)
