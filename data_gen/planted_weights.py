"""Where a planted circuit, its copies, its decoys and its host lie inside a subject, and the weights of that.

Circuit and host have directions of the residual stream of their own. What the circuit leaves idle, heads,
ranks inside heads and neurons, reads at random and writes to the sink, directions that nothing reads: a
circuit must not be found by looking for zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.compiler.compile import Draft, compile_program, minimal_size
from data_gen.programs.language import Program
from metamodel.config import require
from metamodel.subjects.config import Component, SubjectConfig, weight_shapes
from metamodel.subjects.subject import Subject

N_SINK = 4
"""Directions that decoys and distractors write to, and nothing reads."""
FEWEST_HOST = 8
"""Directions that a host needs."""
HOST_LOUDNESS = 0.3
"""Share of a host's logits that is left, for the circuit to be heard. Its own answers stay."""
SPARE_SCORE = 0.05
"""Size of queries and keys in those directions of a head that the circuit leaves idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Who is who among a subject's heads: the circuit's first, then copies and decoys, then the host's."""

    draft: Draft
    """The circuit, compiled into as many heads, directions and neurons as it needs."""
    host: SubjectConfig
    copies: Mapping[Component, Component]
    """Copy -> the head that it copies."""
    negative: frozenset[Component]
    """Those copies that write the opposite."""
    decoys: Mapping[Component, Component]
    """Decoy -> the head whose attention it shows."""

    @property
    def circuit(self) -> SubjectConfig:
        return self.draft.subject.config

    def renamed(self, new: Mapping[Component, Component]) -> "Arrangement":
        """The same after heads changed places."""
        return replace(
            self,
            copies={new[copy]: new[of] for copy, of in self.copies.items()},
            negative=frozenset(new[copy] for copy in self.negative),
            decoys={new[decoy]: new[of] for decoy, of in self.decoys.items()},
        )


def arrange(program: Program, size: SubjectConfig, generator: torch.Generator) -> Arrangement:
    """Chooses which heads are copied, and how, and gives the rest of the subject to the host.

    Raises: InputError if the program leaves too little of the size to a host.
    """
    least = minimal_size(program, n_free=0)
    circuit = replace(
        size, n_heads=least.n_heads, d_model=least.d_model, d_mlp=least.d_mlp if size.has_mlp else 0
    )
    draft = compile_program(program, circuit, generator=generator)
    left = size.d_model - circuit.d_model - N_SINK
    require(
        left >= FEWEST_HOST and size.n_heads >= circuit.n_heads + 3 and size.d_mlp > circuit.d_mlp,
        f"program {program.name}: planted",
        expected=f"a size with {FEWEST_HOST} directions, 3 heads and a neuron left for a host",
        got=f"{left}, {size.n_heads - circuit.n_heads} and {size.d_mlp - circuit.d_mlp}",
        do="Take a larger size.",
    )
    copies: dict[Component, Component] = {}
    decoys: dict[Component, Component] = {}
    negative, most = set(), 0
    turned = bool(torch.randint(2, (), generator=generator))
    for layer in range(size.n_layers):
        room = list(range(circuit.n_heads, size.n_heads - 1))
        for head, _ in draft.layout.heads(layer):
            original = Component(kind="head", layer=layer, head=head)
            if room and len(copies) < 2:
                copy = Component(kind="head", layer=layer, head=room.pop(0))
                if turned == (len(copies) == 0):
                    negative.add(copy)
                copies[copy] = original
            if room:
                decoys[Component(kind="head", layer=layer, head=room.pop(0))] = original
        most = max(most, sum(c.layer == layer for c in (*copies, *decoys)))
    host = replace(
        size,
        n_heads=size.n_heads - circuit.n_heads - most,
        d_model=left,
        d_mlp=size.d_mlp - circuit.d_mlp,
    )
    return Arrangement(draft=draft, host=host, copies=copies, negative=frozenset(negative), decoys=decoys)


def compose(
    size: SubjectConfig, arrangement: Arrangement, host: Mapping[str, Tensor], generator: torch.Generator
) -> Subject:
    """Circuit, copies, decoys and host as one subject, in a basis in which they can be told apart."""
    weights = {key: torch.zeros(shape) for key, shape in weight_shapes(size).items()}
    _side_by_side(weights, arrangement, host)
    for copy, original in (*arrangement.copies.items(), *arrangement.decoys.items()):
        attn = f"blocks.{copy.layer}.attn"
        for name in ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V"):
            weights[f"{attn}.{name}"][copy.head] = weights[f"{attn}.{name}"][original.head]
    first = arrangement.circuit.d_model
    sink = slice(first, first + N_SINK)
    for decoy, original in arrangement.decoys.items():
        _write_to_sink(weights, decoy, original, sink, generator)
    for copy, original in arrangement.copies.items():
        out = weights[f"blocks.{copy.layer}.attn.W_O"]
        share = -0.5 if copy in arrangement.negative else 0.5
        out[copy.head] = share * out[original.head]
        out[original.head] = (1 - share) * out[original.head]
    for layer in range(size.n_layers):
        _fill_heads(weights, f"blocks.{layer}.attn", size.n_heads - arrangement.host.n_heads, sink, generator)
        if size.has_mlp:
            _fill_neurons(weights, f"blocks.{layer}.mlp", sink, generator)
    return Subject(config=size, weights=weights, name="planted")


