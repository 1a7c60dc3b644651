"""Runs programs: the answer by the rule, and the causal model that a known circuit is certified against."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.programs.language import (
    POSITIONS,
    TOKENS,
    UNDEFINED,
    Aggregate,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Step,
    means,
)

Variables = dict[str, Tensor]
"""Values `[batch, pos]` of every variable, as indices into `Program.domains`; UNDEFINED where it has none."""
Use = tuple[str, str]
"""(step, argument): one reading of a variable by one step."""
_NOTHING: Mapping = {}


def run(
    program: Program,
    symbols: Int[Tensor, "batch pos"],
    fixed: Mapping[str, Tensor] = _NOTHING,
    read: Mapping[Use, Tensor] = _NOTHING,
) -> Variables:
    """Every variable of a program, inputs included.

    Args:
        symbols: indices of symbols at the program's places (no BOS); fewer places than `length` are fine.
        fixed: variable -> values `[batch, pos]` that it is held at, whatever the program says.
        read: (step, argument) -> values that this argument of this step alone reads.
    """
    n, n_pos = symbols.shape
    found: Variables = {TOKENS: symbols, POSITIONS: torch.arange(n_pos, device=symbols.device).expand(n, -1)}
    found |= {name: fixed[name] for name in (TOKENS, POSITIONS) if name in fixed}
    for step in program.steps:
        if step.name in fixed:
            found[step.name] = fixed[step.name]
            continue
        arguments = {
            argument: read.get((step.name, argument), found[name]) for argument, name in step.reads.items()
        }
        found[step.name] = _compute(program, step, arguments, found[TOKENS])
    return found


def output(program: Program, symbols: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """What a program answers at every place."""
    return run(program, symbols)[program.output]


def interchange(
    program: Program,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    step: str | tuple[str, ...],
) -> Int[Tensor, "batch pos"]:
    """What a program answers on `base` when one variable, or several, has the value that it has on `source`.

    The places are the same in both, so that exchanging `positions` changes nothing.
    """
    names = (step,) if isinstance(step, str) else step
    held = run(program, source)
    return run(program, base, fixed={name: held[name] for name in names})[program.output]


def valid(program: Program, symbols: Int[Tensor, "batch pos"]) -> Bool[Tensor, " batch"]:
    """Prompts on which every answer that is asked for is defined."""
    answers = output(program, symbols)[:, program.first :]
    return (answers != UNDEFINED).all(1)


def _compute(program: Program, step: Step, arguments: Mapping[str, Tensor], like: Tensor) -> Tensor:
    match step:
        case Map():
            value = arguments["value"]
            return _where_defined(_table(step.table, like)[value.clamp(min=0)], value)
        case SequenceMap():
            first, second = arguments["first"], arguments["second"]
            table = _table(step.table, like)
            return _where_defined(table[first.clamp(min=0), second.clamp(min=0)], first, second)
        case SelectorWidth():
            chosen, known = _selected(program, step.select, arguments, like)
            return torch.where(known, chosen.sum(-1), UNDEFINED)
        case Aggregate():
            chosen, known = _selected(program, step.select, arguments, like)
            # Only what is selected must be defined.
            value = arguments["value"]
            known = known & ~(chosen & (value == UNDEFINED)[:, None]).any(-1)
            if step.numbers is None:
                found = _common(chosen, value, program.n_values[step.value], step.default)
            else:
                found = _mean(chosen, value, step.numbers, program.length, step.default)
            return torch.where(known, found, UNDEFINED)


def _table(values: tuple, like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)


def _where_defined(found: Tensor, *arguments: Tensor) -> Int[Tensor, "batch pos"]:
    known = torch.stack([argument != UNDEFINED for argument in arguments]).all(0)
    return torch.where(known, found, UNDEFINED)


def _selected(
    program: Program, select: Select, arguments: Mapping[str, Tensor], like: Tensor
) -> tuple[Bool[Tensor, "batch query key"], Bool[Tensor, "batch query"]]:
    """Which places each place selects, and where that is known."""
    table = _table(select.table, like)
    query = arguments.get("query", torch.zeros_like(like))
    key = arguments.get("key", torch.zeros_like(like))
    seen = torch.ones(like.shape[1], like.shape[1], dtype=torch.bool, device=like.device)
    seen = seen.tril() if program.causal else seen
    chosen = table[query.clamp(min=0)[:, :, None], key.clamp(min=0)[:, None]] & seen
    unknown = ((key == UNDEFINED)[:, None] & seen).any(-1) | (query == UNDEFINED)
    return chosen, ~unknown


def _common(
    chosen: Bool[Tensor, "batch query key"], value: Int[Tensor, "batch key"], n_values: int, default: int
) -> Int[Tensor, "batch query"]:
    """The one value of the selected places, `default` where there is none, UNDEFINED where they differ."""
    values = value[:, None].expand_as(chosen)
    low = values.masked_fill(~chosen, n_values).amin(-1)
    high = values.masked_fill(~chosen, -1).amax(-1)
    found = torch.where(low == high, low, UNDEFINED)
    return torch.where(chosen.any(-1), found, default)


def _mean(
    chosen: Bool[Tensor, "batch query key"],
    value: Int[Tensor, "batch key"],
    numbers: tuple[int, ...],
    length: int,
    default: int,
) -> Int[Tensor, "batch query"]:
    """Index of the mean of the selected places' numbers among `means`."""
    domain = means(numbers, length)
    number = torch.tensor(numbers, device=value.device)[value.clamp(min=0)]
    total = (chosen * number[:, None]).sum(-1)
    count = chosen.sum(-1)
    exact = torch.tensor([float(x) for x in domain], dtype=torch.float64, device=value.device)
    # Two means of at most 15 numbers differ by more than 1/210: half of that tells them apart.
    index = torch.searchsorted(exact - 1e-3, total.double() / count.clamp(min=1), right=True) - 1
    return torch.where(count > 0, index, default)
