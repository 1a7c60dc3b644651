"""Subjects with a known circuit in a zoo: their truths, lineages, certificates and counterparts."""

import dataclasses

import pytest
import torch

from data_gen.checks import problems
from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.harvesting import circuit_prompts
from data_gen.labels.registry import LABELS
from data_gen.pair_table import add_pairs
from data_gen.population import shard_specs
from data_gen.recertify import certificate_problems
from data_gen.shard import make_shard
from data_gen.subject_task import task_of
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.config.parser import plain
from metamodel.subjects.config import components
from metamodel.triples import ROLES, Zoo, begin, finish
from metamodel.triples.dataset_card import write_card

SIZE = SizeConfig(n_layers=4, n_heads=3, d_model=36, d_head=10, d_mlp=24, normalization_type="none")


def zoo_config(*cells: CellConfig) -> ZooConfig:
    return ZooConfig(
        name="known",
        n_ctx=16,
        sizes={"s": SIZE},
        recipes={"r": RecipeConfig(steps=1, warmup_steps=0)},
        cells=cells,
        harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=16, n_probes=4, n_shown=8, n_random=8),
    )


def cell(family: str, n: int, **changes) -> CellConfig:
    return CellConfig(
        **{"family": family, "origin": "compiled", "sizes": ("s",), "recipe": "r", "n_subjects": n} | changes
    )


CONFIG = zoo_config(cell("rasp-first", 3), cell("rasp-random", 4))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("zoo") / "known", torch.get_num_threads()
    specs = shard_specs(CONFIG)
    begin(folder, name="known", config=plain(CONFIG), labels=LABELS, n_shards=len(specs))
    for spec in specs:
        make_shard(CONFIG, folder, spec.index)
    torch.set_num_threads(threads)
    finish(folder)
    write_card(folder)
    return Zoo.open(folder)


def test_a_compiled_subject_is_stored_with_its_truths_and_its_certificate(zoo):
    triple = zoo.where(family="rasp-first")[0]
    assert triple.info.origin == "compiled"
    assert triple.truth is not None
    assert triple.truth.worst >= 0.95
    assert zoo.to_pandas()["certificate"][0] == pytest.approx(triple.truth.worst)
    edges = component_edges(triple.subject.config).edges
    used = {edges[i] for i in triple.truth.structural.nonzero().squeeze(1).tolist()}
    seen = {edges[i] for i in triple.truth.visible.nonzero().squeeze(1).tolist()}
    assert seen < used
    assert any(edge.source.kind == "position_embedding" for edge in used)
    assert not any(edge.source.kind == "position_embedding" for edge in seen)
    # the exact sweep finds what patching can see, though nothing chose subjects by it
    least = triple.circuit.noising_margin.abs()[triple.truth.visible].min()
    assert least > triple.circuit.noising_margin.abs()[~triple.truth.visible].quantile(0.9)


def test_the_task_of_a_subject_is_made_again_from_its_triple(zoo):
    for triple in zoo:
        task = task_of(triple.info, CONFIG.seed)
        prompts = circuit_prompts(task, triple.info.id, CONFIG.harvest, CONFIG.seed)
        scores = edge_scores(triple.subject, prompts, "noising")
        torch.testing.assert_close(triple.circuit.noising_margin, scores.margin, atol=1e-4, rtol=1e-4)
        other = circuit_prompts(task, "other", CONFIG.harvest, CONFIG.seed)
        assert not torch.equal(prompts.clean, other.clean)


def test_disguises_of_a_program_share_a_lineage_and_random_programs_do_not(zoo):
    rows = zoo.to_pandas()
    named, drawn = rows[rows["family"] == "rasp-first"], rows[rows["family"] != "rasp-first"]
    assert named["lineage"].tolist()[0] == named["lineage"].tolist()[1] != named["lineage"].tolist()[2]
    assert len(drawn) >= 2
    assert drawn["lineage"].nunique() == drawn["family"].nunique() == len(drawn)
    assert drawn["family"].str.startswith("rasp-random-").all()
    first, second, _ = zoo.where(family="rasp-first")
    assert first.subject.fingerprint() != second.subject.fingerprint()


def test_a_zoo_is_verified_with_its_certificates_and_a_false_claim_is_found(zoo):
    assert list(problems(zoo.folder, n_measured=2)) == []
    triple = zoo.where(family="rasp-first")[0]
    truth = triple.truth
    assert truth is not None
    nodes = components(triple.subject.config)
    heads = [
        i
        for i, role in enumerate(truth.role.tolist())
        if ROLES[role] == "circuit" and nodes[i].kind == "head"
    ]
    other = next(i for i, node in enumerate(nodes) if node.kind == "head" and i not in heads)
    bits = truth.variables.clone()
    bits[other], bits[heads[0]] = bits[heads[0]], bits[other]
    false = dataclasses.replace(triple, truth=dataclasses.replace(truth, variables=bits))
    found = list(certificate_problems(false, CONFIG.seed))
    assert found
    assert "of fresh pairs, its certificate says 1.000" in found[0]


def test_components_of_disguises_correspond_where_they_carry_the_same_variables(zoo):
    counts = add_pairs(zoo.folder, most=10)
    assert (counts["disguise"], counts["seed"]) == (1, 2)
    pair = next(p for p in zoo.table("pairs").to_list() if p["kind"] == "disguise")
    first, second = zoo.triple(pair["first"]), zoo.triple(pair["second"])
    assert first.truth is not None
    assert second.truth is not None
    for i, j in enumerate(pair["map"]):
        inside = components(first.subject.config)[i].kind in ("head", "mlp")
        carries = bool(first.truth.variables[i])
        assert (j >= 0) == (carries or not inside)
        assert inside or j == i
        if carries:
            assert first.truth.variables[i] == second.truth.variables[j]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            cell("facts", 1),
            r"zoo\.cells\[0\]\.family: expected a program, such as rasp-histogram, for compiled",
        ),
        (cell("rasp-palindrome", 1), "program palindrome: attention_dir: expected 'bidirectional'"),
        (cell("rasp-sort", 1), "program sort: attention_dir: expected 'bidirectional'"),
        (cell("rasp-induction", 1, origin="planted"), "program induction: planted: expected a size with 8"),
        (
            cell("rasp-reverse", 1, origin="siit"),
            "program reverse: expected bidirectional attention",
        ),
        (cell("rasp-hstogram", 1), r"task\.family: expected one of .*'rasp-histogram'\?"),
    ],
)
def test_a_cell_that_cannot_be_made_is_one_line_before_anything_is_built(made, message):
    with pytest.raises(InputError, match=message):
        shard_specs(zoo_config(made))
