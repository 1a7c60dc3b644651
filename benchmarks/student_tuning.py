"""How strongly, and when, each way of being like a teacher should act: as many values tried for each.

    python benchmarks/student_tuning.py --config configs/student/tuning.yaml [--arms.. '[circuit]']

Teachers are none of those that `configs/student/small.yaml` is judged on. Every arm but plain and rewired
is trained with each of `VARIANTS`; a factor multiplies all terms of its arm. Of those that lose at most 1.5
points of accuracy against plain training, and at most 3 in any one family, the one of most transplant minus
circuit distance is taken, for every arm by this one rule; where all lose more, the one whose worst family
loses least. Keys of the configuration may be given, as to `python -m data_gen.student`. The last line of
stdout is one JSON object: `means` (arm and variant -> metric -> mean), `most_lost` of accuracy in any
family, and `chosen`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_gen.student.build import pair_of, show, students_of
from data_gen.student.config import Arm, SpanConfig, StudentConfig
from data_gen.student.teachers import teachers
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.students import METRICS, PLAIN, measured_pair
from metamodel.subjects.subject import Subject

LOSS = 0.015
"""Accuracy, a share of answers, that may be lost against plain training on average."""
LOSS_OF_FAMILY = 0.03
"""Accuracy that any one family may lose, of which there are few teachers."""
UNTUNED = ("plain", "rewired")
"""Arms without a strength of their own: rewired takes that of the circuit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to weigh the terms of an arm."""

    factor: float
    span: SpanConfig

    @property
    def name(self) -> str:
        return f"{self.factor:g} in {self.span.first:g}-{self.span.last:g}"

    def of(self, config: StudentConfig, arm: Arm) -> StudentConfig:
        """The configuration with this variant of the arm."""
        return replace(config, factors={arm: self.factor}, spans={arm: self.span})


VARIANTS = (
    Variant(factor=0.03, span=SpanConfig()),
    Variant(factor=0.1, span=SpanConfig()),
    Variant(factor=0.3, span=SpanConfig()),
    Variant(factor=1.0, span=SpanConfig()),
    Variant(factor=3.0, span=SpanConfig()),
    Variant(factor=10.0, span=SpanConfig()),
    Variant(factor=1.0, span=SpanConfig(last=0.6)),
    Variant(factor=1.0, span=SpanConfig(first=0.4)),
    Variant(factor=0.3, span=SpanConfig(first=0.4)),
    Variant(factor=0.1, span=SpanConfig(first=0.4)),
)


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.student_tuning", description=__doc__ or "")
    config, _ = parse_config(parser, StudentConfig, arguments)
    arms: list[Arm] = [arm for arm in config.arms if arm not in UNTUNED]
    found: dict[str, dict[str, list[float]]] = {}
    families: list[str] = []
    for pairs in config.pairs:
        some = teachers(config, pairs)
        made: dict[str, list[Subject]] = {PLAIN: students_of(config, pairs, some, "plain", progress=show)}
        for arm in arms:
            for variant in VARIANTS:
                made[f"{arm}, {variant.name}"] = students_of(
                    variant.of(config, arm), pairs, some, arm, progress=show
                )
        for i, teacher in enumerate(some):
            scores = measured_pair(pair_of(config, pairs, teacher, {k: v[i] for k, v in made.items()}))
            families.append(pairs.family)
            for name, values in scores.items():
                for metric in METRICS:
                    found.setdefault(name, {}).setdefault(metric, []).append(values[metric])
        for name, of in found.items():
            here = {m: np.mean(of[m][-len(some) :]) for m in METRICS}
            print(f"{pairs.family:12}{name:40}" + "".join(f"{value:8.3f}" for value in here.values()))
    means = {name: {m: round(float(np.mean(v)), 4) for m, v in of.items()} for name, of in found.items()}
    most_lost = {
        name: most_lost_of(found[PLAIN]["accuracy"], of["accuracy"], families) for name, of in found.items()
    }
    chosen = {arm: best(means, most_lost, arm) for arm in arms}
    print(json.dumps({"means": means, "most_lost": most_lost, "chosen": chosen}))


def most_lost_of(plain: Sequence[float], accuracy: Sequence[float], families: Sequence[str]) -> float:
    """Accuracy that the family loses which loses most, mean over its pairs."""
    lost, of = np.array(plain) - np.array(accuracy), np.array(families)
    return round(max(float(lost[of == family].mean()) for family in set(families)), 4)


def best(means: Mapping[str, Mapping[str, float]], most_lost: Mapping[str, float], arm: str) -> str:
    """The variant of an arm that the rule takes."""
    own = [name for name in means if name.startswith(f"{arm}, ")]
    least = means[PLAIN]["accuracy"] - LOSS
    able = [name for name in own if means[name]["accuracy"] >= least and most_lost[name] <= LOSS_OF_FAMILY]
    if not able:
        return min(own, key=lambda name: most_lost[name])
    return max(able, key=lambda name: means[name]["transplant"] - means[name]["circuit_distance"])


if __name__ == "__main__":
    sys.exit(run_command(main))
