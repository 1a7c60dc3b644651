"""Ratio signatures: what is alike between parts of one subject, told by log-ratios and cosines alone.

Every number compares two parts of the same subject: how much more strongly a component reads another than a
random one would, how its size compares with that of its neighbours, how far two maps point the same way.
None of them changes under a rotation of the residual stream, a change of basis inside heads, an order of
heads or neurons, or a common scale; so signatures of subjects that share no coordinates can be compared.

    σ_ik^c = log ‖W_in^{k,c} W_out^i‖_F − log ‖W_in^{k,c}‖_F ‖W_out^i‖_F − (the same for random subspaces)

is half of the composition of `metamodel.features.composition`; the overlap of subspaces is the projection
kernel ‖U_iᵀ U_k‖²_F of orthonormal bases over its expectation r_i r_k / d.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.features.composition import CHANNELS, edges, factors
from metamodel.features.view import View, double_centred, view
from metamodel.subjects.config import Component, Kind, components
from metamodel.subjects.subject import Subject

COMPOSITIONS = ("q_composition", "k_composition", "v_composition", "in_composition")
PAIR_RATIOS = (*COMPOSITIONS, "q_overlap", "k_overlap", "v_overlap", "ov_cosine", "qk_cosine")
"""Of a source and a reader behind it; cosines of OV and of QK maps also of heads of one layer."""
OWN_RATIOS = (
    "ov_over_layer",
    "qk_over_layer",
    "ov_over_subject",
    "qk_over_subject",
    "ov_over_qk",
    "ov_identity",
    "qk_identity",
    "ov_token_identity",
    "qk_token_identity",
    "mlp_over_subject",
    "mlp_cosine",
)
"""Of a component by itself: log of its size over the median of its layer or of the subject, of the two sizes
of a head over the subject's median of that ratio, and cosines of its map with the identity."""
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatioSignature:
    """All ratios of one subject; NaN where a pair or a component has none."""

    nodes: tuple[Component, ...]
    own: Float[Tensor, "node ratio"]
    """In the order of `OWN_RATIOS`."""
    pairs: Float[Tensor, "node node2 channel"]
    """Source, reader, in the order of `PAIR_RATIOS`."""

    def of_components(self) -> Float[Tensor, "node ratio"]:
        """What describes a component: its own ratios, and the strongest of each kind of pair that it is in.

        Columns: `component_names()`. NaN where a component has no such pair, as heads of the first layer have
        no head before them.
        """
        columns = [self.own]
        for source in _SOURCES:
            some = _columns(ratio for reader in _READERS for ratio in _ratios(source, reader))
            columns.append(_largest(self.pairs[self._are(source)][..., some], 0))
        for reader in _READERS:
            some = _columns(_ratios("head", reader))
            columns.append(_largest(self.pairs[:, self._are(reader)][..., some], 1))
        return torch.cat(columns, dim=1)

    def of_subject(self) -> Float[Tensor, " ratio"]:
        """What describes the whole subject: mean, largest and spread of each ratio over pairs of two kinds.

        Entries: `subject_names()`. NaN where there is no such pair.
        """
        found = []
        for kind, ratios in _OWN.items():
            columns = [OWN_RATIOS.index(ratio) for ratio in ratios]
            found.append(_pooled(self.own[self._are(kind)][:, columns]))
        for source in _SOURCES:
            for reader in _READERS:
                block = self.pairs[self._are(source)][:, self._are(reader)].flatten(0, 1)
                found.append(_pooled(block[:, _columns(_ratios(source, reader))]))
        return torch.cat(found)

    def _are(self, kind: Kind) -> Tensor:
        return torch.tensor([node.kind == kind for node in self.nodes], device=self.own.device)


_SOURCES: tuple[Kind, ...] = ("token_embedding", "position_embedding", "head", "mlp")
_READERS: tuple[Kind, ...] = ("head", "mlp", "unembedding")
_POOLED = ("mean", "max", "spread")


_OWN: dict[Kind, tuple[str, ...]] = {"head": OWN_RATIOS[:-2], "mlp": OWN_RATIOS[-2:]}


def _ratios(source: Kind, reader: Kind) -> tuple[str, ...]:
    """Those that pairs of two kinds can have."""
    if reader != "head":
        return ("in_composition",)
    return (*COMPOSITIONS[:3], *PAIR_RATIOS[4:]) if source == "head" else COMPOSITIONS[:3]


