"""Functions for TransformerLens's hooks: to change what passes, to hold it constant, to take it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from metamodel.subjects.interchange.forks import Change

Hook = Callable[..., Any]


def constantly(value: Tensor) -> Change:
    return lambda old: value.reshape(old.shape[2:]).expand_as(old)


def changing(change: Change) -> Hook:
    def hook(value: Tensor, *, hook: object) -> Tensor:
        return change(value)

    return hook


def taking(taken: dict[str, Tensor], name: str, *, detach: bool = True) -> Hook:
    def hook(value: Tensor, *, hook: object) -> None:
        taken[name] = value.detach() if detach else value

    return hook
