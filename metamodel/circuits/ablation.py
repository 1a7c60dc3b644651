"""What the answer loses when a component says the same on every prompt.

Unlike an edge's patch, an ablation reaches every reader of the component, and unlike zero ablation its effect
is gauge-invariant on raw weights: a constant moved between components is in both the output and its mean.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.base_run import base_run
from metamodel.circuits.metrics import kl, margin
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.subject import Subject


@torch.no_grad()
def ablation_effects(
    subject: Subject, prompts: Prompts
) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
    """Margin and KL effects of mean-ablating each component, averaged over prompts.

    A component's output at each position is replaced by its mean over clean prompts at that position. Returns
    margin(ablated) - margin(clean), negative for a component that helps, and KL(clean ‖ ablated) in nats.
    Both are 0 for the unembedding, and for position embeddings, which say the same on every prompt.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    clean = base_run(subject, prompts, "mean")
    suffix, config, delta = clean.suffix, subject.config, clean.delta
    made, first = [suffix.logits_after(-1, clean.taps["blocks.0.hook_resid_pre"] + delta[:2])], 2
    for layer in range(config.n_layers):
        heads = delta[first : first + config.n_heads]
        first += config.n_heads
        mid, last = clean.taps[f"blocks.{layer}.hook_resid_mid"], suffix.is_last(layer)
        if last:
            mid, heads = suffix.at_answer(mid), suffix.at_answer(heads)
        resid = mid + heads
        if config.has_mlp:
            resid = resid + suffix.mlp(layer, resid, at_answer=last)
        made.append(suffix.unembed(resid) if last else suffix.logits_after(layer, resid))
        if config.has_mlp:
            post = clean.taps[f"blocks.{layer}.hook_resid_post"]
            made.append(suffix.logits_after(layer, post + delta[first : first + 1]))
            first += 1
    made.append(clean.logits.unsqueeze(0))
    logits = torch.cat(made)
    effect = margin(logits, prompts.answer) - margin(clean.logits, prompts.answer)
    divergence = kl(clean.logits, logits)
    divergence[-1] = 0.0
    return effect.mean(1), divergence.mean(1)
