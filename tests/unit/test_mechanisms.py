"""The benchmark of mechanisms divides by the margin on the prompts whose edges were patched."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from data_gen.harvesting import circuit_prompts
from data_gen.tasks import make_task
from metamodel.circuits.exact import edge_scores
from metamodel.config import InputError

ROOT = Path(__file__).parents[2]
ZOO = """\
name: quick
seed: 3
n_ctx: 16
sizes:
  s: {n_layers: 1, n_heads: 2, d_model: 32, d_head: 16}
recipes:
  quick: {steps: 250, batch_size: 32, learning_rate: 0.015, warmup_steps: 30}
  none: {steps: 1, warmup_steps: 0}
cells:
  - {family: sorting, variant: short, sizes: [s], recipe: quick, n_subjects: 3}
  - {family: facts, sizes: [s], recipe: none, n_subjects: 2}
harvest: {n_prompts: 8, n_behavior_prompts: 32, n_probes: 4, n_random: 16}
"""


@pytest.fixture(scope="module")
def mechanisms():
    spec = importlib.util.spec_from_file_location("mechanisms", ROOT / "benchmarks/mechanisms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def zoo(tmp_path) -> Path:
    (tmp_path / "quick.yaml").write_text(ZOO)
    return tmp_path / "quick.yaml"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_edges_are_shares_of_the_clean_margin_on_the_prompts_of_the_circuit(
    mechanisms, zoo, threads, monkeypatch, capsys
):
    measured, strongest = [], mechanisms.strongest_edges

    def recorded(triple, whole):
        measured.append((triple, whole))
        return strongest(triple, whole)

    monkeypatch.setattr(mechanisms, "strongest_edges", recorded)
    mechanisms.main(["--family", "sorting", "--subjects", "2", "--zoo", str(zoo)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["family"] == "sorting"
    assert len(found["subjects"]) == len(measured) == 2
    config = mechanisms.zoo_config(str(zoo))
    for row, (triple, whole) in zip(found["subjects"], measured, strict=True):
        task = make_task("sorting", "short", triple.info.seed)
        scores = edge_scores(
            triple.subject, circuit_prompts(task, triple.info.id, config.harvest, config.seed), "noising"
        )
        torch.testing.assert_close(triple.circuit.noising_margin, scores.margin)
        assert whole == pytest.approx(scores.clean_margin.item(), rel=1e-4)
        assert whole != pytest.approx(triple.behavior.margin.item(), rel=1e-4)
        share = scores.margin.min().item() / scores.clean_margin.item()
        assert next(iter(row["edges"].values())) == pytest.approx(share, abs=1e-3)
        other = edge_scores(
            triple.subject, circuit_prompts(task, "other", config.harvest, config.seed), "noising"
        )
        assert not torch.allclose(triple.circuit.noising_margin, other.margin)


def test_a_subject_that_did_not_learn_is_a_row_with_its_reason(mechanisms, zoo, threads, capsys):
    mechanisms.main(["--family", "facts", "--subjects", "1", "--zoo", str(zoo)])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["subjects"]
    assert set(row) == {"id", "rejected"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--family", "sortin"],
            "--family: expected one of facts, sorting, got 'sortin'. Name a family of {zoo}. "
            "Did you mean 'sorting'?",
        ),
        (
            ["--family", "modular"],
            "--family: expected one of facts, sorting, got 'modular'. Name a family of {zoo}.",
        ),
        ([], "benchmarks.mechanisms: family: expected a value, got none. Give --family."),
        (
            ["--family", "facts", "--subjects", "0"],
            "--subjects: expected at least 1, got 0. Set 1 or more.",
        ),
        (
            ["--family", "facts", "--zoo", "none.yaml"],
            "--zoo: expected a YAML file, got no file none.yaml. Check the path.",
        ),
    ],
)
def test_a_mistake_is_one_line(mechanisms, zoo, arguments, line):
    with pytest.raises(InputError) as error:
        mechanisms.main(["--zoo", str(zoo), *arguments])
    assert str(error.value) == line.format(zoo=zoo)
