"""Subjects that were made from others, and where each component went.

All changes are of weights, in float64, and come before a random element of the gauge group, so that neither
position nor basis tells what was there before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.harvesting import task_prompts
from data_gen.tasks.base import Task
from metamodel.analogy.pairs import NONE
from metamodel.config.errors import require
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, initial_weights

CONDITION = 3.0
"""Largest condition number of the change of any basis."""
SMALL = 0.05
"""What new components write that are to do nothing yet, relative to those that are there."""
N_MEAN_PROMPTS = 64
"""Prompts on which it is measured what a head writes on average."""
_HEAD = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
_WRITES = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
_READS = ("W_Q", "W_K", "W_V", "W_in", "W_U")


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """By how much a subject grows."""

    heads: int = 2
    """Heads more in each block."""
    blocks: int = 0
    """Blocks more, at random depths."""
    width: int = 0
    """Directions more in the residual stream."""
    loud: int = 0
    """New heads that write as much as those that are there; they need directions of their own."""

    def __post_init__(self):
        require(
            self.width > 0 or not self.loud,
            "growth.loud",
            expected="a wider residual stream to write to",
            got=f"{self.loud} loud heads and no new direction",
            do="Set a width.",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changed:
    """A subject that was made from another."""

    subject: Subject
    counterpart: Int[Tensor, " node"]
    """For each component of the old subject its index in the new one, or NONE."""


def gauged(changed: Changed, generator: torch.Generator) -> Changed:
    """The same in a random gauge."""
    element = gauge_element(changed.subject, generator, condition=CONDITION)
    there = torch.full((len(element.node_order) + 1,), NONE)
    there[element.node_order] = torch.arange(len(element.node_order))
    return Changed(subject=element.subject, counterpart=there[changed.counterpart])


def unchanged(subject: Subject) -> Changed:
    """A subject as its own copy."""
    return Changed(subject=subject, counterpart=torch.arange(len(components(subject.config))))


def enlarged(subject: Subject, growth: Growth, generator: torch.Generator) -> Changed:
    """A larger subject with nearly the same logits: exactly so for new directions, nearly for the rest.

    New blocks and heads write SMALL as much as those that are there. Loud heads read everything and write to
    directions that no other component reads; under LayerNorm they still take part in its scale.
    """
    old = subject.config
    base = folded(subject) if old.has_norm else subject
    source = {key: value.double() for key, value in base.weights.items()}
    width = old.d_model + growth.width
    config = replace(
        old,
        n_layers=old.n_layers + growth.blocks,
        n_heads=old.n_heads + growth.heads,
        d_model=width,
        eps=old.eps * old.d_model / width if old.has_norm else old.eps,
    )
    embed, own = _isometry(old, width, generator)
    wide = {key: _widened(key, value, embed, old) for key, value in source.items()}
    started = initial_weights(config, [generator])
    weights = {key: value[0].double() for key, value in started.items()}
    places = sorted(torch.randperm(config.n_layers, generator=generator)[: old.n_layers].tolist())
    for key in ("embed.W_E", "pos_embed.W_pos", "unembed.W_U", "unembed.b_U"):
        weights[key] = wide[key]
    for layer, place in enumerate(places):
        _put_block(weights, wide, layer, place, old)
    _quieten(weights, wide, config, places, old.n_heads)
    slots = [(place, head) for place in places for head in range(old.n_heads, config.n_heads)]
    for i in torch.randperm(len(slots), generator=generator)[: growth.loud].tolist():
        place, head = slots[i]
        _make_loud(weights, wide, places, place, head, own, old, generator)
    dtype = subject.weights["embed.W_E"].dtype
    made = Subject(
        config=config, weights={key: value.to(dtype) for key, value in weights.items()}, name=subject.name
    )
    return Changed(subject=made, counterpart=_moved(old, config, places))


def damaged(
    subject: Subject, task: Task, removed: Sequence[int], inserted: int, generator: torch.Generator
) -> Changed:
    """A subject without some heads, and with strangers of matched norm in other places.

    What a removed head writes on average stays. Strangers have random weights, each matrix with the norm
    that it has in some head of the same block.

    Args:
        removed: components that vanish; all are heads.
        inserted: how many strangers there are.
    """
    old, nodes = subject.config, components(subject.config)
    config = replace(old, n_heads=old.n_heads + inserted)
    layers = range(old.n_layers)
    weights = {key: value.double() for key, value in subject.weights.items()}
    taps = [f"blocks.{layer}.attn.hook_result" for layer in layers]
    clean = task_prompts(task, generator, N_MEAN_PROMPTS).clean
    with torch.no_grad():
        run = subject.run(clean, taps=taps)
    for index in removed:
        node = nodes[index]
        assert node.kind == "head", node
        attn = f"blocks.{node.layer}.attn"
        weights[f"{attn}.b_O"] = (
            weights[f"{attn}.b_O"] + run.taps[taps[node.layer]][0].mean((0, 1))[node.head]
        )
        for name in _HEAD:
            kept = weights[f"{attn}.{name}"].clone()
            kept[node.head] = 0.0
            weights[f"{attn}.{name}"] = kept
    at = torch.randint(old.n_layers, (inserted,), generator=generator).tolist()
    for layer in layers:
        for name in _HEAD:
            key = f"blocks.{layer}.attn.{name}"
            value = weights[key]
            more = torch.zeros(inserted, *value.shape[1:], dtype=value.dtype)
            for i in range(inserted):
                if at[i] == layer and name.startswith("W"):
                    whole = subject.weights[key][int(torch.randint(old.n_heads, (), generator=generator))]
                    drawn = torch.randn(value.shape[1:], generator=generator, dtype=value.dtype)
                    more[i] = drawn * whole.double().norm() / drawn.norm()
            weights[key] = torch.cat([value, more])
    dtype = subject.weights["embed.W_E"].dtype
    made = Subject(
        config=config, weights={key: value.to(dtype) for key, value in weights.items()}, name=subject.name
    )
    counterpart = _moved(old, config, list(layers))
    counterpart[list(removed)] = NONE
    return Changed(subject=made, counterpart=counterpart)


def _isometry(
    old: SubjectConfig, width: int, generator: torch.Generator
) -> tuple[Float[Tensor, "d_model column"], Float[Tensor, "row column"]]:
    """Where the old directions go in a wider stream, and the directions that are new.

    Under LayerNorm vectors without a mean stay vectors without a mean.
    """
    if not old.has_norm:
        q = _orthogonal(width, generator)
        return q[: old.d_model], q[old.d_model :]
    small, large = _without_mean(old.d_model), _without_mean(width)
    if width == old.d_model:
        return small @ small.T, large.T[:0]
    q = _orthogonal(width - 1, generator)
    return small @ q[: old.d_model - 1] @ large.T, q[old.d_model - 1 :] @ large.T


def _without_mean(d: int) -> Float[Tensor, "d_model column"]:
    """Orthonormal columns that span the vectors whose entries add to 0."""
    frame = torch.cat(
        [torch.ones(d, 1, dtype=torch.float64), torch.eye(d, d - 1, dtype=torch.float64)], dim=1
    )
    return torch.linalg.qr(frame)[0][:, 1:]


def _orthogonal(size: int, generator: torch.Generator) -> Float[Tensor, "row column"]:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def _widened(key: str, value: Tensor, embed: Float[Tensor, "d_model column"], old: SubjectConfig) -> Tensor:
    """A weight in the wider stream; readers make up for LayerNorm's scale, which counts directions."""
    leaf = key.rsplit(".", 1)[1]
    if leaf in _WRITES:
        return value @ embed
    if leaf in _READS:
        scale = (old.d_model / embed.shape[1]) ** 0.5 if old.has_norm else 1.0
        return scale * embed.T @ value
    return value


