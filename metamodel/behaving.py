"""A subject with a behavior, as one side of a match; and what its mapped components are worth together."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.cumulative import cumulative_transplant
from metamodel.analogy.graph import CircuitGraph
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require
from metamodel.mapping import Mapping
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import Triple

MOST_PROMPTS = 64
"""Prompts on which components are transplanted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Behaving:
    """A subject and prompts of the behavior whose circuit is meant."""

    subject: Subject
    prompts: Prompts
    """Clean and corrupt; a few dozen will do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Prompts of a behavior on which components are exchanged."""

    prompts: Int[Tensor, "batch pos"]
    sources: Int[Tensor, "batch pos"]
    """From which what components write is taken."""
    position: Int[Tensor, " batch"]
    """Where the answer is read."""
    probes: Int[Tensor, "probe pos"]
    """Others, on which the map of residual streams is fitted."""

    @classmethod
    def of(cls, what: Behaving | Triple) -> "Places":
        """Of a triple its probe prompts, each with the next one as its source, and those that are shown. Of
        other subjects clean prompts with their corrupt ones: the first half of them for the fit."""
        if isinstance(what, Triple):
            b = what.behavior
            tokens = b.probe_tokens[:MOST_PROMPTS].long()
            return cls(
                prompts=tokens,
                sources=tokens.roll(1, 0),
                position=b.probe_position[:MOST_PROMPTS].long(),
                probes=b.shown_tokens.long(),
            )
        prompts = what.prompts
        require(
            len(prompts) > 1,
            "prompts",
            expected="two or more, one to fit the map of streams on and one to transplant on",
            got=len(prompts),
            do="Give a few dozen prompts.",
        )
        half = len(prompts) // 2
        rest = prompts.where(torch.arange(half, min(len(prompts), half + MOST_PROMPTS)))
        return cls(
            prompts=rest.clean, sources=rest.corrupt, position=rest.position, probes=prompts.clean[:half]
        )


def check_subjects(first: Behaving | Triple | CircuitGraph, second: Behaving | Triple | CircuitGraph) -> None:
    """Raises: InputError where a side is a circuit alone, of which nothing can be run."""
    for name, side in (("first", first), ("second", second)):
        require(
            not isinstance(side, CircuitGraph),
            name,
            expected="a subject with prompts or a triple, to transplant components",
            got="a circuit without its subject",
            do="Give the subject, or leave transplants out.",
        )


def transplanted(mapping: Mapping, first: Behaving | Triple, second: Behaving | Triple) -> tuple[float, ...]:
    """`Mapping.transplants`, on prompts of the second subject.

    Raises: InputError where the first subject does not embed them.
    """
    if not mapping.pairs:
        return ()
    ours, theirs = (
        {node.name: i for i, node in enumerate(components(side.subject.config))} for side in (first, second)
    )
    pairs = torch.tensor([[ours[pair.first], theirs[pair.second]] for pair in mapping.pairs])
    places = Places.of(second)
    found = cumulative_transplant(
        first.subject,
        second.subject,
        pairs,
        places.prompts,
        places.sources,
        places.position,
        probes=places.probes,
    )
    return tuple(one.ratio for one in found)
