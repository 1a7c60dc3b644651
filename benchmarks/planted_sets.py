"""Subjects whose minimal sets are known: boolean formulas set by hand in the weights.

Tokens carry a bit, on in clean prompts and off in corrupt ones, beside noise. Items are neurons of the first
MLP or heads of the first block that copy the bit into a direction of their own; gates are neurons of later
MLPs; a margin of about +1 says that the root is true, -1 that it is not.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from set_formulas import Families, Node, holds, true_families
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.subject import Subject

N_TOKENS, N_NOISE, N_POS, N_PROMPTS = 6, 3, 3, 8
YES, NO = 2 * N_TOKENS, 2 * N_TOKENS + 1
Kind = Literal["neuron", "head"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """A subject that computes a formula, and where each item stands in it."""

    subject: Subject
    prompts: Prompts
    formula: Node
    component: dict[str, str]
    """Item -> name of its neuron (`MLP0.3`) or head (`L0H3`)."""
    gates: dict[int, str]
    """Number of a node of the formula (`id`) -> component that says its value."""

    def families(self, *, restored: bool = False) -> Families:
        """The truth in the subject's names; items outside the formula never matter."""
        names = {name: label for label, name in self.component.items()}
        return true_families(
            list(names), lambda kept: holds(self.formula, {names[x] for x in kept}, restored=restored)
        )


def plant(formula: Node, *, kind: Kind = "neuron", extra: int = 0, seed: int = 0) -> Planted:
    """A subject that computes a formula.

    Args:
        kind: what items are.
        extra: items besides that write, with the same norm, where nothing reads.
    """
    build = Build(kind=kind, generator=torch.Generator().manual_seed(seed))
    extras = tuple(f"extra{i}" for i in range(extra))
    for name in extras:
        build.leaf(name)
    root, _ = build.value(formula)
    return build.planted(formula, root)


