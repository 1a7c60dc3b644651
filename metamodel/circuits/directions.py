"""Parts of what a component writes that are finer than the component: directions, and dictionaries of them.

Directions live in the residual stream of the folded subject (`metamodel.subjects.canonical.folded`), whose
axes are those of the raw one. Under LayerNorm nothing reads the mean over d_model, so that every direction is
taken without its mean, and normalised again. What projections find there is gauge-invariant once directions
are rotated along; without a norm the residual stream may be changed by any invertible map, and what is
orthogonal depends on the gauge: there, only directions of the same raw subject compare.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.circuits.graph import component_edges
from metamodel.circuits.network import Network, edge_run, network_of, subject_of
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import InputError, require
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import Component, SubjectConfig

Encoder = Callable[[Tensor], Tensor]
"""From what a component of the raw subject writes, `[batch, pos, d_model]`, to coefficients
`[batch, pos, direction]`."""
_RANK_TOLERANCE = 1e-5
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """The projection of what a component writes on a unit vector, or on the span of a few.

    Raises: InputError unless the basis is orthonormal; `direction` makes one of any vectors.
    """

    component: Component
    basis: Float[Tensor, "rank d_model"]
    """Orthonormal rows."""
    label: str = "direction"

    def __post_init__(self):
        _check_rows(self.basis)
        gram = self.basis.double() @ self.basis.double().T
        off = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
        require(
            off < 1e-4,
            "direction",
            expected="orthonormal rows",
            got=f"rows that miss it by {off:.2g}",
            do="Make it by direction(component, vectors).",
        )

    @property
    def name(self) -> str:
        return f"{self.component.name}.{self.label}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dictionary:
    """Vectors into which what a component writes is decomposed, with a rest; they need not be orthogonal.

    Without an encoder coefficients are those of least squares, of smallest norm where vectors are dependent;
    with one, such as a sparse autoencoder's, they are what it answers. A decoder's bias belongs to no vector
    and so to the rest.

    Raises: InputError for a zero vector, or labels that are not as many as vectors.
    """

    component: Component
    vectors: Float[Tensor, "direction d_model"]
    encoder: Encoder | None = None
    labels: tuple[str, ...] = ()
    """A name for each vector; by default `f0`, `f1`, ..."""

    def __post_init__(self):
        _check_rows(self.vectors)
        require(
            len(self.labels) in (0, len(self.vectors)),
            "dictionary.labels",
            expected=f"{len(self.vectors)}, one a vector",
            got=len(self.labels),
            do="Name each vector, or none.",
        )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def features(self) -> "tuple[Feature, ...]":
        return tuple(Feature(dictionary=self, index=i) for i in range(len(self)))

    @property
    def nodes(self) -> "tuple[Feature | Rest, ...]":
        """All features and the rest: they sum to what the component writes."""
        return (*self.features, Rest(of=self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feature:
    """One vector of a dictionary, times its coefficient."""

    dictionary: Dictionary
    index: int

    @property
    def component(self) -> Component:
        return self.dictionary.component

    @property
    def name(self) -> str:
        labels = self.dictionary.labels
        return f"{self.component.name}.{labels[self.index] if labels else f'f{self.index}'}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rest:
    """The error node: what a component writes besides a dictionary's features, or outside some directions.

    Of directions it is the part orthogonal to all of them; directions and rest sum to the whole where
    directions are orthogonal to each other, as those of `singular_directions` and `principal_directions` are.

    Raises: InputError for no directions, or directions of several components.
    """

    of: Dictionary | tuple[Direction, ...]

    def __post_init__(self):
        if isinstance(self.of, Dictionary):
            return
        names = sorted({direction.component.name for direction in self.of})
        require(
            len(names) == 1,
            "rest",
            expected="directions of one component",
            got=", ".join(names) or "none",
            do="Take one rest for each component.",
        )

    @property
    def component(self) -> Component:
        return self.of.component if isinstance(self.of, Dictionary) else self.of[0].component

    @property
    def name(self) -> str:
        return f"{self.component.name}.rest"


def direction(
    component: Component, vectors: Float[Tensor, "*rank d_model"], *, label: str = "direction"
) -> Direction:
    """The span of one vector or a few, as an orthonormal basis.

    Raises: InputError for a zero vector, or vectors that depend on each other.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    _check_rows(rows)
    return Direction(component=component, basis=_orthonormal(rows, "direction"), label=label)


@torch.no_grad()
def singular_directions(network: Network | nn.Module, component: Component, n: int) -> tuple[Direction, ...]:
    """The `n` directions in which a component writes most, by its weights: right singular vectors.

    Of a head's OV, of an embedding's table, of an MLP's `W_out` (for ReLU each row times the norm of what its
    neuron reads, bias included, since their ratio is gauge). Those of `W_O` alone depend on the gauge.

    Raises: InputError for a component that does not write, or more directions than it writes in.
    """
    subject = subject_of(network, "singular directions, which are read off its weights")
    check_writes(subject.config, component, "component", subject.name)
    weights = folded(subject).weights
    block = f"blocks.{component.layer}"
    match component.kind:
        case "head":
            value = weights[f"{block}.attn.W_V"][component.head]
            matrix = value.double() @ weights[f"{block}.attn.W_O"][component.head].double()
        case "mlp":
            matrix = weights[f"{block}.mlp.W_out"].double()
            if subject.config.act_fn == "relu":
                bias = weights[f"{block}.mlp.b_in"].unsqueeze(0)
                reads = torch.cat([weights[f"{block}.mlp.W_in"], bias]).double()
                matrix = matrix * reads.norm(dim=0).unsqueeze(1)
        case "token_embedding":
            matrix = weights["embed.W_E"].double()
        case _:
            matrix = weights["pos_embed.W_pos"].double()
    dtype = weights["embed.W_E"].dtype
    return _leading(component, matrix, n, "s", dtype)


