"""How strongly, and when, each way of being like a teacher should act: as many values tried for each.

    python benchmarks/student_tuning.py --config configs/student/tuning.yaml [--arms.. '[circuit]']

Teachers are none of those that `configs/student/small.yaml` is judged on. Every arm but plain and rewired is
trained with each of `VARIANTS`; a factor multiplies all terms of its arm. Of those that lose at most
1.5 points of accuracy against plain training the one of most transplant minus circuit distance is taken, for
every arm by this one rule; where all lose more, the most accurate. Keys of the configuration may be given, as
to `python -m data_gen.student`. The last line of stdout is one JSON object: arm -> variant -> metric -> mean,
and `chosen`.
"""

import json
import sys
from collections.abc import Mapping
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
"""Accuracy that may be lost against plain training."""
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
    Variant(factor=0.3, span=SpanConfig()),
    Variant(factor=1.0, span=SpanConfig()),
    Variant(factor=3.0, span=SpanConfig()),
    Variant(factor=1.0, span=SpanConfig(last=0.8)),
)


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.student_tuning", description=__doc__ or "")
    config, _ = parse_config(parser, StudentConfig, arguments)
    arms: list[Arm] = [arm for arm in config.arms if arm not in UNTUNED]
    found: dict[str, dict[str, list[float]]] = {}
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
            for name, values in scores.items():
                for metric in METRICS:
                    found.setdefault(name, {}).setdefault(metric, []).append(values[metric])
        for name, of in found.items():
            print(f"{pairs.family:12}{name:40}" + "".join(f"{np.mean(of[m]):8.3f}" for m in METRICS))
    means = {name: {m: round(float(np.mean(v)), 4) for m, v in of.items()} for name, of in found.items()}
    chosen = {arm: best(means, arm) for arm in arms}
    print(json.dumps({"means": means, "chosen": chosen}))


def best(means: Mapping[str, Mapping[str, float]], arm: str) -> str:
    """The variant of an arm that the rule takes."""
    own = {name: of for name, of in means.items() if name.startswith(f"{arm}, ")}
    least = means[PLAIN]["accuracy"] - LOSS
    able = {name: of for name, of in own.items() if of["accuracy"] >= least}
    if not able:
        return max(own, key=lambda name: own[name]["accuracy"])
    return max(able, key=lambda name: able[name]["transplant"] - able[name]["circuit_distance"])


if __name__ == "__main__":
    sys.exit(run_command(main))
