"""Gates of heads and neurons: how far each goes on writing, from what its output does to what is known.

The evidence is basis-free: how the loss of every pair and every input to keep would change with the output of
a head, or of a neuron, scaled (the gradient of its gate). A network that is shared by all units, and sees the
mean of all beside each, turns it into gates from 0 to 2; before training all of them are 1. A gate scales the
unit's rows of `W_O` or `W_out`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.config.edits import KEEP, PAIR
from metamodel.features.observed import Observed, Told
from metamodel.networks.editing.answers import one_hot, over_vocabulary
from metamodel.subjects.forward import forward

N_EVIDENCE = 8
TINY = 1e-6


class Gates(nn.Module):
    """Gates of a subject's heads and neurons."""

    def __init__(self, width: int):
        super().__init__()
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.decide = nn.Sequential(nn.Linear(2 * N_EVIDENCE, width), nn.GELU(), last)

    def forward(self, told: Told, seen: Observed) -> dict[str, Tensor]:
        """The change of each writing matrix, in the form of `told`."""
        pulls = _pulls(told, seen)
        role = told.role[:, : told.n_known]
        removed = 1 - seen.wanted.square().sum(-1).sum(1) / (role == PAIR).sum(1).clamp_min(1)
        changes = {}
        for heads in (True, False):
            own = {name: pull for name, pull in pulls.items() if name.endswith("W_O") == heads}
            if not own:
                continue
            evidence = _evidence(list(own.values()), role, removed, heads, told.config.n_layers)
            mean = evidence.mean(1, keepdim=True).expand_as(evidence)
            gate = 2 * self.decide(torch.cat([evidence, mean], dim=2)).squeeze(-1).sigmoid()
            for name, one in zip(own, gate.chunk(len(own), dim=1), strict=True):
                weight = told.weights[name]
                changes[name] = (one - 1).view(*one.shape, *([1] * (weight.ndim - 2))) * weight
        return changes


def _pulls(told: Told, seen: Observed) -> dict[str, Float[Tensor, "subject known gate"]]:
    """By weight: gradient of each known example's loss with respect to each gate of that weight's units."""
    config, n = told.config, told.n_known
    wanted = torch.where((told.role == PAIR)[..., None], seen.wanted, one_hot(seen.old))
    wanted = over_vocabulary(told, wanted)[:, :n]
    places = {f"blocks.{layer}.attn.W_O": config.n_heads for layer in range(config.n_layers)}
    if config.has_mlp:
        places |= {f"blocks.{layer}.mlp.W_out": config.d_mlp for layer in range(config.n_layers)}
    with torch.enable_grad():
        gates = {
            name: wanted.new_ones(len(wanted), n, 1, size, requires_grad=True)
            for name, size in places.items()
        }
        replaced = {_site(name): _scaled(gate, name) for name, gate in gates.items()}
        logits = forward(told.weights, config, told.tokens[:, :n], replace=replaced).logits
        index = told.position[:, :n, None, None].expand(-1, -1, 1, logits.shape[3])
        after = logits.gather(2, index).squeeze(2).log_softmax(-1)
        loss = -(wanted * after).sum()
        found = torch.autograd.grad(loss, list(gates.values()))
    return {name: pull.squeeze(2).detach() for name, pull in zip(gates, found, strict=True)}


def _site(name: str) -> str:
    return name.replace("W_O", "hook_z").replace("W_out", "hook_post")


def _scaled(gate: Tensor, name: str):
    return (lambda x: x * gate[..., None]) if name.endswith("W_O") else (lambda x: x * gate)


def _evidence(
    pulls: list[Float[Tensor, "subject known gate"]],
    role: Tensor,
    removed: Float[Tensor, " subject"],
    heads: bool,
    n_layers: int,
) -> Float[Tensor, "subject unit evidence"]:
    """Mean and spread of the pulls of pairs and of inputs to keep, relative to those of all units."""
    whole = torch.cat(pulls, dim=2)
    known: Bool[Tensor, "subject known"] = (role == PAIR) | (role == KEEP)
    among = known[..., None].to(whole.dtype)
    typical = (
        (whole * among).square().sum((1, 2)) / (among.sum((1, 2)) * whole.shape[2]).clamp_min(1)
    ).sqrt()
    whole = whole / typical.clamp_min(TINY)[:, None, None]
    parts = []
    for one in (PAIR, KEEP):
        weight = (role == one)[..., None].to(whole.dtype)
        n = weight.sum(1).clamp_min(1)
        parts += [(whole * weight).sum(1) / n, ((whole.square() * weight).sum(1) / n + TINY).sqrt()]
    like = torch.ones_like(parts[0])
    depth = torch.cat([torch.full_like(x[:, 0], (i + 1) / n_layers) for i, x in enumerate(pulls)], dim=1)
    n_pairs = (role == PAIR).sum(1).to(whole.dtype).log1p()
    parts += [like * removed[:, None], like * n_pairs[:, None], depth, like * heads]
    return torch.stack([part.clamp(-10, 10) for part in parts], dim=2)
