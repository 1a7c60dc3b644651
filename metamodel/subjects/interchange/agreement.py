"""Whether what hooks say agrees with what a network computes."""

import torch
from torch import Tensor

from metamodel.config.errors import require

ADD_UP = "Choose a network whose blocks add what heads and MLPs write to the residual stream as it is."


def check_equal(
    name: str,
    got: Tensor,
    wanted: Tensor,
    *,
    expected: str = "the sum of what embeddings, heads and MLPs write before it (pre-norm blocks)",
    do: str = ADD_UP,
) -> None:
    """Raises: InputError unless two arrays agree at each position, up to rounding."""
    tolerance = 1e-3 if torch.finfo(got.dtype).bits >= 32 else 6e-2
    got, wanted = (x.float() if x.dtype.itemsize < 4 else x for x in (got, wanted))
    size = wanted.norm(dim=-1)
    off = float(((got - wanted).norm(dim=-1) / size.clamp_min(1e-2 * float(size.median()) + 1e-30)).max())
    require(
        off < tolerance, name, expected=expected, got=f"another array, off by {off:.2g} of its norm", do=do
    )
