"""Runs in which sets of items are ablated: what searches, interactions and minimal sets ask a subject.

A set is a row of booleans, True for each item that is *ablated*; all other items are kept. Ablated means in
its broken state, so that nothing ablated is the behaviour and everything ablated is its absence, whatever the
intervention (`metamodel.circuits.oracles` makes oracles of subjects):

    noising      clean prompts; an ablated item says what it said on the corrupt prompt, a kept one computes
    denoising    corrupt prompts; a kept item says what it said on the clean prompt, an ablated one computes
    zero, mean   clean prompts; an ablated item says nothing, or its mean over clean prompts

Whatever is no item computes itself in that run. So a backup, which speaks only where its primary is silent,
stands in for it under noising, and not under denoising, which restores its silence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.config.errors import InputError, require, suggestion

SetFunction = Callable[[Bool[Tensor, "set item"]], Float[Tensor, "set batch"]]
"""From sets of ablated items to a metric on each prompt."""

_SMALLEST_GAP = 1e-6
"""Relative to the metric: below it the ablation of all items changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What there is to explain: a metric with nothing ablated, and with everything."""

    intact: float
    """Mean over prompts."""
    ablated: float

    def kept(self, values: Float[Tensor, "set batch"]) -> Float[Tensor, " set"]:
        """Share of the gap that is left: 1 as with nothing ablated, 0 as with everything."""
        return (values.double().mean(-1) - self.ablated) / (self.intact - self.ablated)


class SetOracle:
    """A metric on each prompt as a function of which items are ablated. Counts its runs.

    An evaluation is one run of one set on all prompts. Nothing is remembered but the two ends of the gap.
    """

    def __init__(self, names: Sequence[str], run: SetFunction, *, lower_is_better: bool = False):
        """
        Args:
            names: of the items, each once.
            run: the metric; may be any function of sets, as of a planted truth.
            lower_is_better: whether a larger metric is a worse answer, as of `kl`.

        Raises: InputError without items, or for a name that occurs twice.
        """
        require(len(names) > 0, "items", expected="at least one item", got="none", do="Name some.")
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "items", expected="each item once", got=f"{twice} twice", do="Name it once.")
        self.names, self.lower_is_better, self.evaluations = tuple(names), lower_is_better, 0
        self._run, self._gap, self._index = run, None, {name: i for i, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.names)

    @torch.no_grad()
    def __call__(self, ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
        assert ablated.shape[1] == len(self), f"{len(self)} items, sets of {ablated.shape[1]}"
        self.evaluations += len(ablated)
        return self._run(ablated)

    def index(self, items: Iterable[str]) -> tuple[int, ...]:
        """Places of named items. Raises: InputError for an unknown one."""
        found = []
        for name in items:
            if name not in self._index:
                do = f"Name one of {len(self)} items.{suggestion(name, self.names)}"
                raise InputError("items", expected="a known item", got=repr(name), do=do)
            found.append(self._index[name])
        return tuple(found)

    def rows(self, sets: Iterable[Iterable[str]]) -> Bool[Tensor, "set item"]:
        """Sets of names as rows of booleans. Raises: InputError for an unknown name."""
        places = [self.index(one) for one in sets]
        rows = torch.zeros(len(places), len(self), dtype=torch.bool)
        for row, place in zip(rows, places, strict=True):
            row[list(place)] = True
        return rows

    def ablate(self, *sets: Iterable[str]) -> Float[Tensor, "set batch"]:
        """The metric with each set ablated and all other items kept. Raises: InputError as `index`."""
        return self(self.rows(sets))

    def keep(self, *sets: Iterable[str]) -> Float[Tensor, "set batch"]:
        """The metric with each set kept and all other items ablated. Raises: InputError as `index`."""
        return self(~self.rows(sets))

    def gap(self) -> Gap:
        """The two ends: two evaluations the first time, none later.

        Raises: InputError if the ablation of all items does not worsen the metric: there is nothing to find.
        """
        if self._gap is None:
            ends = torch.tensor([[False], [True]]).expand(2, len(self))
            intact, ablated = self(ends).double().mean(-1).tolist()
            drop = ablated - intact if self.lower_is_better else intact - ablated
            require(
                drop > _SMALLEST_GAP * max(1.0, abs(intact), abs(ablated)),
                "items",
                expected="items whose ablation, all together, worsens the metric",
                got=f"{intact:.4g} with none ablated and {ablated:.4g} with all",
                do="Choose other items, prompts or another intervention: there is nothing to find.",
            )
            self._gap = Gap(intact=intact, ablated=ablated)
        return self._gap

    def among(self, items: Iterable[str], *, ablate_rest: bool = False) -> "SetOracle":
        """An oracle of some of the items; the rest is always kept, or always ablated.

        Its runs count here too. Raises: InputError for an unknown item, or none.
        """
        names = tuple(items)
        place = list(self.index(names))

        def run(ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
            whole = torch.full((len(ablated), len(self)), ablate_rest)
            whole[:, place] = ablated
            return self(whole)

        return SetOracle(names, run, lower_is_better=self.lower_is_better)

    def grouped(self, groups: Mapping[str, Iterable[str]]) -> "SetOracle":
        """An oracle whose items are named groups of these items; what is in no group is always kept.

        An item of several groups is ablated with any of them. Raises: InputError as `among`.
        """
        members = self.rows(groups.values()).double()

        def run(ablated: Bool[Tensor, "set item"]) -> Float[Tensor, "set batch"]:
            return self((ablated.double() @ members) > 0)

        return SetOracle(tuple(groups), run, lower_is_better=self.lower_is_better)
