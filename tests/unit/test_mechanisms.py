"""The benchmark of mechanisms counts what a zoo holds, and divides edges by the margin on their prompts."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.harvesting import circuit_prompts
from data_gen.labels.registry import LABEL_INDEX, LABELS
from data_gen.population import shard_specs
from data_gen.shard import make_shard
from data_gen.subject_task import task_of
from data_gen.tasks import FAMILIES
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.config.parser import plain
from metamodel.triples import Zoo, begin, finish
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE

ROOT = Path(__file__).parents[2]
NAMES = tuple(label.name for label in LABELS)


def cell(family: str, **changes) -> CellConfig:
    return CellConfig(
        **{"family": family, "sizes": ("s",), "recipe": "quick", "n_subjects": 2, **changes},
    )


CONFIG = ZooConfig(
    name="quick",
    seed=3,
    n_ctx=16,
    sizes={"s": SizeConfig(n_layers=1, n_heads=2, d_model=32, d_head=16)},
    recipes={
        "quick": RecipeConfig(steps=150, batch_size=32, learning_rate=0.015, warmup_steps=30),
        "none": RecipeConfig(steps=1, warmup_steps=0),
    },
    cells=(
        cell("sorting", variant="short", checkpoints=(0.5,), n_pruned=1),
        cell("facts", recipe="none"),
        cell("brackets+sorting"),
    ),
    harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=32, n_probes=4, n_shown=8, n_random=8),
)
SORTING, FACTS, BOTH = "sorting-short-s-quick", "facts-base-s-none", "brackets+sorting-base-s-quick"


@pytest.fixture(scope="module")
def mechanisms():
    spec = importlib.util.spec_from_file_location("mechanisms", ROOT / "benchmarks/mechanisms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    """Sorters with their relatives, facts of which nothing is learnt, and subjects of two tasks."""
    folder, threads = tmp_path_factory.mktemp("zoo") / "quick", torch.get_num_threads()
    specs = shard_specs(CONFIG)
    begin(folder, name="quick", config=plain(CONFIG), labels=LABELS, n_shards=len(specs))
    with pytest.MonkeyPatch.context() as patch:
        for family in ("sorting", "brackets"):
            patch.setattr(FAMILIES[family], "threshold", 0.0)
        for spec in specs:
            make_shard(CONFIG, folder, spec.index)
    torch.set_num_threads(threads)
    finish(folder)
    return Zoo.open(folder)


@pytest.fixture(scope="module")
def triples(zoo):
    return [zoo.triple(f"{SORTING}-000{i}") for i in (0, 1)]


def printed(mechanisms, capsys, *arguments: str) -> str:
    capsys.readouterr()
    mechanisms.main(list(arguments))
    return capsys.readouterr().out


def test_cells_hold_the_ends_of_trainings_one_task_at_a_time(mechanisms, zoo):
    assert {row["relation"] for row in zoo.rows} == {"none", "checkpoint", "pruned"}
    cells = mechanisms.cells_of(zoo)
    assert [(c.name, c.task, c.made) for c in cells] == [
        (SORTING, "sorting", 2),
        (FACTS, "facts", 2),
        (BOTH, "brackets", 2),
        (BOTH, "sorting", 2),
    ]
    assert [c.ids for c in cells] == [
        (f"{SORTING}-0000", f"{SORTING}-0001"),
        (),
        (f"{BOTH}-0000@brackets", f"{BOTH}-0001@brackets"),
        (f"{BOTH}-0000@sorting", f"{BOTH}-0001@sorting"),
    ]


def test_the_last_line_is_a_json_object_of_all_cells(mechanisms, zoo, capsys):
    found = json.loads(printed(mechanisms, capsys, str(zoo.folder)).splitlines()[-1])
    assert found["zoo"] == "quick"
    assert [(row["task"], row["accepted"]) for row in found["cells"]] == [
        ("sorting", 2),
        ("facts", 0),
        ("brackets", 2),
        ("sorting", 2),
    ]
    positive = {
        name for row in found["cells"] for name, label in row.get("labels", {}).items() if label["positive"]
    }
    assert positive
    assert set(found["never_positive"]) == set(NAMES) - positive
    for row in found["cells"]:
        held = [triple for triple in zoo if triple.info.id in row.get("edges", {})]
        assert len(held) == row["accepted"]
        if held:
            accuracies = [float(triple.behavior.accuracy) for triple in held]
            assert row["accuracy"] == pytest.approx([min(accuracies), max(accuracies)], abs=1e-3)
    one = json.loads(printed(mechanisms, capsys, str(zoo.folder), "--family", "brackets").splitlines()[-1])
    assert one["cells"] == [row for row in found["cells"] if row["task"] == "brackets"]


def test_labels_are_counted_once_a_subject(mechanisms, triples):
    first, second = triples
    head, other = (i for i, node in enumerate(first.labels.state[:, 0]) if node != MASKED)

    def with_states(triple, **labels):
        """The triple with these states, and raw scores 0.4 and 0.1, of its two heads; all else is masked."""
        state = torch.full_like(triple.labels.state, MASKED)
        raw = torch.full_like(triple.labels.raw, math.nan)
        for name, states in labels.items():
            i = LABEL_INDEX[name]
            state[head, i], state[other, i] = states
            raw[head, i], raw[other, i] = 0.4, 0.1
        return replace(triple, labels=replace(triple.labels, state=state, raw=raw))

    found = mechanisms.label_counts(
        [
            with_states(first, self=(POSITIVE, POSITIVE), copying=(PATTERN_ONLY, NEGATIVE)),
            with_states(second, self=(NEGATIVE, PATTERN_ONLY), induction=(MASKED, NEGATIVE)),
            with_states(second, self=(PATTERN_ONLY, POSITIVE), copying=(NEGATIVE, NEGATIVE)),
        ],
        NAMES,
    )
    count = mechanisms.LabelCount
    assert found == {
        "self": count(positive=2, pattern_only=1, defined=3, best=(0.4, 0.4)),
        "copying": count(positive=0, pattern_only=1, defined=2, best=(0.4, 0.4)),
        "induction": count(positive=0, pattern_only=0, defined=1, best=(0.1, 0.1)),
    }


def test_the_best_score_is_that_of_each_subjects_best_component(mechanisms, zoo, triples):
    found = mechanisms.label_counts(triples, NAMES)
    for name, label in found.items():
        best = [max(x for x in t.labels.raw[:, LABEL_INDEX[name]].tolist() if x == x) for t in triples]
        assert label.best == pytest.approx((min(best), max(best)), abs=1e-3)
    assert found["copying"].best[0] < found["copying"].best[1]
    assert "token_lookup" not in found  # no MLP


def test_edges_are_shares_of_the_clean_margin_on_the_prompts_of_the_circuit(mechanisms, zoo, triples):
    for triple in (*triples, zoo.triple(f"{BOTH}-0001@sorting")):
        task = task_of(triple.info, CONFIG.seed)
        prompts = circuit_prompts(task, triple.info.id, CONFIG.harvest, CONFIG.seed)
        scores = edge_scores(triple.subject, prompts, "noising")
        torch.testing.assert_close(triple.circuit.noising_margin, scores.margin, atol=1e-4, rtol=1e-4)
        whole = mechanisms.clean_margin(triple, zoo)
        assert whole == pytest.approx(scores.clean_margin.item(), rel=1e-4)
        assert whole != pytest.approx(triple.behavior.margin.item(), rel=1e-4)
        edges = mechanisms.strongest_edges(triple, whole)
        share = -scores.margin.min().item() / scores.clean_margin.item()
        assert next(iter(edges.values())) == pytest.approx(share, abs=2e-3)
    edges = mechanisms.strongest_edges(triples[0], 2.0)
    named = dict(
        zip(component_edges(triples[0].subject.config).edges, triples[0].circuit.noising_margin, strict=True)
    )
    by_name = {edge.name: -float(score) / 2 for edge, score in named.items()}
    assert edges == pytest.approx({name: by_name[name] for name in edges}, abs=1e-3)
    assert list(edges.values()) == pytest.approx(
        sorted(by_name.values(), reverse=True)[: len(edges)], abs=1e-3
    )


def test_tables_name_positive_labels_and_patterns_that_many_subjects_share(mechanisms):
    def label(positive: int, pattern_only: int, *best: float) -> dict[str, object]:
        return {"positive": positive, "pattern_only": pattern_only, "defined": 4, "best": best}

    labels = {
        "self": label(1, 3, -0.004, 0.2),
        "copying": label(4, 0, 0.9, 1.0),
        "induction": label(0, 2, 0.1, 0.3),
        "offset_k": label(0, 1, 0.1, 0.3),
    }
    learnt = {
        "cell": "a-base-s", "task": "a", "accepted": 4, "made": 6, "accuracy": [0.9, 1.0], "labels": labels,
        "edges": {"a-base-s-r-0001": {"L0H0->unembedding": 1.234}, "a-base-s-r-0002": {}},
    }  # fmt: skip
    nothing = {"cell": "a-other-s-r", "task": "a", "accepted": 0, "made": 2}
    plain = {"cell": "a+b-base-s-r", "task": "b", "accepted": 1, "made": 1, "accuracy": [1.0, 1.0]}
    text = mechanisms.markdown([learnt, nothing, plain | {"labels": {}, "edges": {"x": {}}}])
    assert (
        text
        == """\
