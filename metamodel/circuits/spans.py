"""Named spans of positions, by which an edge is resolved: from where to where it carries what matters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require

LONGEST = 16
"""Positions up to which each may be a span of its own: more make more pairs than anyone reads."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spans:
    """A label for each position of each prompt, such as BOS, prefix, A, B, query.

    Raises: InputError for no names, or a label without one.
    """

    labels: Int[Tensor, "batch pos"]
    """Index into `names`; -1 for positions that belong to none and are never patched."""
    names: tuple[str, ...]

    def __post_init__(self):
        require(
            len(self.names) > 0, "spans.names", expected="at least one name", got="none", do="Name each span."
        )
        low, high = int(self.labels.min()), int(self.labels.max())
        require(
            low >= -1 and high < len(self.names),
            "spans.labels",
            expected=f"labels from -1 to {len(self.names) - 1}",
            got=f"{low} to {high}",
            do="Give each label a name; -1 is for positions of no span.",
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def members(self) -> Bool[Tensor, "span batch pos"]:
        """Which positions each span holds."""
        return torch.stack([self.labels == i for i in range(len(self))])


def spans_at(prompts: Prompts, places: Mapping[str, slice]) -> Spans:
    """Spans at the same positions of every prompt, by slices: `{"BOS": slice(0, 1), "rest": slice(1, None)}`.

    Raises: InputError for an empty slice, or slices that overlap.
    """
    labels = torch.full_like(prompts.clean, -1)
    n_pos = prompts.clean.shape[-1]
    for i, (name, place) in enumerate(places.items()):
        chosen = labels[:, place]
        do = f"Prompts have {n_pos} positions."
        require(
            chosen.numel() > 0, f"spans[{name!r}]", expected="some positions", got=f"none in {place}", do=do
        )
        require(
            bool((chosen < 0).all()),
            f"spans[{name!r}]",
            expected="positions that no other span holds",
            got=str(place),
            do="Let spans follow one another.",
        )
        labels[:, place] = i
    return Spans(labels=labels, names=tuple(places))


def spans_per_position(prompts: Prompts) -> Spans:
    """Every position a span of its own, named by its index. Raises: InputError for more than `LONGEST`."""
    n_pos = prompts.clean.shape[-1]
    require(
        n_pos <= LONGEST,
        "spans",
        expected=f"at most {LONGEST} positions to make each a span",
        got=n_pos,
        do="Group them by spans_at.",
    )
    labels = torch.arange(n_pos, device=prompts.clean.device).expand_as(prompts.clean)
    return Spans(labels=labels, names=tuple(map(str, range(n_pos))))


def check_spans(prompts: Prompts, spans: Spans) -> None:
    """Raises: InputError unless there is a label for each position of these prompts."""
    shape = tuple(prompts.clean.shape)
    require(
        tuple(spans.labels.shape) == shape,
        "spans.labels",
        expected=f"shape {shape}, that of the prompts",
        got=tuple(spans.labels.shape),
        do="Label each position of each prompt.",
    )
