"""Teachers of a zoo, their tasks, and the circuits that students are to have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.seeds import generator_for
from data_gen.student.config import PairsConfig, StudentConfig
from data_gen.subject_task import task_of
from data_gen.tasks.base import Task
from metamodel.analogy.graph import edge_matrix
from metamodel.circuits.exact import Exact
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.weight_gradients import LEAST_GAP
from metamodel.config.errors import require
from metamodel.subjects.subject import Subject
from metamodel.triples.store import Zoo

N_TAUGHT = 64
"""Pairs of prompts on which the circuit of a teacher is measured that students learn."""
N_POOL = 512
"""Pairs of prompts among which circuit terms draw theirs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A subject to be like."""

    subject: Subject
    id: str
    lineage: str
    task: Task
    pool: Prompts
    """Pairs of prompts that students may be trained on."""
    shares: Float[Tensor, " edge"]
    """Exact effect of each edge on the margin, as a share of the margin between clean and corrupt prompts."""

    @property
    def edges(self) -> Float[Tensor, "channel node node2"]:
        return edge_matrix(self.subject.config, self.shares)

    def rewired(self, generator: torch.Generator) -> Float[Tensor, "channel node node2"]:
        """The same effects on other edges: shuffled among those of the same kind of input."""
        channels = [edge.destination.channel for edge in component_edges(self.subject.config).edges]
        shares = self.shares.clone()
        for channel in sorted(set(channels)):
            at = torch.tensor([i for i, found in enumerate(channels) if found == channel])
            shares[at] = self.shares[at[torch.randperm(len(at), generator=generator)]]
        return edge_matrix(self.subject.config, shares)


def teachers(config: StudentConfig, pairs: PairsConfig) -> tuple[Teacher, ...]:
    """Those that these pairs ask for.

    Raises: InputError if the zoo is missing, or has fewer.
    """
    folder = Path(config.zoo)
    zoo = Zoo.open(folder)
    chosen = {
        "family": pairs.family,
        "variant": "base",
        "size": pairs.teacher_size,
        "recipe": pairs.teacher_recipe,
        "origin": "trained",
        "relation": "none",
    }
    rows = [row for row in zoo.rows.to_list() if all(row[k] == v for k, v in chosen.items())]
    rows = sorted((row for row in rows if "@" not in row["id"]), key=lambda row: row["id"])
    last = pairs.first + pairs.n_pairs
    require(
        len(rows) >= last,
        f"{folder}: teachers of {pairs.family}, {pairs.teacher_size}, {pairs.teacher_recipe}",
        expected=f"at least {last}",
        got=len(rows),
        do="Ask for fewer pairs, or for a size and recipe that the zoo has.",
    )
    seed = int(zoo.manifest.config["seed"])
    return tuple(_teacher(zoo, row["id"], seed, config.seed) for row in rows[pairs.first : last])


def _teacher(zoo: Zoo, id: str, zoo_seed: int, seed: int) -> Teacher:
    info, subject = zoo.info(id), zoo.subject(id)
    task = task_of(info, zoo_seed)
    pool = task.prompts(generator_for(seed, "student", "pool", id), N_POOL)
    return Teacher(
        subject=subject,
        id=id,
        lineage=info.lineage,
        task=task,
        pool=pool,
        shares=exact_shares(subject, pool.where(torch.arange(N_TAUGHT))),
    )


@torch.no_grad()
def exact_shares(subject: Subject, prompts: Prompts) -> Float[Tensor, " edge"]:
    """Exact effect of patching each edge, as a share of the margin between clean and corrupt prompts."""
    scores = Exact().score(subject, prompts)
    rows = torch.arange(len(prompts))
    corrupt = subject.run(prompts.corrupt).logits[0, rows, prompts.position]
    gap = scores.base - float(margin(corrupt, prompts.answer).mean())
    return scores.value / max(gap, LEAST_GAP)


def stacked_prompts(prompts: Sequence[Prompts], name: str) -> Tensor:
    return torch.stack([getattr(one, name) for one in prompts])
