"""Encoders of circuits as sets: what they say does not depend on the order of tokens, positions or neurons.

Layers are the linear maps that commute with permutations, as of Hartford et al. 2018 ("Deep models of
interactions across sets") for rows and columns of their own, and of Maron et al. 2019 ("Invariant and
equivariant graph networks") for matrices whose rows and columns are the same items: every entry sees itself,
its mirror image, the means of its row and column and of their counterparts, both diagonal entries, and the
mean of all. Padding is masked, so that sizes are free.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.features.batch import SeenBatch
from metamodel.features.matrices import (
    CROSSED_CHANNELS,
    FOLLOWED_CHANNELS,
    NEURON_CHANNELS,
    POSITION_CHANNELS,
    TOKEN_CHANNELS,
)

Encoded = tuple[Float[Tensor, "subject node encoded"], Float[Tensor, "subject node node edge_width"]]
"""What an encoder of circuits says of each node and of each pair."""
LAGS = 5
"""Distances between two positions that an entry is told apart by: 0 to 4, and more."""
LEAST = -1.0
"""Below whatever GELU gives: what padding counts as where the largest is looked for."""
LIMIT = 6.0
"""Entries are squashed smoothly beyond this size."""


class SquareLayer(nn.Module):
    """Equivariant map of matrices whose rows and columns are the same items."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.entry, self.mirror = nn.Linear(n_in, n_out), nn.Linear(n_in, n_out, bias=False)
        self.of_row, self.of_column = nn.Linear(4 * n_in, n_out), nn.Linear(3 * n_in, n_out)

    def forward(
        self, x: Float[Tensor, "*rest row column n_in"], mask: Bool[Tensor, "*rest row"]
    ) -> Float[Tensor, "*rest row column n_out"]:
        rows, columns, diagonal, whole = _means(x, mask)
        of_row = self.of_row(torch.cat([rows, columns, diagonal, whole.expand_as(rows)], dim=-1))
        of_column = self.of_column(torch.cat([rows, columns, diagonal], dim=-1))
        mixed = self.entry(x) + self.mirror(x.transpose(-2, -3))
        return mixed + of_row[..., :, None, :] + of_column[..., None, :, :]