def _put_block(
    weights: dict[str, Tensor], wide: dict[str, Tensor], layer: int, place: int, old: SubjectConfig
) -> None:
    for key, value in wide.items():
        head, _, leaf = key.partition(f"blocks.{layer}.")
        if head or not leaf:
            continue
        there = f"blocks.{place}.{leaf}"
        if leaf.startswith("attn.") and not leaf.endswith("b_O"):
            weights[there][: old.n_heads] = value
        elif not leaf.startswith("ln"):  # folding left gains of one and biases of zero
            weights[there] = value


def _quieten(
    weights: dict[str, Tensor],
    wide: dict[str, Tensor],
    config: SubjectConfig,
    places: Sequence[int],
    n_heads: int,
) -> None:
    """Lets everything new write SMALL as much as the old heads, or MLPs, do on average."""
    n_old = len(places)
    loudness = torch.stack(
        [wide[f"blocks.{i}.attn.W_O"].norm(dim=(1, 2)).mean() for i in range(n_old)]
    ).mean()
    for layer in range(config.n_layers):
        write = weights[f"blocks.{layer}.attn.W_O"]
        first = n_heads if layer in places else 0
        new = write[first:]
        write[first:] = new / new.norm(dim=(1, 2), keepdim=True) * SMALL * loudness
        if config.has_mlp and layer not in places:
            size = torch.stack([wide[f"blocks.{i}.mlp.W_out"].norm() for i in range(n_old)]).mean()
            out = weights[f"blocks.{layer}.mlp.W_out"]
            weights[f"blocks.{layer}.mlp.W_out"] = out / out.norm() * SMALL * size


def _make_loud(
    weights: dict[str, Tensor],
    wide: dict[str, Tensor],
    places: Sequence[int],
    place: int,
    head: int,
    own: Float[Tensor, "row column"],
    old: SubjectConfig,
    generator: torch.Generator,
) -> None:
    """Gives a new head the norms of an old one of its block; it writes to new directions alone."""
    layer, like = places.index(place), int(torch.randint(old.n_heads, (), generator=generator))
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        value = weights[f"blocks.{place}.attn.{name}"]
        drawn = torch.randn(value.shape[1:], generator=generator, dtype=value.dtype)
        if name == "W_O":
            drawn = drawn @ own.T @ own
        norm = wide[f"blocks.{layer}.attn.{name}"][like].norm()
        value[head] = drawn * norm / drawn.norm()


def _moved(old: SubjectConfig, new: SubjectConfig, places: Sequence[int]) -> Int[Tensor, " node"]:
    """For each component of an old shape its index in the new one; heads keep their number in a block."""
    index = {node: i for i, node in enumerate(components(new))}
    found = []
    for node in components(old):
        layer = places[node.layer] if node.layer >= 0 else -1
        found.append(index[Component(kind=node.kind, layer=layer, head=node.head)])
    return torch.tensor(found)
