"""Many neurons of which a few matter, the others of the same norm writing where nothing reads, but for weak
effects.

As real subjects (`haystack`) and as bare functions of sets (`set_function`), which cost next to nothing.
"""

import random
from dataclasses import replace
from typing import Literal

import torch
from planted_sets import N_NOISE, Build, Planted
from set_formulas import backed, both, either
from torch import Tensor

from metamodel.circuits.sets import SetOracle

N_DEAD, N_CLUSTERS, WEAK = 8, 16, 0.002
"""Directions that nothing reads, directions that the neurons read, and the size of what each writes into all
directions besides: a margin is 2 wide."""

Haystack = Literal["and", "sum", "pair", "backup"]


def haystack(kind: Haystack, rng: random.Random, *, n: int = 256) -> Planted:
    """Neurons that matter among `n` in all: each of 4 (`and`, `sum`), beside a pair of which one is enough.

    The pair reads the same in one MLP (`pair`), or its second neuron sits in the next MLP and fires only
    where the first does not (`backup`; each of both MLPs has n / 2 neurons). Neurons of a cluster read the
    same direction; those that matter share theirs with a sixteenth of the rest.
    """
    match kind:
        case "and" | "sum":
            formula = both(*"abcd")
        case "pair":
            formula = both(*"abcd", either("p", "q"))
        case "backup":
            formula = both(*"abcd", backed("p", "q"))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    build = Build(kind="neuron", generator=generator)
    dead = [build.new() for _ in range(N_DEAD)]
    root, _ = build.value(formula)
    layers = range(2 if kind == "backup" else 1)
    planted = build.planted(formula, root, width=n // len(layers))
    weights, component = dict(planted.subject.weights), dict(planted.component)
    if kind == "sum":
        _summed(weights, [component[name] for name in "abcd"], root)
    for layer in layers:
        names = {label: name for name, label in component.items() if label.startswith(f"MLP{layer}.")}
        _hide(weights, layer, len(names), dead, generator)
        moved = list(range(n // len(layers)))
        rng.shuffle(moved)
        for label, name in names.items():
            component[name] = f"MLP{layer}.{moved.index(int(label.split('.')[1]))}"
        mlp = f"blocks.{layer}.mlp"
        weights[f"{mlp}.W_in"] = weights[f"{mlp}.W_in"][:, moved]
        weights[f"{mlp}.b_in"] = weights[f"{mlp}.b_in"][moved]
        weights[f"{mlp}.W_out"] = weights[f"{mlp}.W_out"][moved]
    return replace(planted, subject=planted.subject.with_weights(weights), component=component)


def _summed(weights: dict[str, Tensor], labels: list[str], root: int) -> None:
    """Each of some neurons of the first MLP writes its share of the answer itself; gates are silent."""
    for layer in range(1, 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))):
        weights[f"blocks.{layer}.mlp.W_out"].zero_()
    for label in labels:
        row = weights["blocks.0.mlp.W_out"][int(label.split(".")[1])]
        row.zero_()
        row[root] = 1.0 / len(labels)


def _hide(
    weights: dict[str, Tensor], layer: int, n: int, dead: list[int], generator: torch.Generator
) -> None:
    """Fills an MLP behind its first `n` neurons."""
    mlp = f"blocks.{layer}.mlp"
    w_in, w_out = weights[f"{mlp}.W_in"], weights[f"{mlp}.W_out"]
    rest, d_model = w_in.shape[1] - n, w_in.shape[0]
    read = torch.zeros(N_CLUSTERS, d_model)
    read[:, : 1 + N_NOISE] = torch.randn(N_CLUSTERS, 1 + N_NOISE, generator=generator).abs()
    read[0] = torch.eye(d_model)[0]  # the bit, which the neurons that matter read
    cluster = torch.randint(N_CLUSTERS, (rest,), generator=generator)
    write = torch.zeros(rest, d_model)
    write[:, dead] = torch.randn(rest, len(dead), generator=generator)
    w_in[:, n:] = (read / read.norm(dim=1, keepdim=True))[cluster].T
    w_out[n:] = write / write.norm(dim=1, keepdim=True)
    w_out[n:] += WEAK * torch.randn(rest, d_model, generator=generator)


SetKind = Literal["and", "sum", "or of 2", "or of 3", "and with a pair"]


def set_function(kind: SetKind, rng: random.Random, *, n: int = 256) -> tuple[SetOracle, frozenset[str]]:
    """A function of sets of `n` items with weak effects of all, and the items that matter."""
    size = {"and": 4, "sum": 4, "or of 2": 2, "or of 3": 3, "and with a pair": 6}[kind]
    place = rng.sample(range(n), size)
    weak = torch.tensor([rng.gauss(0, 0.001) for _ in range(n)])
    weak[place] = 0.0

    def run(ablated: Tensor) -> Tensor:
        gone = ablated[:, place]
        match kind:
            case "and":
                value = ~gone.any(1)
            case "sum":
                value = 1 - gone.float().mean(1)
            case "or of 2" | "or of 3":
                value = ~gone.all(1)
            case "and with a pair":
                value = ~gone[:, :4].any(1) & ~gone[:, 4:].all(1)
        return (value.float() + ablated.float() @ weak).unsqueeze(1)

    names = [f"i{i}" for i in range(n)]
    return SetOracle(names, run), frozenset(names[i] for i in place)
