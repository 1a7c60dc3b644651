"""Circuits of a zoo's subjects, and of subjects that were made from them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.config import HarvestConfig
from data_gen.harvesting import task_prompts
from data_gen.remeasured import harvest_of
from data_gen.seeds import generator_for
from data_gen.subject_task import task_of
from data_gen.tasks.base import Task
from metamodel.analogy.graph import CircuitGraph, circuit_graph
from metamodel.analogy.orbits import orbits
from metamodel.analogy.pairs import NONE, Side
from metamodel.circuits.exact import edge_scores
from metamodel.features.relative import matcher_features
from metamodel.features.view import Shown
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import NEGATIVE, POSITIVE, Triple
from metamodel.triples.store import Zoo


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Circuit:
    """The circuit of one subject on one task, and what is known of its nodes."""

    graph: CircuitGraph
    kept: Int[Tensor, " kept"]
    """Which components of the subject are its nodes."""
    side: Side

    def gauged(self, generator: torch.Generator) -> "tuple[Circuit, Int[Tensor, ' kept']]":
        """The same in another gauge, of which a circuit shows nothing but the order of its nodes; and which
        node went to each place."""
        order = torch.randperm(len(self.graph), generator=generator)
        moved = Circuit(graph=self.graph.taken(order), kept=self.kept[order], side=self.side.taken(order))
        return moved, order


@dataclass(slots=True, kw_only=True)
class Circuits:
    """Circuits of one zoo, each made once."""

    zoo: Zoo
    harvest: HarvestConfig
    zoo_seed: int
    seed: int
    """Of the zoo of pairs, for prompts that are drawn anew."""
    _made: dict[str, Circuit] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, seed: int) -> "Circuits":
        """Raises: InputError without a finished zoo, or for one whose subjects were not made here."""
        zoo = Zoo.open(Path(folder))
        harvest, zoo_seed = harvest_of(Path(folder))
        return cls(zoo=zoo, harvest=harvest, zoo_seed=zoo_seed, seed=seed)

    def task(self, id: str) -> Task:
        if id not in self._tasks:
            self._tasks[id] = task_of(self.zoo.info(id), self.zoo_seed)
        return self._tasks[id]

    def stored(self, id: str) -> Circuit:
        """The circuit of a triple of the zoo, from the scores that it stores."""
        if id not in self._made:
            triple = self.zoo.triple(id)
            self._made[id] = stored_circuit(triple)
        return self._made[id]

    def swept(self, subject: Subject, id: str, task: Task, *, name: str) -> Circuit:
        """The circuit of a subject that is not in the zoo, on prompts of its own.

        Args:
            id: of the triple that it was made from.
            task: on which its edges are scored.
            name: what it was made for: its prompts and its id derive from it.
        """
        prompts = task_prompts(
            task, generator_for(self.seed, id, name, "circuit prompts"), self.harvest.n_prompts
        )
        shown = task_prompts(task, generator_for(self.seed, id, name, "shown"), self.harvest.n_shown)
        values = edge_scores(subject, prompts, "noising").margin
        nodes = matcher_features(subject, Shown(tokens=shown.clean, position=shown.position))
        graph, kept = circuit_graph(subject.config, values, nodes)
        unknown = torch.zeros(len(kept), len(self.zoo.manifest.labels), dtype=torch.bool)
        lineage = self.zoo.info(id).lineage
        side = Side(id=f"{id}+{name}", lineage=lineage, orbit=orbits(graph), labels=unknown, known=unknown)
        return Circuit(graph=graph, kept=kept, side=side)


def stored_circuit(triple: Triple) -> Circuit:
    """The circuit of a triple, with the functions of its nodes."""
    behavior = triple.behavior
    shown = Shown(tokens=behavior.shown_tokens.long(), position=behavior.shown_position.long())
    nodes = matcher_features(triple.subject, shown)
    graph, kept = circuit_graph(triple.subject.config, triple.circuit.noising_margin, nodes)
    state = triple.labels.state[kept]
    side = Side(
        id=triple.info.id,
        lineage=triple.info.lineage,
        orbit=orbits(graph),
        labels=state == POSITIVE,
        known=(state == NEGATIVE) | (state == POSITIVE),
    )
    return Circuit(graph=graph, kept=kept, side=side)


def truth_between(
    first: Int[Tensor, " kept"], second: Int[Tensor, " theirs"], counterpart: Int[Tensor, " node"]
) -> Int[Tensor, " kept"]:
    """The truth among nodes of two circuits from that among all components of their subjects.

    Args:
        first, second: which components are nodes.
        counterpart: for each component of the first subject that of the second, or NONE.
    """
    place = {component: i for i, component in enumerate(second.tolist())}
    return torch.tensor([place.get(int(counterpart[i]), NONE) for i in first.tolist()], dtype=torch.int64)


def with_orbit(circuit: Circuit, orbit: Int[Tensor, " kept"]) -> Circuit:
    return replace(circuit, side=replace(circuit.side, orbit=orbit))


def heads_in(config: SubjectConfig, kept: Int[Tensor, " kept"]) -> tuple[int, ...]:
    """Those of the kept components that are heads, as indices among all components."""
    nodes = components(config)
    return tuple(i for i in kept.tolist() if nodes[i].kind == "head")
