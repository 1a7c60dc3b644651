"""The least rank of a change that does an edit, where the whole edited function is known.

    python benchmarks/edit_ranks.py data/edits-small [--edits 2]

For each kind of edit of each family, factors of every rank are trained with L-BFGS on the whole domain, at
the last matrix that writes and at the unembedding: where a change of rank 1 there is enough, a task proves
nothing. The last line of stdout is one JSON object, `{kind family: {place: least rank}}`: the median of the
least ranks with S of at least 0.9 (the higher of two), null where no rank tried is enough.
"""

import hashlib
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from metamodel.baselines.editing.aims import Aims, loss, truth
from metamodel.baselines.editing.base import Changes, Episode
from metamodel.baselines.editing.suffix import Suffix, suffix
from metamodel.config.command import run_command
from metamodel.config.edits import GOOD
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.editing.episodes import episode
from metamodel.evaluation.editing.scores import scores
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Edit

RANKS = (1, 2, 4, 8, 16)
STEPS = 1000
WRITER, UNEMBEDDING = "last writer", "unembedding"
ASKED = 16
"""Pairs of a specification, which count for nothing but which inputs are scored as shown."""


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.edit_ranks", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo of edits")
    parser.add_argument("--edits", type=int, default=2, help="edits of each kind of each family")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    found = {}
    for task, episodes in tasks(EditZoo.open(Path(given.zoo)), given.edits).items():
        found[task] = {place: median([least(e, place) for e in episodes]) for place in (WRITER, UNEMBEDDING)}
        sys.stderr.write(f"{task}: {found[task]}\n")
    sys.stdout.write(table(found) + "\n" + json.dumps(found) + "\n")


def tasks(zoo: EditZoo, n: int) -> dict[str, list[Episode]]:
    """Up to `n` edits of each kind of each family, each of another lineage."""
    by_task: dict[str, dict[str, Episode]] = defaultdict(dict)
    for one in sorted(zoo.subjects, key=lambda s: hashlib.sha256(s.subject.name.encode()).hexdigest()):
        for edit in one.edits:
            if edit.kind != "infeasible" and len(by_task[f"{what(edit)} {one.family}"]) < n:
                of = by_task[f"{what(edit)} {one.family}"]
                of.setdefault(one.lineage, episode(one, edit, edit.n_pairs or ASKED, 0))
    return {task: list(of.values()) for task, of in sorted(by_task.items())}


def what(edit: Edit) -> str:
    """Kind of an edit, with the number of facts or the form of a rule."""
    if edit.kind == "rewrite":
        return f"rewrite {edit.n_pairs}"
    if edit.kind == "rule":
        return "rule k*y" if "*" in edit.rule else "rule c-y" if edit.rule.endswith("y") else "rule +c"
    return edit.kind


def least(e: Episode, place: str) -> int | None:
    """The least rank whose change has S of at least GOOD; None where none of RANKS is enough."""
    aims, subject = truth(e), e.editable.subject
    end = suffix(subject, aims.tokens, aims.position)
    for rank in RANKS:
        if scores(e, trained(end, aims, place, rank)).harmonic_mean >= GOOD:
            return rank
    return None


def trained(end: Suffix, aims: Aims, place: str, rank: int) -> Changes:
    """The change `left @ right` of that rank after L-BFGS on the whole edited function."""
    weights = end.subject.weights
    read = end.hidden if place == WRITER else end.read
    before = end.logits()
    width = end.stream.shape[1] if place == WRITER else before.shape[1]
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(read.shape[1], rank, generator=generator) / read.shape[1] ** 0.5
    left.requires_grad_()
    right = torch.zeros(rank, width, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [left, right], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        said = end.logits(left @ right) if place == WRITER else before + read @ (left @ right)
        value = loss(said, aims)
        value.backward()
        return value

    optimiser.step(closure)
    change = (left @ right).detach()
    if place == UNEMBEDDING:
        assert change.shape == weights["unembed.W_U"].shape
        return {"unembed.W_U": change}
    return end.written(change)


def median(ranks: list[int | None]) -> float | None:
    """None counts as more than any rank."""
    value = statistics.median_high([float("inf") if rank is None else float(rank) for rank in ranks])
    return None if value == float("inf") else value


def table(found: dict[str, dict[str, float | None]]) -> str:
    """A row for each kind of edit of each family."""

    def cells() -> Iterator[str]:
        for task, of in found.items():
            said = [f"over {RANKS[-1]}" if of[place] is None else f"{of[place]:g}" for place in of]
            yield f"| {task} | {' | '.join(said)} |"

    return "\n".join([f"| task | {WRITER} | {UNEMBEDDING} |", "| --- | --- | --- |", *cells()])


if __name__ == "__main__":
    run_command(main)
