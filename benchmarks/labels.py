"""Do function labels find what was planted, and refuse what only looks like it?

    python benchmarks/labels.py [--seeds 6] [--programs 1]

Subjects of which it is known what components do: specimens, into which single functions are planted by hand
(`data_gen.specimens`), and programs of the library, compiled and planted, whose variables name labels in the
table below. Beside what is planted stand host components, re-initialised ones, and decoys, which attend or
look up like the original and write where nothing reads.

For each label: the area under the ROC curve of its raw score, decoys left out, as some show the whole
pattern; the same with decoys among the negatives, for scores that count where the causal twin holds; and the
shares of planted, decoys and other components that are POSITIVE. Progress goes to stderr, the last line of
stdout is one JSON object.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from sklearn.metrics import roc_auc_score

from data_gen.compiler.compile import minimal_size
from data_gen.compiler.make import make_compiled
from data_gen.config import RecipeConfig
from data_gen.function_labels import function_labels
from data_gen.harvesting import task_prompts
from data_gen.labels.batteries import batteries
from data_gen.labels.registry import LABELS, MLP_LABELS
from data_gen.null import label_null, reinitialised
from data_gen.planted import plant
from data_gen.programs.library import library_program
from data_gen.programs.task import ProgramTask
from data_gen.seeds import generator_for
from data_gen.specimens import heads, mlps
from data_gen.specimens.specimen import BOS, Specimen
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.subjects.config import Component, components
from metamodel.subjects.subject import Subject, unstack
from metamodel.triples.schema import MASKED, NEGATIVE, POSITIVE, ROLES, FunctionLabels

MAKE = {
    "looking_back": (heads.looking_back, 3),
    "repeated": (heads.repeated, 1),
    "in_a_row": (heads.in_a_row, 1),
    "indirect": (heads.indirect, 1),
    "by_token": (mlps.by_token, 1),
    "by_pair": (mlps.by_pair, 1),
    "by_share": (mlps.by_share, 1),
    "by_frequency": (mlps.by_frequency, 1),
}
"""Kind of specimen -> how it is made, and how many of it there are for each seed."""
LABELS_OF = {
    "shift": {"previous": ("previous_token",)},
    "dedupe": {"previous": ("previous_token",), "kept": ("pair_lookup",)},
    "trend": {"previous": ("previous_token",), "trend": ("pair_lookup",)},
    "alternation": {"back1": ("previous_token",), "back2": ("offset_k",)},
    "detect": {"back1": ("previous_token",), "back2": ("offset_k",)},
    "induction": {"previous": ("previous_token",), "next": ("induction", "k_composition")},
    "identity": {"same": ("token_lookup",)},
    "absolute": {"size": ("token_lookup",)},
    "seen-before": {"count": ("duplicate_token",)},
}
"""Program -> variable -> labels that whatever computes it should get, by hand."""
LENGTH = {"seen-before": 8}
"""Places of programs whose usual prompts are too short for a battery that repeats."""
N_PROMPTS, N_COPIES, N_FRESH = 48, 20, 2


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was found of one label: (raw score, counted where the twin holds, state) of each component."""

    planted: list[tuple[float, float, int]] = field(default_factory=list)
    decoys: list[tuple[float, float, int]] = field(default_factory=list)
    others: list[tuple[float, float, int]] = field(default_factory=list)
    n_masked: int = 0
    """Planted where the label is undefined, such as in prompts that are too short for it."""


@torch.no_grad()
def labels_of(specimen: Specimen, seed: int) -> list[FunctionLabels]:
    """Labels of a specimen, and of re-initialised subjects of its shape on its prompts."""
    config, prompts = specimen.subject.config, specimen.prompts
    draw = torch.Generator().manual_seed(seed)
    n_pos = prompts.clean.shape[1]
    tests = batteries(draw, n=N_PROMPTS, n_pos=n_pos, bos=BOS, symbols=specimen.symbols)
    copies = reinitialised(config, N_COPIES, seed)
    null = label_null(copies, config, tests, prompts, specimen.structure)
    copies = reinitialised(config, N_FRESH, seed + 1000)
    fresh = [Subject(config=config, weights=unstack(copies, i)) for i in range(N_FRESH)]
    return [
        function_labels(subject, prompts, tests, null, specimen.structure)
        for subject in (specimen.subject, *fresh)
    ]


def count(specimen: Specimen, seed: int, seen: dict[str, Seen]) -> None:
    """Adds the components of one specimen, and of re-initialised subjects, to what was seen."""
    found, *fresh = labels_of(specimen, seed)
    for j, label in enumerate(LABELS):
        kind = "mlp" if label in MLP_LABELS else "head"
        for i, node in enumerate(components(specimen.subject.config)):
            if node.kind != kind or node in specimen.aside.get(label.name, ()):
                continue
            group = seen[label.name].others
            if node in specimen.planted.get(label.name, ()):
                group = seen[label.name].planted
            elif node in specimen.decoys.get(label.name, ()):
                group = seen[label.name].decoys
            for where, labels in ((group, found), *((seen[label.name].others, one) for one in fresh)):
                if int(labels.state[i, j]) != MASKED:
                    where.append(_scores(labels, i, j))
                elif where is seen[label.name].planted:
                    seen[label.name].n_masked += 1


def _scores(labels: FunctionLabels, i: int, j: int) -> tuple[float, float, int]:
    raw, state = float(labels.raw[i, j]), int(labels.state[i, j])
    helps = float(labels.twin[i, j].nan_to_num(0)) > 0
    counted = raw if state == POSITIVE or (state == NEGATIVE and helps) else min(raw, 0.0) - 1.0
    return raw, counted, state


