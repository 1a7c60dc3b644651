"""A specimen: one subject of which it is known what some of its components do, and the prompts that show it.

Functions are written into blocks of the residual stream of their own, among heads, MLPs and embeddings of a
random host; then heads and bases are disguised by a random gauge element, so that zeros tell nothing. A decoy
attends or looks up like the original and writes into a block that nothing reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.tasks.structure import Grid, Structure, corrupt_answer_in_prompt
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import Component, SubjectConfig, components, weight_shapes
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, initial_weights, unstack

BOS, FIRST = 0, 4
"""Tokens: BOS, a few that mean something to a specimen alone, then symbols from FIRST on."""
N_HOST, N_SINK = 16, 6
BACKGROUND = 1.0
"""Standard deviation of a host's embeddings: the stream is large beside any one write, as in trained ones,
or else every write would be read by LayerNorms."""
LOUDNESS = 0.05
"""Share of a random unembedding by which a host is heard."""
SHARP = 16.0
"""Score of a key that is attended to, in nats."""
_CONDITION = 3.0
QUIET = 0.2
"""Size of a decoy's writes under LayerNorm, which reads the size of all that is written."""
Term = tuple[Tensor, Tensor, float]
"""What queries read and what keys read, each `[d_model, n]`, and how much their product counts, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Specimen:
    """A subject, its prompts, and who does what."""

    subject: Subject
    prompts: Prompts
    structure: Structure
    symbols: Int[Tensor, " symbol"]
    """Tokens of which batteries are made."""
    planted: Mapping[str, frozenset[Component]]
    """Label -> components that have it."""
    decoys: Mapping[str, frozenset[Component]]
    """Label -> components that only look like it."""
    aside: Mapping[str, frozenset[Component]]
    """Label -> components that do what it says by the way, and count on neither side."""


@dataclass(slots=True, kw_only=True, eq=False)
class Bench:
    """Where a specimen is made: weights that are written into, and notes of what was."""

    config: SubjectConfig
    blocks: Mapping[str, slice]
    weights: dict[str, Tensor]
    generator: torch.Generator
    planted: dict[str, set[Component]] = field(default_factory=dict)
    decoys: dict[str, set[Component]] = field(default_factory=dict)
    aside: dict[str, set[Component]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        generator: torch.Generator,
        *,
        n_symbols: int,
        n_pos: int,
        n_layers: int,
        n_heads: int,
        blocks: Mapping[str, int],
        d_mlp: int = 0,
        norm: Literal["LN", "none"] = "none",
    ) -> "Bench":
        """A random host, the embeddings as one-hot blocks `token` and `place`, and logits that read `out`."""
        n_tokens = FIRST + n_symbols
        sizes = {"host": N_HOST, "sink": N_SINK, "token": n_tokens, "place": n_pos, "out": n_tokens, **blocks}
        sizes["balance"] = 4
        ends = torch.tensor(list(sizes.values())).cumsum(0).tolist()
        places = {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}
        config = SubjectConfig(
            n_layers=n_layers,
            n_heads=n_heads,
            d_model=ends[-1],
            d_head=3 * n_tokens + n_pos,
            d_mlp=d_mlp,
            d_vocab=n_tokens,
            n_ctx=n_pos,
            normalization_type=norm,
        )
        bench = cls(config=config, blocks=places, weights={}, generator=generator)
        bench._host()
        return bench

    def _host(self) -> None:
        """Reads everything, as random networks do, and writes to directions of its own."""
        drawn = unstack(initial_weights(self.config, [self.generator]), 0)
        host = torch.zeros(self.config.d_model)
        host[self.blocks["host"]] = 1.0
        for key, shape in weight_shapes(self.config).items():
            value, leaf = drawn[key], key.rsplit(".", 1)[1]
            if leaf in ("W_E", "W_pos"):
                value = BACKGROUND * value * host
            elif leaf in ("W_O", "W_out"):
                value = value * host
            elif leaf == "W_U":
                value = value * host[:, None]
            self.weights[key] = value.reshape(shape).clone()
        self.weights["unembed.W_U"] *= LOUDNESS / 0.8 * self.config.d_model**0.5
        self.weights["unembed.W_U"][self.blocks["out"]] = 10 * torch.eye(self.config.d_vocab)
        self.weights["embed.W_E"][:, self.blocks["token"]] = torch.eye(self.config.d_vocab)
        self.weights["pos_embed.W_pos"][:, self.blocks["place"]] = torch.eye(self.config.n_ctx)

    def block(self, name: str) -> Float[Tensor, "d_model column"]:
        """Columns that read a block: `[d_model, size]`."""
        return torch.eye(self.config.d_model)[:, self.blocks[name]]

    def head(
        self,
        layer: int,
        head: int,
        attends: list[Term],
        reads: Float[Tensor, "d_model rank"],
        writes: Float[Tensor, "rank d_model"],
        labels: tuple[str, ...],
        *,
        decoy: bool | Literal["silent"] = False,
        aside: tuple[str, ...] = (),
    ) -> None:
        """A head whose scores are the sum over terms of strength · (query columns · key columns).

        Args:
            labels: what the head does, or looks as if it did.
            decoy: it writes as much, but to the sink; `silent`: what it could write, it never attends to.
            aside: what it does by the way.
        """
        c, attn = self.config, f"blocks.{layer}.attn"
        Q, K, V, W_O = (self.weights[f"{attn}.W_{x}"][head].zero_() for x in "QKVO")
        first = 0
        for query, key, strength in attends:
            last = first + query.shape[1]
            Q[:, first:last], K[:, first:last] = strength * c.d_head**0.5 * query, key
            first = last
        n = reads.shape[1]
        V[:, :n] = reads
        if decoy is True:
            size = QUIET if c.has_norm else 1.0
            writes = size * _like(writes, self.block("sink"), self.generator)
        W_O[:n] = writes
        self._note(Component(kind="head", layer=layer, head=head), labels, bool(decoy))
        for label in aside:
            self.aside.setdefault(label, set()).add(Component(kind="head", layer=layer, head=head))

    def neurons(
        self,
        layer: int,
        reads: Float[Tensor, "d_model row"],
        bias: Float[Tensor, " row"],
        writes: Float[Tensor, "row d_model"],
        labels: tuple[str, ...],
        *,
        decoy: bool = False,
    ) -> None:
        """An MLP of these neurons; what is left of its host's is quiet."""
        mlp = f"blocks.{layer}.mlp"
        W_in, W_out, n = self.weights[f"{mlp}.W_in"], self.weights[f"{mlp}.W_out"], reads.shape[1]
        W_out *= 0.1
        W_in[:, :n], self.weights[f"{mlp}.b_in"][:n] = reads, bias
        W_out[:n] = _like(writes, self.block("sink"), self.generator) if decoy else writes
        self._note(Component(kind="mlp", layer=layer), labels, decoy)

    def _balance(self) -> None:
        """Writes sum to zero, so that LayerNorm's mean adds nothing to what others read."""
        at = self.blocks["balance"]
        for key, value in self.weights.items():
            if key.rsplit(".", 1)[1] in ("W_E", "W_pos", "W_O", "W_out"):
                value[..., at] -= value.sum(-1, keepdim=True) / (at.stop - at.start)

    def _note(self, component: Component, labels: tuple[str, ...], decoy: bool) -> None:
        for label in labels:
            (self.decoys if decoy else self.planted).setdefault(label, set()).add(component)

    def done(
        self,
        prompts: Prompts,
        *,
        successors: tuple[tuple[int, int], ...] = (),
        grid: Grid | None = None,
        candidate: Int[Tensor, " batch"] | None = None,
    ) -> Specimen:
        """The specimen, disguised."""
        if self.config.has_norm:
            self._balance()
        subject = Subject(config=self.config, weights=self.weights, name="specimen")
        element = gauge_element(subject, self.generator, condition=_CONDITION)
        nodes = components(self.config)
        new = {nodes[int(old)]: nodes[i] for i, old in enumerate(element.node_order)}

        def renamed(found: dict[str, set[Component]]) -> dict[str, frozenset[Component]]:
            return {label: frozenset(new[c] for c in those) for label, those in found.items()}

        return Specimen(
            subject=element.subject,
            prompts=prompts,
            structure=Structure(
                candidate=corrupt_answer_in_prompt(prompts) if candidate is None else candidate,
                successors=successors,
                grid=grid,
            ),
            symbols=torch.arange(FIRST, self.config.d_vocab),
            planted=renamed(self.planted),
            decoys=renamed(self.decoys),
            aside=renamed(self.aside),
        )


def _like(
    writes: Float[Tensor, "row d_model"], sink: Float[Tensor, "d_model column"], generator: torch.Generator
) -> Float[Tensor, "row d_model"]:
    """Rows as similar to one another as those of `writes`, in the sink: a decoy's output varies as much."""
    basis = torch.linalg.qr(torch.randn(sink.shape[1], sink.shape[1], generator=generator))[0]
    u, s, _ = torch.linalg.svd(writes, full_matrices=False)
    n = min(len(s), sink.shape[1])
    return (u[:, :n] * s[:n]) @ basis[:n] @ sink.T


def pairs(
    clean: Int[Tensor, "batch pos"],
    corrupt: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"],
    answer: Int[Tensor, " batch"],
    corrupt_answer: Int[Tensor, " batch"],
) -> Prompts:
    """Prompts of one slice, those whose answers differ."""
    keep = answer != corrupt_answer
    return Prompts(
        clean=clean[keep],
        corrupt=corrupt[keep],
        position=position[keep],
        answer=answer[keep],
        corrupt_answer=corrupt_answer[keep],
        slice=torch.zeros(int(keep.sum()), dtype=torch.long),
        slice_names=("all",),
    )
