"""Weight matching (Ainsworth et al. 2023, Git Re-Basin), for two subjects of one shape, weights at hand.

Coordinate descent over permutations: of the residual stream's coordinates, of heads in each block, of neurons
in each MLP; each step is a linear assignment with the others fixed. Heads enter by the products `W_V W_O` and
`W_Q W_Kᵀ`, which no change of basis inside a head moves, since a permutation of heads alone cannot undo one.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metamodel.analogy.pairs import MatchedPair
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject

SWEEPS = 20


class WeightMatching:
    """The similarity `weights` of pairs of equal shapes; None for all others."""

    def __init__(self, subject_of: Callable[[str], Subject | None]):
        """Args:
        subject_of: the subject of a side's id, where it is at hand.
        """
        self._subject_of = subject_of

    def __call__(self, pair: MatchedPair) -> Float[Tensor, "node theirs"] | None:
        first, second = self._subject_of(pair.first_side.id), self._subject_of(pair.second_side.id)
        if first is None or second is None or first.config != second.config:
            return None
        place = {node.name: i for i, node in enumerate(components(first.config))}
        if not {*pair.first.names, *pair.second.names} <= place.keys():
            return None  # strangers have no weights here
        whole = weight_similarity(first, second)
        rows, columns = ([place[name] for name in graph.names] for graph in (pair.first, pair.second))
        return whole[rows][:, columns]


def weight_similarity(
    first: Subject, second: Subject, *, sweeps: int = SWEEPS
) -> Float[Tensor, "node theirs"]:
    """Cosine of the weights of heads of one block, and of its MLPs, once coordinates are matched; else -1."""
    ours, theirs = _Weights(first), _Weights(second)
    d = first.config.d_model
    stream = np.arange(d)
    reached = -np.inf
    for _ in range(sweeps):
        heads = [
            _assigned(_head_products(a, b, stream)) for a, b in zip(ours.heads, theirs.heads, strict=True)
        ]
        neurons = [
            _assigned(_neuron_products(a, b, stream)) for a, b in zip(ours.mlps, theirs.mlps, strict=True)
        ]
        worth = _stream_products(ours, theirs, stream, heads, neurons)
        stream = _assigned(worth)
        now = float(worth[np.arange(d), stream].sum())
        if now <= reached + 1e-6:
            break
        reached = now
    nodes = components(first.config)
    found = torch.full((len(nodes), len(nodes)), -1.0)
    place = {node.name: i for i, node in enumerate(nodes)}
    for layer, (a, b) in enumerate(zip(ours.heads, theirs.heads, strict=True)):
        products = _head_products(a, b, stream)
        norms = _norms(a)[:, None] * _norms(b)[None, :]
        rows = [place[f"L{layer}H{head}"] for head in range(len(a))]
        found[np.ix_(rows, rows)] = (products / norms.clamp_min(1e-12)).float()
    for layer, (a, b) in enumerate(zip(ours.mlps, theirs.mlps, strict=True)):
        products = _neuron_products(a, b, stream)
        neurons = _assigned(products)
        i = place[f"MLP{layer}"]
        total = products[torch.arange(len(neurons)), torch.tensor(neurons)].sum()
        found[i, i] = float(total / (a.norm() * b.norm()).clamp_min(1e-12))
    return found


class _Weights:
    """What weight matching looks at: residual coordinates last."""

    def __init__(self, subject: Subject):
        weights, config = {k: v.double() for k, v in subject.weights.items()}, subject.config
        self.embeddings = torch.cat(
            [weights["embed.W_E"], weights["pos_embed.W_pos"], weights["unembed.W_U"].T]
        )
        self.heads: list[Tensor] = []
        self.mlps: list[Tensor] = []
        for layer in range(config.n_layers):
            block = f"blocks.{layer}"
            q, k, v, o = (weights[f"{block}.attn.W_{x}"] for x in "QKVO")
            self.heads.append(torch.stack([q @ k.mT, v @ o], dim=1))
            if config.has_mlp:
                both = [weights[f"{block}.mlp.W_in"].T, weights[f"{block}.mlp.W_out"]]
                self.mlps.append(torch.stack(both, dim=1))


def _norms(heads: Float[Tensor, "head one d_model same"]) -> Float[Tensor, " head"]:
    return heads.flatten(1).norm(dim=1)


def _head_products(a: Tensor, b: Tensor, stream: Int[np.ndarray, " d_model"]) -> Float[Tensor, "row column"]:
    """Inner products of heads, the second subject's coordinates in the order of the first's."""
    moved = b[:, :, stream][:, :, :, stream]
    return a.flatten(1) @ moved.flatten(1).T


def _neuron_products(
    a: Tensor, b: Tensor, stream: Int[np.ndarray, " d_model"]
) -> Float[Tensor, "row column"]:
    return a.flatten(1) @ b[:, :, stream].flatten(1).T


def _stream_products(
    ours: _Weights,
    theirs: _Weights,
    stream: Int[np.ndarray, " d_model"],
    heads: list[np.ndarray],
    neurons: list[np.ndarray],
) -> Float[Tensor, "row column"]:
    """What matching two coordinates is worth, the other permutations fixed."""
    found = ours.embeddings.T @ theirs.embeddings
    for a, b, order in zip(ours.mlps, theirs.mlps, neurons, strict=True):
        found = found + a.flatten(0, 1).T @ b[order].flatten(0, 1)
    for a, b, order in zip(ours.heads, theirs.heads, heads, strict=True):
        other = b[order]
        found = found + torch.einsum("hxij,hxkj->ik", a, other[:, :, :, stream])
        found = found + torch.einsum("hxji,hxjk->ik", a, other[:, :, stream])
    return found


def _assigned(worth: Float[Tensor, "row column"]) -> Int[np.ndarray, " row"]:
    return linear_sum_assignment(worth.numpy(), maximize=True)[1]