@torch.no_grad()
def principal_directions(
    network: Network | nn.Module, component: Component, prompts: Prompts, n: int
) -> tuple[Direction, ...]:
    """The `n` directions in which what a component writes varies most over all positions of clean prompts.

    Raises: InputError for a component that does not write, more directions than vary, or as `edge_run`.
    """
    whole = network_of(network)
    check_writes(whole.config, component, "component", whole.name)
    run = edge_run(whole, prompts, "mean")
    written = run.outputs[run.edges.sources.index(component)].flatten(0, 1)
    varied = (written - written.mean(0)).double()
    if whole.config.has_norm:  # no reader sees the mean over d_model, which raw weights may write
        varied = varied - varied.mean(-1, keepdim=True)
    return _leading(component, varied, n, "p", written.dtype)


def _leading(
    component: Component, matrix: Float[Tensor, "row d_model"], n: int, letter: str, dtype: torch.dtype
) -> tuple[Direction, ...]:
    _, size, rows = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((size > _RANK_TOLERANCE * size[0].clamp_min(torch.finfo(size.dtype).tiny)).sum())
    require(
        1 <= n <= rank,
        "n",
        expected=f"1 to {rank}, the directions that {component.name} writes in",
        got=n,
        do="Ask for fewer." if n > rank else "Ask for at least one.",
    )
    return tuple(
        Direction(component=component, basis=rows[i : i + 1].to(dtype), label=f"{letter}{i}")
        for i in range(n)
    )


def check_writes(config: SubjectConfig, component: Component, where: str, who: str) -> None:
    """Raises: InputError unless this is a component of the subject that writes to the residual stream."""
    sources = component_edges(config).sources
    if component in sources:
        return
    expected = f"a component of {who} that writes ({sources[0].name} to {sources[-1].name})"
    mlp = "an MLP" if config.has_mlp else "no MLP"
    do = f"It has {config.n_layers} layers of {config.n_heads} heads and {mlp}."
    raise InputError(where, expected=expected, got=component.name, do=do)


def readable(
    vectors: Float[Tensor, "rank d_model"], config: SubjectConfig, where: str
) -> Float[Tensor, "rank d_model"]:
    """What readers can see of vectors: under LayerNorm, all but their mean over d_model.

    Raises: InputError for vectors of another width, or constant ones under LayerNorm.
    """
    require(
        vectors.shape[-1] == config.d_model,
        where,
        expected=f"vectors of {config.d_model} numbers, the subject's d_model",
        got=vectors.shape[-1],
        do="Take directions of this subject's residual stream.",
    )
    if not config.has_norm:
        return vectors
    centred = vectors - vectors.mean(-1, keepdim=True)
    silent = centred.norm(dim=-1) <= _RANK_TOLERANCE * vectors.norm(dim=-1)
    require(
        not bool(silent.any()),
        where,
        expected="vectors that differ between axes",
        got=f"a constant one at row {int(silent.to(torch.int64).argmax())}",
        do="LayerNorm hides it from every reader; drop it.",
    )
    return centred


def projection(directions: tuple[Direction, ...], config: SubjectConfig, where: str) -> Tensor:
    """Orthonormal basis `[rank, d_model]` of all that readers can see in some directions."""
    return _orthonormal(readable(torch.cat([d.basis for d in directions]), config, where), where)


def _orthonormal(rows: Float[Tensor, "rank d_model"], where: str) -> Float[Tensor, "rank d_model"]:
    unit = rows.double() / rows.double().norm(dim=-1, keepdim=True)
    _, size, basis = torch.linalg.svd(unit, full_matrices=False)
    independent = int((size > _RANK_TOLERANCE * size[0]).sum())
    require(
        independent == len(rows),
        where,
        expected=f"{len(rows)} independent vectors",
        got=f"{independent} independent ones",
        do="Drop those that are sums of others.",
    )
    if len(rows) == 1:
        return unit.to(rows.dtype)
    return basis.to(rows.dtype)


def _check_rows(rows: Float[Tensor, "rank d_model"]) -> None:
    require(len(rows) > 0, "direction", expected="at least one vector", got="none", do="Give one.")
    finite = bool(torch.isfinite(rows).all())
    do = "Drop that vector."
    require(finite, "direction", expected="finite numbers", got="nan or inf", do=do)
    zero = ~rows.any(-1)
    require(
        not bool(zero.any()),
        "direction",
        expected="vectors that are not zero",
        got=f"a zero vector at row {int(zero.to(torch.int64).argmax())}",
        do="Drop it.",
    )
