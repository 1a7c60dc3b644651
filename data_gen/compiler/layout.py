"""Where a program goes inside a subject: a block of the residual stream and a layer for every variable."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data_gen.programs.language import (
    POSITIONS,
    TOKENS,
    Aggregate,
    Map,
    Program,
    SelectorWidth,
    SequenceMap,
)
from data_gen.programs.placement import embeddings
from metamodel.config.errors import InputError
from metamodel.subjects.config import Component

BOS_BLOCK = "bos"
"""Direction that only BOS has: what heads attend to where they select nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A program's blocks and places. Slots count attention and MLP layers: attention of layer l is 2·l."""

    program: Program
    blocks: dict[str, slice]
    """Directions of the residual stream, before any disguise, that hold a variable; of a selector width,
    `name/inverse` holds 1/(1+width), from which its MLP computes the width."""
    placement: dict[str, tuple[Component, ...]]
    n_layers: int
    n_heads: int
    """Heads in the fullest layer."""

    @property
    def d_used(self) -> int:
        """Directions in use."""
        return max(block.stop for block in self.blocks.values())

    def heads(self, layer: int) -> list[tuple[int, str]]:
        """(head, step) of one attention layer."""
        return [
            (c.head, name)
            for name, places in self.placement.items()
            for c in places
            if c.kind == "head" and c.layer == layer
        ]

    def maps(self, layer: int) -> list[str]:
        """Steps of one MLP."""
        return [
            name
            for name, places in self.placement.items()
            for c in places
            if c.kind == "mlp" and c.layer == layer
        ]


def lay_out(
    program: Program,
    *,
    n_layers: int | None = None,
    n_heads: int | None = None,
    generator: torch.Generator | None = None,
) -> Layout:
    """Puts every step into the first layer that can hold it, or, with a generator, into any that can.

    Raises: InputError if `n_layers` of `n_heads` cannot hold the program.
    """
    slots = schedule(program, n_layers, n_heads, generator)
    used: dict[int, int] = {}
    placement = dict(embeddings(program))
    for step in program.steps:
        slot = slots[step.name]
        layer = slot // 2
        mlp = Component(kind="mlp", layer=layer)
        if isinstance(step, Map | SequenceMap):
            placement[step.name] = (mlp,)
            continue
        head = Component(kind="head", layer=layer, head=used.get(layer, 0))
        used[layer] = used.get(layer, 0) + 1
        placement[step.name] = (head,) if isinstance(step, Aggregate) else (head, mlp)
    return Layout(
        program=program,
        blocks=_blocks(program),
        placement=placement,
        n_layers=n_layers or max(slots.values()) // 2 + 1,
        n_heads=n_heads or max([*used.values(), 1]),
    )


def _blocks(program: Program) -> dict[str, slice]:
    sizes = {BOS_BLOCK: 1} | {name: program.n_values[name] for name in program.inputs}
    for step in program.steps:
        if isinstance(step, SelectorWidth):
            sizes[f"{step.name}/inverse"] = 1
        sizes[step.name] = 1 if program.is_mean(step.name) else program.n_values[step.name]
    blocks, start = {}, 0
    for name, size in sizes.items():
        blocks[name] = slice(start, start + size)
        start += size
    return blocks


def schedule(
    program: Program,
    n_layers: int | None,
    n_heads: int | None,
    generator: torch.Generator | None,
    *,
    width_takes_mlp: bool = True,
) -> dict[str, int]:
    """Slot in which each step starts: attention of layer l is 2·l, its MLP 2·l + 1.

    Args:
        width_takes_mlp: a selector width takes the MLP after its head as well.

    Raises: InputError if `n_layers` of `n_heads` cannot hold the program.
    """
    latest = _latest(program, n_layers, width_takes_mlp) if n_layers is not None else {}
    done = {TOKENS: -1, POSITIONS: -1}
    slots: dict[str, int] = {}
    filled: dict[int, int] = {}
    for step in program.steps:
        is_map = isinstance(step, Map | SequenceMap)
        ready = max((done[name] for name in step.reads.values()), default=-1) + 1
        ready += (ready + is_map) % 2
        last = latest.get(step.name, ready if n_layers is None else -1)
        free = [s for s in range(ready, last + 1, 2) if is_map or _has_room(filled, s, n_heads)]
        if not free:
            raise InputError(
                f"program {program.name}",
                expected="more layers or heads",
                got=f"{n_layers} layers of {n_heads} heads",
                do=f"See minimal_size: '{step.name}' finds no place.",
            )
        slots[step.name] = _pick(free, generator)
        filled[slots[step.name]] = filled.get(slots[step.name], 0) + 1
        done[step.name] = slots[step.name] + (width_takes_mlp and isinstance(step, SelectorWidth))
    return slots


def _has_room(filled: dict[int, int], slot: int, n_heads: int | None) -> bool:
    return n_heads is None or filled.get(slot, 0) < n_heads


def _pick(options: Sequence[int], generator: torch.Generator | None) -> int:
    if generator is None:
        return options[0]
    return options[int(torch.randint(len(options), (), generator=generator))]


def _latest(program: Program, n_layers: int, width_takes_mlp: bool) -> dict[str, int]:
    """Last slot in which each step may start, such that all that follows still fits."""
    end = {step.name: 2 * n_layers for step in program.steps}
    found = {}
    for step in reversed(program.steps):
        slot = end[step.name] - 1 - (width_takes_mlp and isinstance(step, SelectorWidth))
        slot -= (slot + isinstance(step, Map | SequenceMap)) % 2
        found[step.name] = slot
        for name in step.reads.values():
            if name in end:
                end[name] = min(end[name], slot)
    return found