def from_programs(n_seeds: int) -> Iterator[tuple[str, int, Specimen]]:
    """Programs of the library as specimens: compiled and disguised, and planted into hosts with decoys."""
    for name, table in LABELS_OF.items():
        program = library_program(name, length=LENGTH.get(name))
        task, least = ProgramTask(program=program), minimal_size(program)
        for seed in range(n_seeds):
            size = replace(least, n_heads=least.n_heads + 1, d_mlp=max(least.d_mlp, 8) + 16)
            made = make_compiled(program, size, seed, steps=20)
            named = {v: made.truth.variables >> k & 1 for k, v in enumerate(_order(task))}
            if not made.report.rejected:
                yield f"compiled {name}", seed, _specimen(made.subject, task, made.truth.role, named, table)
            size = replace(size, d_model=least.d_model + 24, n_heads=least.n_heads + 4, d_mlp=size.d_mlp + 16)
            recipe = RecipeConfig(steps=50)
            subject, truth, why = plant(task, size, seed, host_family=None, recipe=recipe, steps=20)
            named = {v: truth.variables >> k & 1 for k, v in enumerate(_order(task))}
            if not why:
                yield f"planted {name}", seed, _specimen(subject, task, truth.role, named, table)


def _order(task: ProgramTask) -> tuple[str, ...]:
    return ("tokens", "positions", *(step.name for step in task.program.steps))


def _specimen(
    subject: Subject,
    task: ProgramTask,
    role: torch.Tensor,
    named: dict[str, torch.Tensor],
    table: dict[str, tuple[str, ...]],
) -> Specimen:
    """A subject with a known circuit. Copies, whose twins need one another, count on neither side, and so
    does whatever of the circuit, its copies and decoys the table says nothing of."""
    planted: dict[str, set[Component]] = {}
    aside: dict[str, set[Component]] = {}
    nodes = components(subject.config)
    roles = [ROLES[int(r)] for r in role]
    kinds = {label.name: "mlp" if label in MLP_LABELS else "head" for label in LABELS}
    for variable, labels in table.items():
        for label in labels:
            for i, node in enumerate(nodes):
                if node.kind == kinds[label] and bool(named[variable][i]):
                    group = planted if roles[i] == "circuit" else aside
                    group.setdefault(label, set()).add(node)
    for label, kind in kinds.items():
        for i, node in enumerate(nodes):
            told = node.kind != kind or node in planted.get(label, ())
            if not told and roles[i] in ("circuit", "redundant", "negative", "decoy"):
                aside.setdefault(label, set()).add(node)
    prompts = task_prompts(task, generator_for("labels", task.program.name), N_PROMPTS)
    return Specimen(
        subject=subject,
        prompts=prompts,
        structure=task.structure(prompts),
        symbols=task.content(prompts.clean),
        planted={k: frozenset(v) for k, v in planted.items()},
        decoys={},
        aside={k: frozenset(v) for k, v in aside.items()},
    )


def specimens(n_seeds: int) -> Iterator[tuple[str, int, Specimen]]:
    for kind, (make, times) in MAKE.items():
        for seed in range(n_seeds * times):
            yield kind, seed, make(seed)


def area(positive: list[float], negative: list[float]) -> float | None:
    if not positive or not negative:
        return None
    truth = [1] * len(positive) + [0] * len(negative)
    return round(float(roc_auc_score(truth, positive + negative)), 4)


def share(group: list[tuple[float, float, int]]) -> float | None:
    return round(sum(state == POSITIVE for *_, state in group) / len(group), 4) if group else None


def summary(seen: Seen) -> dict[str, object]:
    planted, others, decoys = seen.planted, seen.others, seen.decoys
    return {
        "auroc": area([x[0] for x in planted], [x[0] for x in others]),
        "auroc_with_decoys": area([x[1] for x in planted], [x[1] for x in others + decoys]),
        "n_positive": len(planted),
        "n_negative": len(others),
        "n_decoys": len(decoys),
        "n_masked": seen.n_masked,
        "positive_state_share": share(planted),
        "decoys_positive_share": share(decoys),
        "others_positive_share": share(others),
    }


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.labels", description=__doc__ or "")
    parser.add_argument("--seeds", type=int, default=6, help="specimens of each kind")
    parser.add_argument("--programs", type=int, default=1, help="subjects of each program and origin")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    seen = {label.name: Seen() for label in LABELS}
    by_hand = {label.name: Seen() for label in LABELS}
    for kind, seed, specimen in specimens(given.seeds):
        print(f"{kind} {seed}", file=sys.stderr)
        count(specimen, seed, by_hand)
    for kind, seed, specimen in from_programs(given.programs):
        print(f"{kind} {seed}", file=sys.stderr)
        count(specimen, seed, seen)
    found = {}
    for name in seen:
        both = Seen(
            planted=by_hand[name].planted + seen[name].planted,
            decoys=by_hand[name].decoys + seen[name].decoys,
            others=by_hand[name].others + seen[name].others,
            n_masked=by_hand[name].n_masked + seen[name].n_masked,
        )
        found[name] = summary(both)
        alone = summary(seen[name])
        found[name]["programs"] = {k: alone[k] for k in ("auroc", "n_positive", "positive_state_share")}
        print(f"{name:18s} {found[name]}", file=sys.stderr)
    print(json.dumps({"labels": found}))


if __name__ == "__main__":
    run_command(main)
