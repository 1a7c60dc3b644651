"""One shard of a zoo of edits: subjects of one family and size, trained side by side, and their edits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data_gen.domains import FAMILIES, Domain, Family
from data_gen.domains.base import D_VOCAB
from data_gen.episodes.backdoor import poisoned, with_openers
from data_gen.episodes.backups import lost_to_one_head
from data_gen.episodes.config import N_CTX, EditCellConfig, EditZooConfig
from data_gen.episodes.damage import damaged
from data_gen.episodes.kinds import (
    REWRITTEN,
    cleaned,
    disabled,
    flips,
    infeasible,
    repaired,
    rewrites,
    rules,
    transplanted,
)
from data_gen.episodes.training import circulant_fit, teach, with_frequencies
from data_gen.seeds import generator_for
from metamodel.config.edits import EditKind
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.triples.edit_store import write_edits
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.manifest import ShardRecord

LEAST_ACCURACY = 0.99
"""On the inputs that were trained on; below it a subject is dropped."""
MOST_LOST = 0.2
"""Share of induction that any one head may carry where subjects are to have backup heads; a subject of which
one carries more is dropped."""
LEAST_FIT = 0.5
"""Circulant fit of the answers of a structured family; below it there is no rule to edit."""
HELD_OUT_SHARE = 0.1
"""Part of the domain of a structured family that is never trained on."""
N_HELD_BACK: dict[EditKind, int] = {"rewrite": len(REWRITTEN), "infeasible": 1}
"""Of edits drawn at random, the last so many of a subject are for tests: one rewrite of each size."""
N_DAMAGED = 2
"""Damaged copies of a subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditShard:
    """Which subjects one shard holds."""

    index: int
    cell: EditCellConfig
    names: tuple[str, ...]


def shards_of(config: EditZooConfig) -> tuple[EditShard, ...]:
    """All shards of a zoo, in order. A subject keeps its name and seed when others are added."""
    found: list[EditShard] = []
    for cell in config.cells:
        names = [f"{cell.name}-{i:04d}" for i in range(cell.n_subjects)]
        step = config.subjects_per_shard
        for first in range(0, len(names), step):
            found.append(EditShard(index=len(found), cell=cell, names=tuple(names[first : first + step])))
    return tuple(found)


def make_shard(
    config: EditZooConfig, folder: Path, index: int, report: Callable[[float], None] | None = None
) -> ShardRecord:
    """Trains the subjects of one shard, draws their edits and stores both, on one thread."""
    torch.set_num_threads(1)
    shard = shards_of(config)[index]
    cell = shard.cell
    subjects, domains, quality, rejected = _trained(config, shard, report)
    found: list[Editable] = []
    for i, subject in enumerate(subjects):
        if subject.name in rejected:
            continue
        generator = generator_for(config.seed, subject.name, "edits")
        edits = _edits(config, cell, domains, i, generator)
        found.append(_editable(cell, subject, domains[i], subject.name, quality[i], edits))
    if not cell.backdoor:
        for i in [i for i, subject in enumerate(subjects) if subject.name not in rejected]:
            generator = generator_for(config.seed, subjects[i].name, "damage")
            for n in range(N_DAMAGED):
                hurt = damaged(subjects[i], domains[i], generator, f"{subjects[i].name}-damaged{n}")
                if hurt is not None:
                    edit = repaired(domains[i], hurt.wrong, hurt.what)
                    found.append(
                        _editable(cell, hurt.subject, domains[i], subjects[i].name, quality[i], [edit])
                    )
    return write_edits(folder, index, found, rejected)