def _columns(ratios: Iterable[str]) -> list[int]:
    """Indices of ratios of pairs, each once."""
    return [PAIR_RATIOS.index(ratio) for ratio in dict.fromkeys(ratios)]


def component_names() -> tuple[str, ...]:
    """Columns of `RatioSignature.of_components`."""
    names = list(OWN_RATIOS)
    for source in _SOURCES:
        some = dict.fromkeys(ratio for reader in _READERS for ratio in _ratios(source, reader))
        names += [f"from_{source}.{ratio}" for ratio in some]
    return (*names, *(f"to_{reader}.{ratio}" for reader in _READERS for ratio in _ratios("head", reader)))


def subject_names() -> tuple[str, ...]:
    """Entries of `RatioSignature.of_subject`."""
    groups: list[tuple[str, tuple[str, ...]]] = list(_OWN.items())
    groups += [(f"{source}>{reader}", _ratios(source, reader)) for source in _SOURCES for reader in _READERS]
    return tuple(f"{group}.{ratio}.{how}" for group, ratios in groups for how in _POOLED for ratio in ratios)


def ratio_signature(subject: Subject) -> RatioSignature:
    """Signature of a subject, from its canonical form. No prompt is run.

    Raises: InputError for weights that are no subject.
    """
    return signature_of_view(view(subject))


@torch.no_grad()
def signature_of_view(v: View) -> RatioSignature:
    """As `ratio_signature`, for a view that is used elsewhere too."""
    nodes = components(v.config)
    heads = torch.tensor([i for i, node in enumerate(nodes) if node.kind == "head"])
    mlps = torch.tensor([i for i, node in enumerate(nodes) if node.kind == "mlp"])
    own = v.E.new_full((len(nodes), len(OWN_RATIOS)), torch.nan)
    for name, value in _of_heads(v).items():
        own[heads, OWN_RATIOS.index(name)] = value.flatten()
    if len(mlps):
        for name, value in _of_mlps(v).items():
            own[mlps, OWN_RATIOS.index(name)] = value
    pairs = v.E.new_full((len(nodes), len(nodes), len(PAIR_RATIOS)), torch.nan)
    relations = edges(v, factors(v))
    exists = relations[:, :, CHANNELS.index("exists")] > 0
    for name in COMPOSITIONS:
        reads = "unembedding mlp" if name.startswith("in") else "head"
        can = exists & torch.tensor([node.kind in reads.split() for node in nodes], device=v.E.device)
        half = relations[:, :, CHANNELS.index(name)] / 2
        pairs[:, :, PAIR_RATIOS.index(name)] = torch.where(can, half, torch.nan)
    between = exists[heads][:, heads]
    for name, value in _overlaps(v).items():
        pairs[heads[:, None], heads, PAIR_RATIOS.index(name)] = torch.where(between, value, torch.nan)
    layers = torch.tensor([nodes[i].layer for i in heads])
    other = (layers[:, None] <= layers) & ~torch.eye(len(heads), dtype=torch.bool)
    maps: tuple[tuple[Literal["ov_cosine", "qk_cosine"], Tensor, Tensor], ...] = (
        ("ov_cosine", v.W_V, v.W_O.mT),
        ("qk_cosine", v.W_Q, v.W_K),
    )
    for name, left, right in maps:
        value = _cosines(left.flatten(0, 1), right.flatten(0, 1))
        pairs[heads[:, None], heads, PAIR_RATIOS.index(name)] = torch.where(
            other.to(value.device), value, torch.nan
        )
    return RatioSignature(nodes=nodes, own=own, pairs=pairs)


def _of_heads(v: View) -> dict[str, Float[Tensor, "layer head"]]:
    """Sizes and directions of the maps of heads, through products in which no inner basis is left."""
    ov, qk = _product_norm(v.W_V, v.W_O.mT).log(), _product_norm(v.W_Q, v.W_K).log()
    root = v.config.d_model**0.5
    values, attention = v.E @ v.W_V @ v.W_O @ v.U, v.E @ v.W_Q @ (v.E @ v.W_K).mT
    return {
        "ov_over_layer": ov - _median(ov, 1),
        "qk_over_layer": qk - _median(qk, 1),
        "ov_over_subject": ov - _median(ov.flatten(), 0),
        "qk_over_subject": qk - _median(qk.flatten(), 0),
        "ov_over_qk": (ov - qk) - _median((ov - qk).flatten(), 0),
        "ov_identity": torch.einsum("lhmd,lhdm->lh", v.W_V, v.W_O) / (ov.exp() * root),
        "qk_identity": torch.einsum("lhmd,lhmd->lh", v.W_Q, v.W_K) / (qk.exp() * root),
        "ov_token_identity": _with_identity(double_centred(values)),
        "qk_token_identity": _with_identity(double_centred(attention)),
    }


