"""The rule by which strengths of students' terms are chosen, and that every arm has as many tries."""

import importlib.util
import sys
from pathlib import Path

import pytest

from data_gen.student.config import ARMS, SpanConfig, StudentConfig
from metamodel.config.parser import command_parser, parse_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tuning():
    spec = importlib.util.spec_from_file_location("student_tuning", ROOT / "benchmarks/student_tuning.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["student_tuning"] = module
    spec.loader.exec_module(module)
    return module


def config_of(name: str) -> StudentConfig:
    parser = command_parser(prog="x", description="x")
    return parse_config(parser, StudentConfig, ["--config", str(ROOT / f"configs/student/{name}.yaml")])[0]


def of(distance: float, transplant: float, accuracy: float) -> dict[str, float]:
    return {"circuit_distance": distance, "transplant": transplant, "accuracy": accuracy}


def test_the_rule_takes_the_best_of_those_that_keep_accuracy_on_average_and_in_every_family(tuning):
    means = {
        "plain": of(0.3, 0.1, 0.90),
        "circuit, a": of(0.2, 0.1, 0.90),
        "circuit, b": of(0.1, 0.1, 0.886),
        "circuit, too low": of(0.0, 0.9, 0.88),
        "circuit, too low in one": of(0.0, 0.9, 0.90),
        "circuit_interchange, a": of(0.0, 0.5, 0.7),
        "circuit_interchange, b": of(0.2, 0.2, 0.8),
    }
    lost = dict(zip(means, (0.0, 0.01, 0.029, 0.029, 0.04, 0.3, 0.2), strict=True))
    assert tuning.best(means, lost, "circuit") == "circuit, b"
    assert tuning.best(means, lost, "circuit_interchange") == "circuit_interchange, b"


def test_what_one_family_loses_is_not_made_up_for_by_another(tuning):
    lost = tuning.most_lost_of([0.9, 0.9, 0.8, 0.6], [1.0, 1.0, 0.5, 0.6], ["sorting"] * 2 + ["brackets"] * 2)
    assert lost == pytest.approx(0.15)


def test_every_arm_that_has_a_strength_is_tried_as_often_and_alone(tuning):
    assert set(ARMS) - set(tuning.UNTUNED) == {"logits", "cka", "rsa", "circuit", "circuit_interchange"}
    assert len({variant.name for variant in tuning.VARIANTS}) == len(tuning.VARIANTS) >= 3
    config = config_of("tuning")
    made = tuning.Variant(factor=3.0, span=SpanConfig(last=0.8)).of(config, "cka")
    assert made.strength == config.strength
    assert made.factors == {"cka": 3.0}
    assert made.spans == {"cka": SpanConfig(last=0.8)}


def test_a_rewired_teacher_is_learned_from_as_a_circuit_is():
    config = config_of("small")
    assert config.factors["rewired"] == config.factors["circuit"]
    assert config.spans["rewired"] == config.spans["circuit"]


def test_no_teacher_is_both_tuned_on_and_judged():
    assert config_of("tuning").zoo == config_of("small").zoo

    def used(name: str) -> set[tuple]:
        return {
            (p.family, p.teacher_size, p.teacher_recipe, i)
            for p in config_of(name).pairs
            for i in range(p.first, p.first + p.n_pairs)
        }

    assert used("tuning")
    assert not used("tuning") & used("small")
    assert len(used("small")) >= 20
    assert {of[0] for of in used("small")} == {of[0] for of in used("tuning")}, "every family is tuned on"
