"""Makes the pairs of one shard from their specifications."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.acceptance import held_out_accuracy, rejections
from data_gen.config import RecipeConfig
from data_gen.made import Made
from data_gen.matching.changed import Changed, Growth, damaged, enlarged, gauged, unchanged
from data_gen.matching.circuits import Circuit, Circuits, heads_in, truth_between, with_orbit
from data_gen.matching.config import PairZooConfig
from data_gen.matching.plan import PairSpec, Plan, is_trained_further
from data_gen.matching.program import claims, counterpart_by_variables, orbit_by_claims
from data_gen.seeds import derived_seed, generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks.base import Task
from data_gen.trained import without_least
from metamodel.analogy.absent import rank_matched, rewired, without_edge
from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.orbits import orbits
from metamodel.analogy.pairs import NONE, MatchedPair, reordered
from metamodel.analogy.planted import feature_spread, planted_pair
from metamodel.config.errors import InputError
from metamodel.subjects.config import components
from metamodel.subjects.subject import stack, unstack

MOST_REMOVED = 3
"""Heads that a damaged subject lacks, and strangers that it has, at most."""
GROWTH = {
    "heads": Growth(heads=2),
    "blocks": Growth(heads=1, blocks=1),
    "wide": Growth(heads=2, blocks=1, width=16, loud=2),
}


@dataclass(slots=True, kw_only=True)
class Maker:
    """Makes pairs; circuits that several of them need are made once."""

    config: PairZooConfig
    plan: Plan
    circuits: Circuits
    _spread: Float[Tensor, "kind feature"] | None = None

    def made(self, specs: Sequence[PairSpec]) -> tuple[list[MatchedPair], dict[str, str]]:
        """The pairs of a shard, and why some could not be made, by name."""
        pairs: list[MatchedPair] = []
        rejected: dict[str, str] = {}
        if is_trained_further(specs[0]):
            return self.trained_further(specs)
        for spec in specs:
            try:
                pairs += self.pairs_of(spec)
            except InputError as error:
                rejected[name_of(spec)] = str(error)
        return pairs, rejected

    def pairs_of(self, spec: PairSpec) -> Iterator[MatchedPair]:
        match spec.kind:
            case "permuted":
                yield self.permuted(spec)
            case "modified":
                yield self.pruned(spec) if spec.variant == "made-pruned" else self.related(spec)
            case "partial":
                yield from self.partial(spec)
            case "program":
                yield self.program(spec)
            case "natural":
                yield self.natural(spec)
            case "planted":
                yield from self.planted(spec)
            case _:
                raise AssertionError(spec.kind)

    def permuted(self, spec: PairSpec) -> MatchedPair:
        """A subject in another gauge, its edges measured on other prompts."""
        changed = gauged(unchanged(self.circuits.zoo.subject(spec.first)), self.generator(spec))
        return self.against_changed(spec, changed)

    def pruned(self, spec: PairSpec) -> MatchedPair:
        """A copy without the heads that matter least."""
        info, subject = self.circuits.zoo.info(spec.first), self.circuits.zoo.subject(spec.first)
        parent = Made(
            subject=subject, task=self.circuits.task(spec.first), seed=info.seed, lineage=info.lineage
        )
        weights = without_least(parent)
        gone = [
            i
            for i, node in enumerate(components(subject.config))
            if node.kind == "head" and not bool(weights[f"blocks.{node.layer}.attn.W_O"][node.head].any())
        ]
        changed = unchanged(subject.with_weights(weights))
        changed.counterpart[gone] = NONE
        pair = self.against_changed(spec, gauged(changed, self.generator(spec)))
        return replace(pair, variant="pruned")

    def related(self, spec: PairSpec) -> MatchedPair:
        """Two triples of the zoo, one of which was made from the other."""
        zoo = self.circuits.zoo
        subject, other = zoo.subject(spec.first), zoo.subject(spec.second)
        counterpart = torch.arange(len(components(subject.config)))
        for i, node in enumerate(components(subject.config)):
            key = f"blocks.{node.layer}.attn.W_O"
            alive = node.kind != "head" or all(
                bool(s.weights[key][node.head].any()) for s in (subject, other)
            )
            counterpart[i] = i if alive else NONE
        return self.of_stored(spec, counterpart)

    def program(self, spec: PairSpec) -> MatchedPair:
        """Two subjects that run one program."""
        triples = [self.circuits.zoo.triple(id) for id in (spec.first, spec.second)]
        first, second = (claims(triple) for triple in triples)
        circuits = [
            with_orbit(circuit, orbit_by_claims(claim, circuit.kept))
            for circuit, claim in zip(
                [self.circuits.stored(id) for id in (spec.first, spec.second)], (first, second), strict=True
            )
        ]
        # among the nodes of both circuits: a copy that is no node must not take another one's counterpart
        kept = [circuit.kept for circuit in circuits]
        truth = counterpart_by_variables(
            [first[i] for i in kept[0].tolist()], [second[i] for i in kept[1].tolist()]
        )
        return self.in_random_order(spec, circuits[0], circuits[1], truth)

    def natural(self, spec: PairSpec) -> MatchedPair:
        """Two subjects that have learnt the same task; what corresponds is not known."""
        return self.in_random_order(
            spec, self.circuits.stored(spec.first), self.circuits.stored(spec.second), None
        )

    def partial(self, spec: PairSpec) -> Iterator[MatchedPair]:
        """A subject without some heads of its circuit and with strangers; and an absent circuit like it."""
        generator = self.generator(spec)
        subject, circuit = self.circuits.zoo.subject(spec.first), self.circuits.stored(spec.first)
        heads = heads_in(subject.config, circuit.kept)
        most = min(MOST_REMOVED, len(heads) - 1)
        if most < 1:
            raise InputError(
                f"partial {spec.first}",
                expected="a circuit of two heads or more",
                got=len(heads),
                do="Nothing: this pair is left out.",
            )
        n_removed, n_inserted = (
            int(torch.randint(1, n + 1, (), generator=generator)) for n in (most, MOST_REMOVED)
        )
        order = torch.randperm(len(heads), generator=generator)[:n_removed].tolist()
        changed = damaged(
            subject, self.circuits.task(spec.first), [heads[i] for i in order], n_inserted, generator
        )
        pair = self.against_changed(spec, gauged(changed, generator))
        pair = replace(pair, level={"dropped": float(n_removed), "inserted": float(n_inserted)})
        yield pair
        yield from self.absent(spec, pair, None, generator)

    def planted(self, spec: PairSpec) -> Iterator[MatchedPair]:
        """A changed copy of a circuit; an absent circuit like it; and the copy without a required edge."""
        generator = self.generator(spec)
        level = self.level(spec)
        circuit = self.circuits.stored(spec.first)
        donors = [self.circuits.stored(id).graph for id in spec.donors]
        pair = planted_pair(circuit.graph, donors, generator, level, spread=self.spread())
        pair = self.named(pair, spec, circuit.side.id, circuit.side.id + "+planted")
        yield pair
        yield from self.absent(spec, pair, donors, generator)
        try:
            yield without_edge(pair, generator)
        except InputError:  # nothing that corresponds is joined any more
            return

    def absent(
        self,
        spec: PairSpec,
        pair: MatchedPair,
        donors: Sequence[CircuitGraph] | None,
        generator: torch.Generator,
    ) -> Iterator[MatchedPair]:
        """A pair like this one whose second circuit is not the first: in turn unrelated, and rewired.

        Args:
            donors: of the pair's strangers, where the unrelated circuit is to be changed as the second was.
        """
        if spec.unrelated and spec.number % 2 == 0:
            other = self.circuits.stored(spec.unrelated)
            graph, id = other.graph, other.side.id
            if donors is not None:
                graph = planted_pair(graph, donors, generator, self.level(spec), spread=self.spread()).second
            graph = graph.taken(torch.randperm(len(graph), generator=generator))
            second = rank_matched(graph, pair.second, generator)
            variant, lineage = "unrelated", other.side.lineage
        else:
            second, id, variant = rewired(pair.second, generator), pair.second_side.id, "rewired"
            lineage = pair.second_side.lineage
        unknown = torch.zeros(len(second), len(self.circuits.zoo.manifest.labels), dtype=torch.bool)
        side = replace(
            pair.second_side, id=id, lineage=lineage, orbit=orbits(second), labels=unknown, known=unknown
        )
        yield replace(
            pair,
            second=second,
            second_side=side,
            truth=None,
            kind="absent",
            variant=variant,
            present=False,
            level={**pair.level, "of_partial": float(spec.kind == "partial")},
        )

    def trained_further(self, specs: Sequence[PairSpec]) -> tuple[list[MatchedPair], dict[str, str]]:
        """Pairs whose second subject is trained further, all of one shape and length of prompts."""
        changed: list[Changed] = []
        tasks: list[Task] = []
        for spec in specs:
            subject, task = self.circuits.zoo.subject(spec.first), self.circuits.task(spec.first)
            if spec.kind == "larger":
                changed.append(enlarged(subject, GROWTH[spec.variant], self.generator(spec, "growth")))
                tasks.append(task)
            else:
                changed.append(unchanged(subject))
                info = self.circuits.zoo.info(spec.first)
                tasks.append(
                    task.renewed(info.variant, derived_seed(self.config.seed, spec.first, "renewed"))
                )
        tuning = self.config.tuning
        steps = tuning.steps if specs[0].kind == "larger" else tuning.renewed_steps
        recipe = RecipeConfig(
            steps=steps,
            batch_size=tuning.batch_size,
            learning_rate=tuning.learning_rate,
            warmup_steps=min(10, steps),
        )
        tuned = train_stack(
            changed[0].subject.config,
            recipe,
            stack([one.subject for one in changed]),
            tasks,
            [self.generator(spec, "data") for spec in specs],
        )
        seeds = [derived_seed(self.config.seed, spec.first, "held out") % 2**40 for spec in specs]
        accuracy = held_out_accuracy(tuned.weights, changed[0].subject.config, tasks, seeds)
        rejected = rejections([name_of(spec) for spec in specs], tasks, accuracy, tuned.diverged_at)
        pairs = []
        for i, (spec, one, task) in enumerate(zip(specs, changed, tasks, strict=True)):
            if name_of(spec) not in rejected:
                subject = one.subject.with_weights(unstack(tuned.weights, i))
                new = gauged(
                    Changed(subject=subject, counterpart=one.counterpart), self.generator(spec, "gauge")
                )
                pair = self.against_changed(spec, new, task)
                pairs.append(replace(pair, variant=spec.variant.removeprefix("made-")))
        return pairs, rejected

    def against_changed(self, spec: PairSpec, changed: Changed, task: Task | None = None) -> MatchedPair:
        """A stored circuit against that of a changed subject, measured on other prompts."""
        first = self.circuits.stored(spec.first)
        second = self.circuits.swept(
            changed.subject, spec.first, task or self.circuits.task(spec.first), name=name_of(spec)
        )
        truth = truth_between(first.kept, second.kept, changed.counterpart)
        return self.in_random_order(spec, first, second, truth)

    def of_stored(self, spec: PairSpec, counterpart: Int[Tensor, " node"]) -> MatchedPair:
        first, second = self.circuits.stored(spec.first), self.circuits.stored(spec.second)
        return self.in_random_order(spec, first, second, truth_between(first.kept, second.kept, counterpart))

    def in_random_order(
        self, spec: PairSpec, first: Circuit, second: Circuit, truth: Int[Tensor, " kept"] | None
    ) -> MatchedPair:
        """The pair in another gauge on either side."""
        generator = self.generator(spec, "order")
        (one, order), (other, order2) = first.gauged(generator), second.gauged(generator)
        return MatchedPair(
            first=one.graph,
            second=other.graph,
            truth=None if truth is None else reordered(truth, order, order2),
            kind=spec.kind,  # pyright: ignore[reportArgumentType]
            variant=spec.variant,
            split=spec.split,
            first_side=one.side,
            second_side=other.side,
        )

    def named(self, pair: MatchedPair, spec: PairSpec, first: str, second: str) -> MatchedPair:
        """A pair at graph level, with its split, ids and orbits."""
        lineage = self.circuits.zoo.info(spec.first).lineage
        sides = []
        for graph, id in ((pair.first, first), (pair.second, second)):
            unknown = torch.zeros(len(graph), len(self.circuits.zoo.manifest.labels), dtype=torch.bool)
            sides.append(
                replace(
                    pair.first_side,
                    id=id,
                    lineage=lineage,
                    orbit=orbits(graph),
                    labels=unknown,
                    known=unknown,
                )
            )
        return replace(pair, split=spec.split, first_side=sides[0], second_side=sides[1])

    def level(self, spec: PairSpec) -> PlantedLevel:
        """Of a planted pair: its number goes through all levels, in one order for all splits."""
        levels = self.config.levels.all()
        order = sorted(range(len(levels)), key=lambda i: derived_seed(self.config.seed, "level", i))
        return levels[order[spec.number % len(levels)]]

    def spread(self) -> Float[Tensor, "kind feature"]:
        """Of each feature among training circuits."""
        if self._spread is None:
            self._spread = feature_spread([self.circuits.stored(id).graph for id in self.plan.spread_from])
        return self._spread

    def generator(self, spec: PairSpec, *what: str) -> torch.Generator:
        return generator_for(self.config.seed, name_of(spec), *what)


def name_of(spec: PairSpec) -> str:
    """Of a pair: what is drawn for it derives from its name."""
    parts = (spec.kind, spec.variant, spec.first, spec.second, str(spec.number))
    return " ".join(part for part in parts if part)