## a

| cell | accepted | accuracy | positive in | pattern only |
| --- | --- | --- | --- | --- |
| `a-base-s` | 4 of 6 | 0.90–1.00 | `copying` 4 of 4 (0.90–1.00); `self` 1 of 4 (0.00–0.20) | `induction` 2 |
| `a-other-s-r` | 0 of 2 | – | – | – |

- `a-base-s-r-0001`: `L0H0->unembedding` 1.23

## Several tasks in one subject

| cell | task | accepted | accuracy | positive in |
| --- | --- | --- | --- | --- |
| `a+b-base-s-r` | b | 1 of 1 | 1.00–1.00 | none |"""
    )


def test_the_tables_of_a_zoo_are_printed_instead_of_the_object(mechanisms, zoo, capsys):
    out = printed(mechanisms, capsys, str(zoo.folder), "--markdown")
    first, *rest = out.splitlines()
    assert first.startswith("Positive in no subject: `")
    assert [line for line in rest if line.startswith("## ")] == [
        "## sorting",
        "## facts",
        "## Several tasks in one subject",
    ]
    assert f"| `{FACTS}` | 0 of 2 | – | – | – |" in rest


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--family", "sortin"],
            "--family: expected one of brackets, facts, sorting, got 'sortin'. Name a family of {zoo}. "
            "Did you mean 'sorting'?",
        ),
        (
            ["--family", "modular"],
            "--family: expected one of brackets, facts, sorting, got 'modular'. Name a family of {zoo}.",
        ),
    ],
)
def test_a_mistake_is_one_line(mechanisms, zoo, arguments, line):
    with pytest.raises(InputError) as error:
        mechanisms.main([str(zoo.folder), *arguments])
    assert str(error.value) == line.format(zoo=zoo.folder)


def test_a_zoo_must_be_named(mechanisms):
    with pytest.raises(InputError, match=r"benchmarks\.mechanisms: zoo: expected a value, got none"):
        mechanisms.main([])
