"""Quasi-Newton descent (L-BFGS; Liu and Nocedal 1989) from no change at all, in double precision.

A change of gauge rounds weights anew, and the search is not to follow that: scipy's first step is measured by
the Euclidean norm, and convergence by the loss alone.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

HISTORY = 20


def minimised(
    loss: Callable[[Float[Tensor, " entry"]], Float[Tensor, ""]],
    size: int,
    *,
    n_steps: int,
    least_gain: float,
    device: torch.device,
) -> tuple[Float[Tensor, " entry"], float]:
    """The numbers that make a loss least, as far as so many steps go, and that loss.

    Args:
        loss: of `size` numbers in double precision, all of them zero at first.
        least_gain: in nats, or relative to a loss above one: steps that gain less end the search.
    """

    def both(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        numbers = torch.from_numpy(flat).to(device).requires_grad_()
        with torch.enable_grad():
            found = loss(numbers)
            (slope,) = torch.autograd.grad(found, numbers)
        return float(found.detach()), slope.cpu().numpy()

    # tests of convergence by the largest slope depend on the basis of the stream; by the loss they do not
    options = {"maxiter": n_steps, "maxcor": HISTORY, "gtol": 0.0, "ftol": least_gain}
    found = minimize(both, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).to(device), float(found.fun)
