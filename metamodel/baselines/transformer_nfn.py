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

from metamodel.baselines.entries import Embedding
from metamodel.baselines.node_order import by_node
from metamodel.baselines.raw_weights import raw_weights
from metamodel.baselines.trained import Inputs, Setting, TrainedPredictor
from metamodel.subjects.config import SubjectConfig

GRID = 128
"""Residual coordinates that are read."""
RANK = 12
"""Learned directions on each side of a product."""
TINY = 1e-4


class Directions(nn.Module):
    """Learned directions in the common grid of coordinates."""

    def __init__(self):
        super().__init__()
        self.grid = nn.Parameter(torch.randn(GRID, RANK))

    def forward(self, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest rank"]:
        n = min(x.shape[-1], GRID)
        return x[..., :n] @ self.grid[:n]


class Invariants(nn.Module):
    """Entries of a product `A B` along learned directions, over its norm; and the log of that norm."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Directions(), Directions()

    def forward(
        self, a: Float[Tensor, "*rest inner d_model"], b: Float[Tensor, "*rest inner d_model"]
    ) -> tuple[Float[Tensor, "*rest out"], Float[Tensor, "*rest 1"]]:
        """`aᵀ b`, summed over the inner axis, is the product; nothing else of it enters."""
        norm = (a @ a.mT * (b @ b.mT)).sum((-1, -2)).clamp_min(TINY).sqrt()[..., None]
        entries = self.left(a).mT @ self.right(b)
        return entries.flatten(-2) / norm, norm.log()


class Rows(nn.Module):
    """Rows of an embedding along learned directions: their mean and mean square, and the rows' mean norm."""

    def __init__(self):
        super().__init__()
        self.directions = Directions()

    def forward(
        self, x: Float[Tensor, "*rest row d_model"]
    ) -> tuple[Float[Tensor, "*rest out"], Float[Tensor, "*rest 1"]]:
        size = x.square().sum((-1, -2), keepdim=True).div(x.shape[-2]).clamp_min(TINY).sqrt()
        along = self.directions(x / size)
        return torch.cat([along.mean(-2), along.square().mean(-2)], dim=-1), size[..., 0].log()


class Along(nn.Module):
    """A vector along learned directions, over its norm; and the log of that norm."""

    def __init__(self):
        super().__init__()
        self.directions = Directions()

    def forward(
        self, x: Float[Tensor, "*rest d_model"]
    ) -> tuple[Float[Tensor, "*rest out"], Float[Tensor, "*rest 1"]]:
        norm = x.norm(dim=-1, keepdim=True).clamp_min(TINY)
        return self.directions(x / norm), norm.log()


N_PRODUCT, N_ROWS = RANK * RANK, 2 * RANK


class TransformerNfn(nn.Module):
    """Invariants of every component, mixed over the heads of a layer as the paper's layers mix them."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.qk, self.ov, self.mlp = Invariants(), Invariants(), Invariants()
        self.along = nn.ModuleDict({name: Along() for name in ("salience", "b_out")})
        self.rows = nn.ModuleDict({name: Rows() for name in ("W_E", "W_pos", "W_U", "W_in", "W_out")})
        self.head = Embedding(2 * N_PRODUCT + RANK, 3, width, dropout)
        self.neurons = Embedding(N_PRODUCT + 2 * N_ROWS + RANK, 4, width, dropout)
        names = ("W_E", "W_pos", "W_U")
        self.whole = nn.ModuleDict({name: Embedding(N_ROWS, 1, width, dropout) for name in names})
        self.beside = nn.Linear(width, width)

    def forward(self, config: SubjectConfig, inputs: Inputs) -> Float[Tensor, "subject node width"]:
        keys = inputs["W_K"].mT
        qk = self.qk(inputs["W_Q"].mT, keys)
        ov = self.ov(inputs["W_V"].mT, inputs["W_O"])
        # the query bias acts through the keys, so that no basis of the head's inside is left
        salience = self.along["salience"]((inputs["b_Q"].unsqueeze(-2) @ keys).squeeze(-2))
        heads = self.head(qk, ov, salience)
        heads = heads + self.beside(heads.sum(2, keepdim=True) / config.n_heads**0.5)
        mlps = None
        if config.has_mlp:
            read, write = inputs["W_in"].mT, inputs["W_out"]
            rows = (self.rows["W_in"](read), self.rows["W_out"](write))
            mlps = self.neurons(self.mlp(read, write), *rows, self.along["b_out"](inputs["b_out"]))
        whole = {"W_E": inputs["W_E"], "W_pos": inputs["W_pos"], "W_U": inputs["W_U"].mT}
        read = {name: self.whole[name](self.rows[name](value)) for name, value in whole.items()}
        return by_node(
            tokens=read["W_E"], positions=read["W_pos"], heads=heads, mlps=mlps, unembedding=read["W_U"]
        )


SETTINGS = (
    Setting(lr=2e-3, width=48, dropout=0.35, epochs=40),
    Setting(lr=4e-3, width=48, dropout=0.5, epochs=40),
)


def transformer_nfn() -> TrainedPredictor:
    return TrainedPredictor(
        "transformer_nfn", describe=raw_weights, encoder=TransformerNfn, settings=SETTINGS
    )
