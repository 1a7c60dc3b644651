"""The baseline `transformer_nfn`: learned invariants of a head's products, in the coordinates as stored.

After Tran et al. 2024, "Equivariant neural functional networks for transformers": polynomials in `W_Q W_Kᵀ`
and `W_V W_O` are invariant to GL(d_head) inside a head, and a learned functional reads their entries `(p, q)`
by absolute residual coordinates. So its readout means the same for two subjects only if they share a basis of
the residual stream, as checkpoints of one seed do and independent seeds do not; that is its known limit, kept
here on purpose.

Two departures. Theirs sums over heads at once and cannot score one; here each head keeps its own terms, and
the sum over its layer stands beside them. Theirs learns a full matrix over `(p, q)` for one fixed width and
has no way to another: coordinates have no order that a wider subject would extend. Here the functional has
low rank: learned directions over a common grid of `GRID` coordinates, of which a subject reads as many rows
as it has coordinates (the rest is cropped, later coordinates of a wider subject are not read).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.node_order import by_node
from metamodel.baselines.raw_weights import raw_weights
from metamodel.baselines.trained import Inputs, Setting, TrainedPredictor
from metamodel.subjects.config import SubjectConfig

GRID = 128
"""Residual coordinates that are read."""
RANK = 12
"""Learned directions on each side of a product."""
TINY = 1e-12


class Directions(nn.Module):
    """Learned directions in the common grid of coordinates."""

    def __init__(self):
        super().__init__()
        self.grid = nn.Parameter(torch.randn(GRID, RANK))

    def forward(self, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest rank"]:
        n = min(x.shape[-1], GRID)
        return x[..., :n] @ self.grid[:n]


class Invariants(nn.Module):
    """Entries of a product `A B` along learned directions, over its norm, with the norm itself."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Directions(), Directions()

    def forward(
        self, a: Float[Tensor, "*rest inner d_model"], b: Float[Tensor, "*rest inner d_model"]
    ) -> Float[Tensor, "*rest out"]:
        """`aᵀ b`, summed over the inner axis, is the product; nothing else of it enters."""
        norm = (a @ a.mT * (b @ b.mT)).sum((-1, -2)).clamp_min(TINY).sqrt()[..., None]
        entries = self.left(a).mT @ self.right(b)
        return torch.cat([entries.flatten(-2) / norm, norm.log()], dim=-1)


class Rows(nn.Module):
    """Rows of an embedding along learned directions: their mean and mean square, and the rows' mean norm."""

    def __init__(self):
        super().__init__()
        self.directions = Directions()

    def forward(self, x: Float[Tensor, "*rest row d_model"]) -> Float[Tensor, "*rest out"]:
        size = x.square().sum((-1, -2), keepdim=True).div(x.shape[-2]).clamp_min(TINY).sqrt()
        along = self.directions(x / size)
        moments = [along.mean(-2), along.square().mean(-2), size[..., 0].log()]
        return torch.cat(moments, dim=-1)


N_PRODUCT, N_ROWS = RANK * RANK + 1, 2 * RANK + 1


class TransformerNfn(nn.Module):
    """Invariants of every component, mixed over the heads of a layer as the paper's layers mix them."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.qk, self.ov, self.mlp = Invariants(), Invariants(), Invariants()
        self.query_bias, self.constant = Directions(), Directions()
        self.rows = nn.ModuleDict({name: Rows() for name in ("W_E", "W_pos", "W_U", "W_in", "W_out")})
        self.head = _embedding(2 * N_PRODUCT + RANK, width, dropout)
        self.neurons = _embedding(N_PRODUCT + 2 * N_ROWS + RANK, width, dropout)
        self.whole = nn.ModuleDict(
            {name: _embedding(N_ROWS, width, dropout) for name in ("W_E", "W_pos", "W_U")}
        )
        self.beside = nn.Linear(width, width)

    def forward(self, config: SubjectConfig, inputs: Inputs) -> Float[Tensor, "subject node width"]:
        keys = inputs["W_K"].mT
        qk = self.qk(inputs["W_Q"].mT, keys)
        ov = self.ov(inputs["W_V"].mT, inputs["W_O"])
        # the query bias acts through the keys, so that no basis of the head's inside is left
        salience = (inputs["b_Q"].unsqueeze(-2) @ keys).squeeze(-2)
        heads = self.head(torch.cat([qk, ov, self.query_bias(_unit(salience))], dim=-1))
        heads = heads + self.beside(heads.sum(2, keepdim=True) / config.n_heads**0.5)
        mlps = None
        if config.has_mlp:
            read, write = inputs["W_in"].mT, inputs["W_out"]
            parts = [self.mlp(read, write), self.rows["W_in"](read), self.rows["W_out"](write)]
            mlps = self.neurons(torch.cat([*parts, self.constant(_unit(inputs["b_out"]))], dim=-1))
        whole = {"W_E": inputs["W_E"], "W_pos": inputs["W_pos"], "W_U": inputs["W_U"].mT}
        read = {name: self.whole[name](self.rows[name](value)) for name, value in whole.items()}
        return by_node(
            tokens=read["W_E"], positions=read["W_pos"], heads=heads, mlps=mlps, unembedding=read["W_U"]
        )


def _unit(x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(TINY)


def _embedding(n_in: int, width: int, dropout: float) -> nn.Module:
    inner = nn.Linear(n_in, 2 * width)
    return nn.Sequential(
        nn.Dropout(dropout), inner, nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
    )


SETTINGS = (
    Setting(lr=2e-3, width=48, dropout=0.35, epochs=50),
    Setting(lr=2e-3, width=48, dropout=0.5, epochs=50),
)


def transformer_nfn() -> TrainedPredictor:
    return TrainedPredictor(
        "transformer_nfn", describe=raw_weights, encoder=TransformerNfn, settings=SETTINGS
    )
