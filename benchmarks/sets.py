"""How many runs it takes to find the few items that matter, and whether all minimal sets are found exactly.

    python benchmarks/sets.py --placements 200 --subjects 50

Searches for 4 of 256 items at random places: in bare functions of sets (each needed, or each a quarter of the
answer), and in subjects with 256 neurons of one norm and weak effects of all, with neurons as they come and
ordered by correlation. Then for those of which one of a pair, or a backup in the next MLP, is enough. Then
lists all minimal sets of planted circuits (neurons, heads, and edges), under noising and denoising, by both
methods, and compares them with the truth. Progress goes to stderr; the last line of stdout is one JSON
object. The figure of evaluations counts every run, the two ends and the verification included, and is given
for searches for 4 of 256; `group_search_exact` is the share of them that found these and nothing else.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from haystacks import Haystack, SetKind, haystack, set_function
from planted_sets import Planted, edges_hold, edges_of, plant
from set_formulas import FORMULAS, Families, true_families

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.ddmin import ddmin
from metamodel.circuits.item_order import correlated_order, neuron_activations
from metamodel.circuits.minimal_sets import Method, MinimalSets, minimal_sets
from metamodel.circuits.oracles import component_oracle, edge_oracle, neuron_oracle, neurons
from metamodel.circuits.search import Found, group_search
from metamodel.circuits.sets import SetOracle

MOST_EDGES = 12
INTERVENTIONS: tuple[Intervention, ...] = ("noising", "denoising", "zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Searches:
    """Searches of one kind, at random places."""

    name: str
    exact: tuple[bool, ...]
    """Whether exactly the planted items were found, the verification included."""
    evaluations: tuple[int, ...]

    def line(self) -> str:
        n, share = self.evaluations, sum(self.exact) / len(self.exact)
        middle = statistics.median(n)
        return f"{self.name}: exact {share:.3f}; evaluations {min(n)}, {middle}, {max(n)} (n {len(n)})"


def _searches(name: str, found: Sequence[tuple[Found, frozenset[str]]]) -> Searches:
    made = Searches(
        name=name,
        exact=tuple(one.complete and frozenset(one.items) == truth for one, truth in found),
        evaluations=tuple(one.evaluations for one, _ in found),
    )
    print(made.line(), file=sys.stderr)
    return made


def searched_functions(kind: SetKind, n: int, seed: int = 0) -> Searches:
    """Searches in bare functions of sets."""
    rng, found = random.Random(f"{kind} {seed}"), []
    for _ in range(n):
        oracle, truth = set_function(kind, rng)
        found.append((group_search(oracle), truth))
    return _searches(f"function, {kind}", found)


def searched_subjects(kind: Haystack, n: int, *, correlated: bool, seed: int = 0) -> Searches:
    """Searches among the neurons of subjects, in the order of the MLP or in that of their correlations."""
    rng, found = random.Random(f"{kind} {seed}"), []
    for _ in range(n):
        planted, truth = hidden(kind, rng)
        oracle = haystack_oracle(planted, kind)
        order = None
        if correlated:
            order = correlated_order(neuron_activations(planted.subject, planted.prompts, oracle.names))
        found.append((group_search(oracle, order=order), truth))
    return _searches(f"subject, {kind}, {'by correlation' if correlated else 'as they come'}", found)


def hidden(kind: Haystack, rng: random.Random) -> tuple[Planted, frozenset[str]]:
    """A subject, and names of the neurons that matter."""
    planted = haystack(kind, rng)
    return planted, frozenset(planted.component.values())


def haystack_oracle(planted: Planted, kind: Haystack) -> SetOracle:
    """All neurons of the MLPs that hold items."""
    layers = range(2 if kind == "backup" else 1)
    names = [neuron for layer in layers for neuron in neurons(planted.subject.config, layer)]
    return neuron_oracle(planted.subject, planted.prompts, names)


def ddmin_evaluations(n: int, seed: int = 0) -> list[int]:
    """Runs of ddmin alone on all items, for a pair of which one is enough: what narrowing first saves."""
    rng, counts = random.Random(seed), []
    for _ in range(n):
        oracle, _ = set_function("or of 2", rng)
        gap, known = oracle.gap(), {}

        def matters(
            part: Sequence[int],
            oracle: SetOracle = oracle,
            gap=gap,
            known: dict[frozenset[int], bool] = known,
        ) -> bool:
            key = frozenset(part)
            if key not in known:
                row = torch.zeros(1, len(oracle), dtype=torch.bool)
                row[0, list(part)] = True
                known[key] = 1 - float(gap.kept(oracle(row))[0]) >= 0.1
            return known[key]

        ddmin(range(len(oracle)), matters)
        counts.append(oracle.evaluations)
    return counts


def exact_circuits(seed: int = 0) -> dict[str, bool]:
    """Whether all minimal sets of each planted circuit are found: three interventions, both methods."""
    found: dict[str, bool] = {}
    for name, formula in FORMULAS.items():
        extra = 1 if len(formula.items()) < MOST_EDGES else 0
        for kind in ("neuron", "head"):
            planted = plant(formula, kind=kind, extra=extra, seed=seed)
            make = neuron_oracle if kind == "neuron" else component_oracle
            items = list(planted.component.values())
            found[f"{name}, {kind}s"] = all(
                _same(
                    make(planted.subject, planted.prompts, items, intervention=intervention),
                    planted.families(restored=intervention == "denoising"),
                )
                for intervention in INTERVENTIONS
            )
        planted = plant(formula, kind="head", seed=seed)
        edges = () if "unless" in repr(formula) else edges_of(planted)
        if 0 < len(edges) <= MOST_EDGES:
            families = true_families(edges, lambda kept, planted=planted: edges_hold(planted, kept))
            oracle = edge_oracle(planted.subject, planted.prompts, edges)
            found[f"{name}, edges"] = _same(oracle, families)
        print(f"{name}: {[v for k, v in found.items() if k.startswith(f'{name}, ')]}", file=sys.stderr)
    return found


def _same(oracle: SetOracle, truth: Families) -> bool:
    methods: tuple[Method, ...] = ("enumeration", "monotone")
    return all(families_of(minimal_sets(oracle, method=method)) == truth for method in methods)


def families_of(found: MinimalSets) -> Families:
    """As sets, to compare."""
    return frozenset(map(frozenset, found.sufficient)), frozenset(map(frozenset, found.necessary))


def measure(placements: int = 200, subjects: int = 50, seed: int = 0) -> dict[str, object]:
    """All figures. `placements` functions and `subjects` subjects of each kind."""
    singles = [searched_functions(kind, placements, seed) for kind in ("and", "sum")]
    singles += [
        searched_subjects(kind, subjects, correlated=correlated, seed=seed)
        for kind in ("and", "sum")
        for correlated in (False, True)
    ]
    pairs = [searched_functions(kind, placements, seed) for kind in ("or of 2", "or of 3", "and with a pair")]
    pairs += [
        searched_subjects(kind, subjects, correlated=correlated, seed=seed)
        for kind in ("pair", "backup")
        for correlated in (False, True)
    ]
    alone = ddmin_evaluations(max(2, placements // 4), seed)
    print(f"ddmin alone, or of 2: {statistics.median(alone)} evaluations", file=sys.stderr)
    circuits = exact_circuits(seed)
    counts = [count for one in singles for count in one.evaluations]
    hits, recovered = ([hit for one in group for hit in one.exact] for group in (singles, pairs))
    return {
        "group_search_evaluations": {
            "median": statistics.median(counts),
            "max": max(counts),
            "n": len(counts),
        },
        "group_search_exact": sum(hits) / len(hits),
        "backup_pair_recovered": sum(recovered) / len(recovered),
        "backup_pair_evaluations": {one.name: statistics.median(one.evaluations) for one in pairs},
        "ddmin_alone_evaluations": statistics.median(alone),
        "minimal_sets_exact": sum(circuits.values()) / len(circuits),
        "n_circuits": len(circuits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--placements", type=int, default=200, help="functions of sets of each kind")
    parser.add_argument("--subjects", type=int, default=50, help="subjects of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options.placements, options.subjects, options.seed)))


if __name__ == "__main__":
    main()