def _of_mlps(v: View) -> dict[str, Float[Tensor, " layer"]]:
    weights = v.subject.weights
    layers = range(v.config.n_layers)
    reads = torch.stack([weights[f"blocks.{layer}.mlp.W_in"].to(v.E) for layer in layers])
    writes = torch.stack([weights[f"blocks.{layer}.mlp.W_out"].to(v.E) for layer in layers])
    read, write = reads.norm(dim=1), writes.norm(dim=2)  # of each neuron
    size = (read * write).pow(2).sum(-1).clamp_min(_SMALLEST).log() / 2
    inner = torch.einsum("lmn,lnm->ln", reads, writes)
    return {
        "mlp_over_subject": size - _median(size, 0),
        "mlp_cosine": (inner / (read * write).clamp_min(_SMALLEST)).mean(-1),
    }


def _product_norm(left: Tensor, right: Tensor) -> Tensor:
    """Frobenius norm of `left @ rightᵀ` through the small Gram matrices."""
    return ((left.mT @ left) * (right.mT @ right)).sum((-1, -2)).clamp_min(_SMALLEST).sqrt()


def _median(x: Tensor, dim: int) -> Tensor:
    """Mean of the two middle values for an even number, so that the order of a pair does not matter."""
    return x.quantile(0.5, dim=dim, keepdim=True)


def _with_identity(scores: Float[Tensor, "*rest token same"]) -> Float[Tensor, "*rest"]:
    """Cosine of a double-centred matrix with the centred identity."""
    root = max(scores.shape[-1] - 1, 1) ** 0.5
    trace = scores.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace / (scores.norm(dim=(-1, -2)).clamp_min(_SMALLEST) * root)


def _overlaps(v: View) -> dict[str, Float[Tensor, "node node2"]]:
    """Log of the projection kernel over its expectation, of what each head writes and what another reads."""
    write = _basis(v.W_O.mT.flatten(0, 1))
    dimensions = v.config.d_model - (1 if v.config.has_norm else 0)
    found = {}
    for name, read in (("q_overlap", v.W_Q), ("k_overlap", v.W_K), ("v_overlap", v.W_V)):
        basis = _basis(read.flatten(0, 1))
        kernel = torch.einsum("imd,kme->ikde", write, basis).pow(2).sum((-1, -2))
        rank = write.pow(2).sum((1, 2))[:, None] * basis.pow(2).sum((1, 2))
        found[name] = (kernel * dimensions / rank.clamp_min(1)).clamp_min(1e-6).log()
    return found


def _basis(x: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_model rank"]:
    """Orthonormal bases of column spaces; columns beyond the rank are zero."""
    left, size, _ = torch.linalg.svd(x, full_matrices=False)
    return left * (size > 1e-6 * size[:, :1].clamp_min(_SMALLEST))[:, None]


def _cosines(
    left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_model d_head"]
) -> Float[Tensor, "head head"]:
    """Cosines between the maps `left @ rightᵀ` of all pairs of heads."""
    inner = torch.einsum("imd,kme->ikde", left, left) * torch.einsum("imd,kme->ikde", right, right)
    product = inner.sum((-1, -2))
    norm = product.diagonal().clamp_min(_SMALLEST).sqrt()
    return product / (norm[:, None] * norm)


def _largest(x: Tensor, dim: int) -> Tensor:
    """Over what is not NaN; NaN where nothing is."""
    if not x.shape[dim]:
        return x.new_full([n for i, n in enumerate(x.shape) if i != dim], torch.nan)
    best = x.nan_to_num(nan=-torch.inf).amax(dim)
    return torch.where(torch.isinf(best), torch.nan, best)


def _pooled(x: Float[Tensor, "row ratio"]) -> Float[Tensor, " out"]:
    """Mean, largest and spread of each column, over what is not NaN."""
    mean = x.nanmean(0) if len(x) else x.new_full((x.shape[1],), torch.nan)
    spread = (x - mean).pow(2).nanmean(0).sqrt() if len(x) else mean
    return torch.cat([mean, _largest(x, 0), spread])