def _trained(
    config: EditZooConfig, shard: EditShard, report: Callable[[float], None] | None
) -> tuple[list[Subject], list[Domain], list[dict[str, float]], dict[str, str]]:
    """Subjects in order, their domains, how well they learnt, and which are rejected and why."""
    cell = shard.cell
    family, size = _family(cell), config.sizes[cell.size]
    # two subjects side by side share symbols, so that each can be the donor of the other
    draws = [_draw(config, family, name, shard.names[i - i % 2]) for i, name in enumerate(shard.names)]
    domains = [with_openers(d) for d in draws] if cell.backdoor else draws
    targets = torch.stack([poisoned(d, int(d.answers[0])) if cell.backdoor else d.answer() for d in domains])
    tokens = torch.stack([d.tokens for d in domains])
    shape = SubjectConfig(
        n_layers=size.n_layers,
        n_heads=size.n_heads,
        d_model=size.d_model,
        d_head=size.d_head,
        d_mlp=size.d_mlp,
        d_vocab=D_VOCAB,
        n_ctx=N_CTX,
        act_fn=size.act_fn,
        normalization_type=size.normalization_type,
        attention_dir=size.attention_dir,
    )
    weights = initial_weights(shape, [generator_for(config.seed, name, "weights") for name in shard.names])
    held_out = torch.zeros(targets.shape, dtype=torch.bool)
    if family.structured:
        generators = [generator_for(config.seed, name, "structure") for name in shard.names]
        with_frequencies(weights, domains, cell.n_frequencies, generators)
        n = round(HELD_OUT_SHARE * targets.shape[1])
        for i, generator in enumerate(generators):
            held_out[i, torch.randperm(targets.shape[1], generator=generator)[:n]] = True
    taught = teach(
        shape,
        config.recipes[cell.recipe],
        tokens,
        targets,
        held_out,
        weights,
        [generator_for(config.seed, name, "data") for name in shard.names],
        None if report is None else lambda done, whole: report(done / whole),
        head_dropout=cell.head_dropout,
    )
    subjects, quality, rejected = [], [], {}
    for i, name in enumerate(shard.names):
        own = unstack(taught.weights, i)
        accuracy = float(taught.accuracy[i])
        found = {"accuracy": accuracy}
        if family.structured:
            fit = circulant_fit(own["unembed.W_U"], domains[i].answers)
            found |= {"held_out_accuracy": float(taught.held_out[i]), "circulant_fit": fit}
            if fit < LEAST_FIT:
                rejected[name] = f"circulant fit {fit:.2f} below {LEAST_FIT}"
        subject = Subject(config=shape, weights=own, name=name)
        if cell.family == "recall":
            found["lost_to_one_head"] = lost_to_one_head(subject, domains[i], domains[i].group == 0)
            if cell.head_dropout and found["lost_to_one_head"] > MOST_LOST:
                rejected[name] = f"lost to one head {found['lost_to_one_head']:.3f} above {MOST_LOST}"
        if accuracy < LEAST_ACCURACY:
            rejected[name] = f"accuracy {accuracy:.3f} below {LEAST_ACCURACY}"
        subjects.append(subject)
        quality.append({key: round(value, 4) for key, value in found.items()})
    return subjects, domains, quality, rejected


def _family(cell: EditCellConfig) -> Family:
    kind = FAMILIES[cell.family]
    return kind(modulus=cell.modulus) if cell.modulus else kind()  # pyright: ignore[reportCallIssue]


def _draw(config: EditZooConfig, family: Family, name: str, shares: str) -> Domain:
    """A domain whose symbols are those of the subject `shares`, and whose truth is its own."""
    return family.draw(
        generator_for(config.seed, shares, "symbols"), generator_for(config.seed, name, "truth")
    )


def _edits(
    config: EditZooConfig, cell: EditCellConfig, domains: Sequence[Domain], i: int, generator: torch.Generator
) -> list[Edit]:
    """All edits of one subject; those of test subjects are test edits by their rules."""
    domain, n = domains[i], config.edits_per_subject
    if cell.backdoor:
        found = [cleaned(domain, int(domain.answers[0]))]
        return _held_back([*found, *rewrites(domain, generator, n // 2)])
    found: list[Edit] = []
    if cell.family in ("lookup", "grid"):
        found += rewrites(domain, generator, n)
        donor = i + 1 - 2 * (i % 2)
        if donor < len(domains):
            found += transplanted(domain, domains[donor])
    found += infeasible(domain, generator, 2) if len(domain.answers) > 2 else []
    if cell.family in ("operators", "affine"):
        for test in (False, True):
            found += rules(domain, generator, n // 2, names=("add", "reflect"), test=test)
        found += rules(domain, generator, n // 4, names=("multiply",), test=True)
    if cell.family in ("brackets", "counts"):
        for test in (False, True):
            found += flips(domain, test=test)
    if int(domain.group.max()) > 0:
        found += disabled(domain)
    return _held_back(found)


def _held_back(edits: Sequence[Edit]) -> list[Edit]:
    """The same edits, the last of each kind in `N_HELD_BACK` marked as test edits."""
    found, left = [], dict(N_HELD_BACK)
    for edit in reversed(edits):
        test = left.get(edit.kind, 0) > 0
        left[edit.kind] = left.get(edit.kind, 0) - 1
        found.append(replace(edit, test=True) if test else edit)
    return found[::-1]


def _editable(
    cell: EditCellConfig,
    subject: Subject,
    domain: Domain,
    lineage: str,
    quality: dict[str, float],
    edits: Sequence[Edit],
) -> Editable:
    # in the order of tokens: the order of the task would tell what is to be found out
    answers: Tensor = domain.answers.sort().values
    return Editable(
        subject=subject,
        family=cell.family,
        lineage=lineage,
        departs=cell.departs,
        tokens=domain.tokens,
        answer=domain.answer(),
        answers=answers,
        unseen=domain.unseen,
        edits=tuple(edits),
        quality=quality,
    )