def _side_by_side(weights: dict[str, Tensor], arrangement: Arrangement, host: Mapping[str, Tensor]) -> None:
    """Writes circuit and host into the weights, in directions, heads and neurons of their own."""
    circuit, config = arrangement.draft.subject.weights, arrangement.circuit
    n, d, m, h = config.n_heads, config.d_model, config.d_mlp, arrangement.host.n_heads
    inside = slice(d + N_SINK, None)
    for key, value in weights.items():
        own, other = circuit.get(key, torch.zeros(())), host[key]
        match key.rsplit(".", 1)[1]:
            case "W_E" | "W_pos":
                value[:, :d], value[:, inside] = own, other
            case "W_U":
                value[:d], value[inside] = own, HOST_LOUDNESS * other
            case "b_U":
                value += own + HOST_LOUDNESS * other
            case "W_Q" | "W_K" | "W_V":
                value[:n, :d], value[-h:, inside] = own, other
            case "W_O":
                value[:n, :, :d], value[-h:, :, inside] = own, other
            case "b_Q" | "b_K" | "b_V":
                value[:n], value[-h:] = own, other
            case "b_O" | "b_out":
                value[:d], value[inside] = own, other
            case "W_in":
                value[:d, :m], value[inside, m:] = own, other
            case "b_in":
                value[:m], value[m:] = own, other
            case "W_out":
                value[:m, :d], value[m:, inside] = own, other


def _normal(generator: torch.Generator, *shape: int) -> Float[Tensor, "*rest"]:
    return torch.randn(shape, generator=generator)


def _write_to_sink(
    weights: dict[str, Tensor],
    decoy: Component,
    original: Component,
    sink: slice,
    generator: torch.Generator,
) -> None:
    """A decoy reads like the original and writes as much, where nothing reads."""
    attn = f"blocks.{decoy.layer}.attn"
    value, out = weights[f"{attn}.W_V"][original.head], weights[f"{attn}.W_O"]
    drawn = torch.zeros_like(out[decoy.head])
    drawn[:, sink] = _normal(generator, len(drawn), N_SINK)
    norm = (value @ out[original.head]).norm() / (value @ drawn).norm().clamp(min=1e-9)
    out[decoy.head] = norm * drawn


def _fill_heads(
    weights: dict[str, Tensor], attn: str, n_heads: int, sink: slice, generator: torch.Generator
) -> None:
    """Ranks of the first heads that the circuit leaves idle, whole heads among them."""
    query, key, value, out = (weights[f"{attn}.W_{x}"] for x in "QKVO")
    for head in range(n_heads):
        whole = not bool(key[head].any() or value[head].any())
        idle = value[head].norm(dim=0) == 0
        n = int(idle.sum())
        value[head][:, idle] = _normal(generator, len(value[head]), n) / len(value[head]) ** 0.5
        rows = torch.zeros(n, out.shape[-1])
        rows[:, sink] = _normal(generator, n, N_SINK) / N_SINK**0.5
        out[head][idle] = rows
        idle = key[head].norm(dim=0) == 0
        n = int(idle.sum())
        for matrix in (query, key):
            drawn = _normal(generator, len(matrix[head]), n) / len(matrix[head]) ** 0.5
            if not whole:  # no more than what decoys write may move the scores of a head that is in use
                kept = torch.zeros_like(drawn)
                kept[sink] = SPARE_SCORE * drawn[sink]
                drawn = kept
            matrix[head][:, idle] = drawn


def _fill_neurons(weights: dict[str, Tensor], mlp: str, sink: slice, generator: torch.Generator) -> None:
    """Neurons that the circuit leaves idle."""
    read, write = weights[f"{mlp}.W_in"], weights[f"{mlp}.W_out"]
    idle = (read.norm(dim=0) == 0) & (write.norm(dim=1) == 0)
    n = int(idle.sum())
    read[:, idle] = _normal(generator, len(read), n) / len(read) ** 0.5
    weights[f"{mlp}.b_in"][idle] = 0.3 * _normal(generator, n)
    rows = torch.zeros(n, write.shape[1])
    rows[:, sink] = _normal(generator, n, N_SINK) / N_SINK**0.5
    write[idle] = rows
