"""Makes the pairs of one shard from their specifications."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.acceptance import held_out_accuracy, rejections
from data_gen.config import RecipeConfig
from data_gen.made import Made
from data_gen.matching.changed import Changed, Growth, damaged, enlarged, gauged, unchanged
from data_gen.matching.circuits import Circuit, Circuits, heads_in, truth_between, with_orbit
from data_gen.matching.config import PairZooConfig
from data_gen.matching.graph_pairs import GraphPairs
from data_gen.matching.plan import PairSpec, is_trained_further
from data_gen.matching.program import claims, counterpart_by_variables, orbit_by_claims
from data_gen.seeds import derived_seed, generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks.base import Task
from data_gen.trained import without_least
from metamodel.analogy.pairs import NONE, MatchedPair, reordered
from metamodel.config.errors import InputError
from metamodel.subjects.config import components
from metamodel.subjects.subject import stack, unstack

GROWTH = {
    "heads": Growth(heads=2),
    "blocks": Growth(heads=1, blocks=1),
    "wide": Growth(heads=2, blocks=1, width=16, loud=2),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maker:
    """Makes pairs; circuits that several of them need are made once."""

    config: PairZooConfig
    circuits: Circuits
    graphs: GraphPairs

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
                rejected[spec.name] = str(error)
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
                yield from self.graphs.planted(spec, self.generator(spec))
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
        """A subject without some heads of its circuit and with strangers, as many as the level of its number
        says, its circuit known with the noise of that level, not for training; and an absent one like it."""
        generator = self.generator(spec)
        subject, circuit = self.circuits.zoo.subject(spec.first), self.circuits.stored(spec.first)
        heads = heads_in(subject.config, circuit.kept)
        if len(heads) < 2:
            raise InputError(
                f"partial {spec.first}",
                expected="a circuit of two heads or more",
                got=len(heads),
                do="Nothing: this pair is left out.",
            )
        level = self.graphs.level(spec)
        n_removed, n_inserted = min(level.dropped, len(heads) - 1), level.inserted
        order = torch.randperm(len(heads), generator=generator)[:n_removed].tolist()
        changed = damaged(
            subject, self.circuits.task(spec.first), [heads[i] for i in order], n_inserted, generator
        )
        pair = self.against_changed(spec, gauged(changed, generator))
        pair = replace(pair, level={"dropped": float(n_removed), "inserted": float(n_inserted)})
        pair = self.graphs.poorly_known(spec, pair, generator)
        yield pair
        yield from self.graphs.absent(spec, pair, None, generator)

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
        rejected = rejections([spec.name for spec in specs], tasks, accuracy, tuned.diverged_at)
        pairs = []
        for i, (spec, one, task) in enumerate(zip(specs, changed, tasks, strict=True)):
            if spec.name not in rejected:
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
            changed.subject, spec.first, task or self.circuits.task(spec.first), name=spec.name
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

    def generator(self, spec: PairSpec, *what: str) -> torch.Generator:
        return generator_for(self.config.seed, spec.name, *what)
