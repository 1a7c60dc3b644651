"""How opponents that are networks themselves are trained: on whole domains of training subjects."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SEED = 0


@contextmanager
def seeded() -> Iterator[None]:
    """Inside, weights that are drawn are the same whatever was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


def learn(
    network: nn.Module,
    losses: Sequence[Callable[[], Tensor]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """Adam on the mean loss of a few episodes at a time.

    Args:
        losses: of each episode, under the network as it is now.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for _ in range(steps):
        chosen = torch.randint(len(losses), (batch_size,), generator=generator)
        optimiser.zero_grad()
        torch.stack([losses[i]() for i in chosen.tolist()]).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    network.requires_grad_(False)
