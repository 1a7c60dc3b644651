"""From many entries of matrices and a few sizes to an embedding: what two trained opponents share.

Entries are dropped at random while training, since there are more of them than subjects; sizes, which say
most across subjects of independent seeds, are not.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

START = 0.1
"""Weight of entries when training starts: sizes are learned first."""


class Embedding(nn.Module):
    """From entries, some of which are dropped while training, and sizes, which are not, to a component."""

    def __init__(self, n_entries: int, n_sizes: int, width: int, dropout: float):
        super().__init__()
        self.entries = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_entries, 2 * width))
        self.scale = nn.Parameter(torch.tensor(START))
        self.sizes = nn.Linear(n_sizes, 2 * width)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, *parts: tuple[Tensor, Tensor]) -> Float[Tensor, "*rest width"]:
        entries, sizes = (torch.cat(found, dim=-1) for found in zip(*parts, strict=True))
        return self.out(self.scale * self.entries(entries) + self.sizes(sizes))