@dataclass(slots=True, kw_only=True)
class Build:
    """Directions of the residual stream: the bit, noise of the tokens, then one for each value."""

    kind: Kind
    generator: torch.Generator
    n_dims: int = 1 + N_NOISE
    units: dict[tuple[str, int], list[tuple[dict[int, float], float, int, float]]] = field(
        default_factory=dict
    )
    """(kind, layer) -> units: what each reads, its bias, the direction that it writes to, and its gain."""
    component: dict[str, str] = field(default_factory=dict)
    gates: dict[int, str] = field(default_factory=dict)
    known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def new(self) -> int:
        self.n_dims += 1
        return self.n_dims - 1

    def unit(
        self, kind: Kind, stage: int, reads: dict[int, float], bias: float, to: int, gain: float = 1.0
    ) -> str:
        """Stage 2l is attention of block l, 2l + 1 its MLP."""
        made = self.units.setdefault((kind, stage // 2), [])
        made.append((reads, bias, to, gain))
        return f"L{stage // 2}H{len(made) - 1}" if kind == "head" else f"MLP{stage // 2}.{len(made) - 1}"

    def leaf(self, name: str, stage: int | None = None, but: int | None = None) -> tuple[int, int]:
        """An item that copies the bit, unless the direction `but` says so already."""
        if name not in self.known:
            stage = (0 if self.kind == "head" else 1) if stage is None else stage
            reads = {0: 1.0} if but is None else {0: 1.0, but: -1.0}
            to = self.new()
            self.component[name] = self.unit(self.kind, stage, reads, 0.0, to)
            self.known[name] = (to, stage)
        return self.known[name]

    def value(self, node: Node) -> tuple[int, int]:
        """The direction in which a node's value, 0 or 1, is written, and the stage that writes it."""
        if node.op == "item":
            to, stage = self.leaf(node.item)
            self.gates[id(node)] = self.component[node.item].split(".")[0]
            return to, stage
        made = [self.value(part) for part in node.parts]
        if node.op == "backup":
            to, ready = made[0]
            step = ready + 1 if (ready % 2 == 1) == (self.kind == "head") else ready + 2
            made.append(self.leaf(node.item, stage=step, but=to))
        if node.op == "unless":
            stage = self._mlp_after(made[1:])
            loose = self.new()
            self.unit("neuron", stage, {made[1][0]: 1.0, made[2][0]: -1.0}, 0.0, loose)
            made = [made[0], (loose, stage)]
        stage, to = self._mlp_after(made), self.new()
        reads = {place: 1.0 for place, _ in made}
        if node.op == "backup":
            reads[made[0][0]] = (
                2.0  # a head cannot rectify: where the bit is off and the primary on, it says -1
            )
        match node.op:
            case "and":
                self.unit("neuron", stage, reads, 1.0 - len(made), to)
            case "or" | "backup":
                self.unit("neuron", stage, reads, 0.0, to)
                self.unit("neuron", stage, reads, -1.0, to, -1.0)
            case "unless":
                self.unit("neuron", stage, {made[0][0]: 1.0, made[1][0]: -1.0}, 0.0, to)
        self.gates[id(node)] = f"MLP{stage // 2}"
        return to, stage

    @staticmethod
    def _mlp_after(made: list[tuple[int, int]]) -> int:
        latest = max(stage for _, stage in made)
        return latest + 1 if latest % 2 == 0 else latest + 2

    def planted(self, formula: Node, root: int, width: int = 1) -> Planted:
        n_layers = 1 + max(layer for _, layer in self.units)
        most = {
            kind: max((len(u) for (k, _), u in self.units.items() if k == kind), default=1)
            for kind in ("neuron", "head")
        }
        config = _config(n_layers, most["head"], max(width, most["neuron"]), self.n_dims)
        weights = _tokens(config, root, self.generator)
        for (kind, layer), units in self.units.items():
            for i, (reads, bias, to, gain) in enumerate(units):
                if kind == "head":
                    for place, weight in reads.items():
                        weights[f"blocks.{layer}.attn.W_V"][i, place, 0] = weight
                    weights[f"blocks.{layer}.attn.W_O"][i, 0, to] = gain
                    continue
                for place, weight in reads.items():
                    weights[f"blocks.{layer}.mlp.W_in"][place, i] = weight
                weights[f"blocks.{layer}.mlp.b_in"][i] = bias
                weights[f"blocks.{layer}.mlp.W_out"][i, to] = gain
        subject = Subject(config=config, weights=weights, name="planted")
        prompts = on_and_off(self.generator)
        return Planted(
            subject=subject, prompts=prompts, formula=formula, component=self.component, gates=self.gates
        )


def _config(n_layers: int, n_heads: int, d_mlp: int, d_model: int) -> SubjectConfig:
    return SubjectConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=1,
        d_mlp=d_mlp,
        d_vocab=2 * N_TOKENS + 2,
        n_ctx=N_POS,
        normalization_type="none",
    )


def _tokens(config: SubjectConfig, root: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Embeddings of bit and noise, an unembedding that reads the root and a little noise, else zeros."""
    weights = {name: torch.zeros(shape) for name, shape in weight_shapes(config).items()}
    noise = torch.rand(N_TOKENS, N_NOISE, generator=generator)
    weights["embed.W_E"][:N_TOKENS, 1 : 1 + N_NOISE] = noise
    weights["embed.W_E"][N_TOKENS : 2 * N_TOKENS, 1 : 1 + N_NOISE] = noise
    weights["embed.W_E"][:N_TOKENS, 0] = 1.0
    weights["unembed.W_U"][root, YES] = 2.0
    weights["unembed.W_U"][1 : 1 + N_NOISE, YES] = 0.05
    weights["unembed.b_U"][:] = -10.0
    weights["unembed.b_U"][YES], weights["unembed.b_U"][NO] = -1.0, 0.0
    return weights


def on_and_off(generator: torch.Generator) -> Prompts:
    """Prompts of tokens whose bit is on, and the same tokens with the bit off."""
    clean = torch.randint(N_TOKENS, (N_PROMPTS, N_POS), generator=generator)
    return Prompts(
        clean=clean,
        corrupt=clean + N_TOKENS,
        position=torch.full((N_PROMPTS,), N_POS - 1),
        answer=torch.full((N_PROMPTS,), YES),
        corrupt_answer=torch.full((N_PROMPTS,), NO),
        slice=torch.zeros(N_PROMPTS, dtype=torch.int64),
        slice_names=("all",),
    )


def edges_of(planted: Planted) -> tuple[str, ...]:
    """Edges through which the circuit of a subject with heads flows."""
    found: list[str] = []

    def walk(node: Node, reader: str) -> None:
        here = planted.gates[id(node)]
        found.append(f"{here}->{reader}")
        if node.op == "item":
            found.append(f"token_embedding->{here}.v")
        for part in node.parts:
            walk(part, here)
        if node.op == "backup":
            backup = planted.component[node.item]
            found.append(f"{backup}->{here}")
            found.append(f"token_embedding->{backup}.v")
            walk(node.parts[0], f"{backup}.v")

    walk(planted.formula, "unembedding")
    return tuple(dict.fromkeys(found))


def edges_hold(planted: Planted, kept: Collection[str]) -> bool:
    """Whether the formula is true with these edges kept: a reader sees a value through a kept edge only."""

    def seen(node: Node, reader: str) -> bool:
        return f"{planted.gates[id(node)]}->{reader}" in kept and value(node)

    def value(node: Node) -> bool:
        here = planted.gates[id(node)]
        if node.op == "item":
            return f"token_embedding->{here}.v" in kept
        parts = [seen(part, here) for part in node.parts]
        if node.op == "backup":
            backup = planted.component[node.item]
            fires = f"token_embedding->{backup}.v" in kept and not seen(node.parts[0], f"{backup}.v")
            return parts[0] or (fires and f"{backup}->{here}" in kept)
        return all(parts) if node.op == "and" else any(parts)

    return seen(planted.formula, "unembedding")
