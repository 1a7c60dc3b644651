"""How many threads small work takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """What is run on one subject is thousands of small operations: more threads gain less than they are, and
    where cores are shared with other work they wait for each other at every one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