def _means(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of rows and of columns, the diagonal, and the mean of all; entries outside the mask are zero."""
    n = mask.sum(-1).clamp_min(1).to(x)[..., None, None]
    diagonal = x.diagonal(dim1=-3, dim2=-2).transpose(-1, -2)
    rows, columns = x.sum(-2) / n, x.sum(-3) / n
    return rows, columns, diagonal, rows.sum(-2, keepdim=True) / n


class SquareEncoder(nn.Module):
    """Several matrices of one component on the same items, as one vector."""

    def __init__(self, n_channels: int, width: int, n_out: int):
        super().__init__()
        self.first, self.second = SquareLayer(n_channels, width), SquareLayer(width, width)
        self.out = nn.Linear(3 * width, n_out)

    def forward(
        self, x: Float[Tensor, "*rest row column channel"], mask: Bool[Tensor, "*rest row"]
    ) -> Float[Tensor, "*rest out"]:
        there = (mask[..., :, None] & mask[..., None, :])[..., None]
        x = nn.functional.gelu(self.first(x * there, mask)) * there
        x = nn.functional.gelu(self.second(x, mask)) * there
        _, _, diagonal, whole = _means(x, mask)
        n = mask.sum(-1, keepdim=True).clamp_min(1).to(x)
        largest = x.masked_fill(~there, LEAST).amax((-2, -3))
        return self.out(torch.cat([whole.squeeze(-2), diagonal.sum(-2) / n, largest], dim=-1))


class CrossedEncoder(nn.Module):
    """Matrices whose rows and columns are different items, tokens and positions, as one vector."""

    def __init__(self, n_channels: int, width: int, n_out: int):
        super().__init__()
        self.entry, self.means = nn.Linear(n_channels, width), nn.Linear(2 * n_channels, width, bias=False)
        self.out = nn.Linear(2 * width, n_out)

    def forward(
        self,
        x: Float[Tensor, "*rest row column channel"],
        row_mask: Bool[Tensor, "*rest row"],
        column_mask: Bool[Tensor, "*rest column"],
    ) -> Float[Tensor, "*rest out"]:
        there = (row_mask[..., :, None] & column_mask[..., None, :])[..., None]
        x = x * there
        n_row, n_column = (m.sum(-1).clamp_min(1).to(x)[..., None, None] for m in (row_mask, column_mask))
        rows = (x.pow(2).sum(-2) / n_column)[..., :, None, :].expand_as(x)
        columns = (x.pow(2).sum(-3) / n_row)[..., None, :, :].expand_as(x)
        x = nn.functional.gelu(self.entry(x) + self.means(torch.cat([rows, columns], dim=-1))) * there
        mean = x.sum((-2, -3)) / (n_row * n_column).squeeze(-1)
        return self.out(torch.cat([mean, x.masked_fill(~there, LEAST).amax((-2, -3))], dim=-1))


class NeuronEncoder(nn.Module):
    """The neurons of an MLP, as one vector: mean and largest of what each says (deep sets)."""

    def __init__(self, n_channels: int, width: int, n_out: int):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(n_channels, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(2 * width, n_out)

    def forward(
        self, x: Float[Tensor, "*rest neuron channel"], mask: Bool[Tensor, "*rest neuron"]
    ) -> Float[Tensor, "*rest out"]:
        x = self.each(x) * mask[..., None]
        mean = x.sum(-2) / mask.sum(-1, keepdim=True).clamp_min(1)
        return self.out(torch.cat([mean, x.masked_fill(~mask[..., None], LEAST).amax(-2)], dim=-1))


class CircuitEncoder(nn.Module):
    """What the circuits of each component and of each pair look like, as `n_out` and `n_pair` numbers."""

    def __init__(self, width: int, n_out: int, n_pair: int):
        super().__init__()
        self.n_pair = n_pair
        # a diagonal entry is told apart, and at what distance two positions are
        self.tokens = SquareEncoder(len(TOKEN_CHANNELS) + 1, width, n_out)
        self.positions = SquareEncoder(len(POSITION_CHANNELS) + LAGS + 2, width, n_out)
        self.crossed = CrossedEncoder(len(CROSSED_CHANNELS), width, n_out)
        self.neurons = NeuronEncoder(len(NEURON_CHANNELS), width, n_out)
        self.followed = SquareEncoder(len(FOLLOWED_CHANNELS) + 1, width // 2, n_pair)

    def forward(self, batch: SeenBatch) -> Encoded:
        """Zero where there is no node, and no edge.

        Raises: AssertionError if a subject of the batch came without matrices.
        """
        m = batch.matrices
        assert m is not None, "a reader of weights was given a graph without matrices"
        there = batch.node_mask
        owner = there.nonzero()[:, 0]
        token_mask, pos_mask = m.token_mask[owner], m.pos_mask[owner]
        tokens, positions = _entries(m.tokens[there]), _entries(m.positions[there])
        said = self.tokens(torch.cat([tokens, _diagonal(tokens)], dim=-1), token_mask)
        said = said + self.positions(torch.cat([positions, _lags(positions)], dim=-1), pos_mask)
        said = said + self.crossed(_entries(m.crossed[there]), token_mask, pos_mask)
        said = said + self.neurons(_soft(m.neurons[there]), m.neuron_mask[there])
        x = said.new_zeros(*there.shape, said.shape[-1])
        x[there] = said
        exists = batch.edges[..., 0] > 0
        pairs = said.new_zeros(*exists.shape, self.n_pair)
        followed = _entries(m.followed)
        pairs[exists] = self.followed(torch.cat([followed, _diagonal(followed)], dim=-1), m.followed_mask)
        return x, pairs


def _soft(x: Tensor) -> Tensor:
    return x / (1 + (x / LIMIT).pow(2)).sqrt()


def _entries(x: Float[Tensor, "*rest channel row column"]) -> Float[Tensor, "*rest row column channel"]:
    return _soft(x).movedim(-3, -1)


def _diagonal(x: Float[Tensor, "*rest row column channel"]) -> Float[Tensor, "*rest row column one"]:
    eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)[..., None]
    return eye.expand(*x.shape[:-1], 1)


def _lags(x: Float[Tensor, "*rest row column channel"]) -> Float[Tensor, "*rest row column lag"]:
    """How far the key lies behind the query, and whether it is the first."""
    at = torch.arange(x.shape[-2], device=x.device)
    lag = at[:, None] - at[None]
    told = [lag == k for k in range(LAGS)] + [lag >= LAGS, (at == 0).expand_as(lag)]
    return torch.stack(told, dim=-1).to(x).expand(*x.shape[:-1], -1)
