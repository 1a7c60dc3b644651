"""The main job of matching at its smallest: pairs, training, report, evaluation, mapping two subjects."""

import json
from pathlib import Path

import pytest
import yaml

import metamodel
from data_gen.matching.config import PairZooConfig
from metamodel.analogy.pair_store import PairZoo
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.report import load
from metamodel.match import main as match_main
from metamodel.matching import SubjectMatcher
from metamodel.triples.store import Zoo

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/matching").glob("*.yaml"))


def test_a_shipped_configuration_of_a_matcher_is_understood_and_names_a_shipped_zoo():
    for file in CONFIGS:
        config, _ = parse_config(
            command_parser(prog="x", description=""), MatchingConfig, ["--config", str(file)]
        )
        assert config.name == {"full": "matching"}.get(file.stem, f"matching-{file.stem}")
        pairs = ["--config", str(ROOT / config.zoo_config)]
        zoo, _ = parse_config(command_parser(prog="x", description=""), PairZooConfig, pairs)
        assert config.zoo == f"data/{zoo.name}"
        assert (ROOT / f"configs/zoo/{Path(zoo.source).name}.yaml").is_file()


@pytest.fixture(scope="module")
def matching_job(job, tmp_path_factory, run) -> Path:
    """A trained matcher on pairs of the zoo that the main job built."""
    folder = tmp_path_factory.mktemp("matching")
    config = yaml.safe_load((ROOT / "configs/pairs/tiny.yaml").read_text())
    config["source"] = str(job[0] / "data/tiny")
    (folder / "pairs.yaml").write_text(yaml.safe_dump(config))
    said = run(
        "metamodel.train", "--config", "configs/matching/tiny.yaml", "--zoo", folder / "pairs",
        "--zoo_config", folder / "pairs.yaml", "--out", folder / "runs", OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert "checkpoint  " in said.stdout
    assert "partial_f1" in said.stdout
    return folder


@pytest.fixture(scope="module")
def matcher_folder(matching_job) -> Path:
    (found,) = (matching_job / "runs/matching-tiny").glob("*/checkpoint")
    return found


def test_the_report_has_every_metric_beside_the_classical_solver(matcher_folder):
    report = load(matcher_folder)
    assert set(report.scores) <= {"seed", "size", "task"}
    for by_metric in report.scores.values():
        assert {"partial_f1", "dustbin_average_precision", "breakdown_error"} <= by_metric.keys()
        assert {"meta-model", "classical"} <= by_metric["partial_f1"].keys()
        assert {"constant_guess", "size_prior"} <= by_metric["breakdown_error"].keys()
    card = (matcher_folder / "README.md").read_text()
    assert "`partial_f1` by kind of pair" in card
    assert "--config configs/matching/tiny.yaml" in card


def test_evaluate_reproduces_the_report(matcher_folder, run):
    said = run("metamodel.evaluate", matcher_folder, "--json", OMP_NUM_THREADS="1")
    again, before = json.loads(said.stdout), json.loads((matcher_folder / "metrics.json").read_text())
    assert again["splits"] == before["splits"]


def test_two_triples_are_mapped_from_a_shell(job, matcher_folder, called, tmp_path):
    zoo = job[0] / "data/tiny"
    one, other = Zoo.open(zoo).rows["id"][:2]
    out = tmp_path / "mapping"
    said = called(match_main, matcher_folder, f"{zoo}#{one}", f"{zoo}#{other}", "--transplant", "--out", out)
    assert "the analogy holds for" in said.out
    assert "transplant" in said.out
    assert (out / "mapping.png").is_file()
    held = json.loads((out / "mapping.json").read_text())
    assert {"pairs", "unmatched_first", "edges", "score", "breakdown"} <= held.keys()
    assert len(held["transplants"]) == len(held["pairs"])


def test_bad_input_is_one_line(job, matcher_folder, refused_here, tmp_path):
    zoo = job[0] / "data/tiny"
    one = f"{zoo}#{Zoo.open(zoo).rows['id'][0]}"
    assert "checkpoint" in refused_here(match_main, tmp_path / "none", one, one)
    said = refused_here(match_main, matcher_folder, str(tmp_path), one)
    assert said.startswith("--prompts: expected prompts of the behavior whose circuit is meant, got none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    said = refused_here(match_main, matcher_folder, one, one, "--out", tmp_path / "full")
    assert said.startswith("--out: expected a new or an empty folder")


def test_a_triple_is_described_by_its_stored_circuit(job, matcher_folder):
    triple = Zoo.open(job[0] / "data/tiny").triple(Zoo.open(job[0] / "data/tiny").rows["id"][0])
    matcher = metamodel.load(matcher_folder)
    assert isinstance(matcher, SubjectMatcher)
    graph = matcher.describe(triple)
    assert float(graph.edges.norm()) == pytest.approx(1.0)
    assert graph.features.shape[1] == len(matcher.checkpoint.feature_names)
    assert {pair.first for pair in matcher.match(triple, triple).pairs} <= set(graph.names)


def test_a_zoo_with_lineages_of_training_is_refused(matching_job, matcher_folder, run, tmp_path):
    config = json.loads((matcher_folder / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in matcher_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tests = PairZoo.open(matching_job / "pairs").lineages("seed")
    config["lineages"] = sorted(tests)
    (copy / "config.json").write_text(json.dumps(config))
    said = run("metamodel.evaluate", copy, code=2)
    assert "expected test pairs of lineages that the matcher was not trained on" in said.stderr
