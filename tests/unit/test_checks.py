"""What is damaged in a zoo is found and named."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from data_gen.checks import problems
from metamodel.config import InputError
from metamodel.triples import begin, finish, read_manifest, write_shard
from metamodel.triples.manifest import plain_values, write_json


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("test_store")


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A zoo whose stored answers are those that its subjects give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        store = importlib.import_module("test_store")
    folder = tmp_path_factory.mktemp("answering") / "synthetic"
    begin(folder, name="synthetic", config=store.CONFIG, labels=store.LABELS, n_shards=2)
    for shard in range(2):
        triples = [answers_as_stored(store.synthetic_triple(10 * shard + i)) for i in range(2)]
        write_shard(folder, shard, triples, {})
    finish(folder)
    return folder


def answers_as_stored(triple):
    behavior = triple.behavior
    position = behavior.probe_position % triple.subject.config.n_ctx
    logits = triple.subject.run(behavior.probe_tokens).logits[0]
    answer = logits[torch.arange(len(logits)), position].argmax(-1)
    behavior = dataclasses.replace(behavior, probe_position=position, probe_answer=answer)
    return dataclasses.replace(triple, behavior=behavior)


@pytest.fixture
def damaged(answering, tmp_path):
    return shutil.copytree(answering, tmp_path / "synthetic")


def found(folder) -> list[str]:
    return list(problems(folder, n_measured=2))


def test_a_whole_zoo_has_no_problem(answering):
    assert found(answering) == []


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "shard-00001.arrow"])
def test_a_flipped_byte_is_found(damaged, name):
    path = damaged / "shards" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    (problem,) = found(damaged)
    assert problem.startswith(f"{path}: expected sha256 ")


def test_missing_changed_and_extra_files_are_found(damaged):
    shards = damaged / "shards"
    (shards / "shard-00000.safetensors").unlink()
    (shards / "shard-00000.json").write_text("{}")
    (shards / "shard-00001.json").unlink()
    (shards / "notes.txt").write_text("hello")
    assert found(damaged) == [
        f"{shards}/shard-00000.json: not the record that manifest.json holds",
        f"{shards}/shard-00000.safetensors: expected a file of the zoo, got no such file. "
        "Remove it and build again: the other shards of this zoo are kept.",
        f"{shards}/shard-00001.json: missing",
        f"{shards}/notes.txt: not a file of this zoo; remove it",
    ]


def test_a_record_that_is_missing_or_given_twice_is_found(damaged):
    manifest = plain_values(read_manifest(damaged))
    twice = json.loads(json.dumps(manifest))
    twice["shards"][1]["accepted"][0] = twice["shards"][0]["accepted"][0]
    write_json(damaged / "manifest.json", twice)
    assert f"{twice['shards'][0]['accepted'][0]}: stands in the manifest 2 times" in found(damaged)
    write_json(damaged / "manifest.json", {**manifest, "shards": manifest["shards"][:1]})
    assert f"{damaged}/manifest.json: records of 1 shards, expected 2" in found(damaged)


def test_another_schema_and_an_unfinished_zoo_are_found(damaged):
    manifest = plain_values(read_manifest(damaged))
    write_json(damaged / "manifest.json", {**manifest, "finished": False})
    assert found(damaged) == [f"{damaged}: unfinished; run the command that builds it again"]
    write_json(damaged / "manifest.json", {**manifest, "schema_version": 0})
    with pytest.raises(InputError, match="expected schema version 3, got 0"):
        found(damaged)


def test_answers_that_are_not_the_stored_ones_are_found(synthetic, tmp_path):
    triple = answers_as_stored(synthetic.synthetic_triple(0))
    other = (triple.behavior.probe_answer + 1) % triple.subject.config.d_vocab
    changed = dataclasses.replace(
        triple, behavior=dataclasses.replace(triple.behavior, probe_answer=other, probe_right_answer=other)
    )
    begin(tmp_path / "zoo", name="zoo", config={}, labels=synthetic.LABELS, n_shards=1)
    write_shard(tmp_path / "zoo", 0, [changed], {})
    finish(tmp_path / "zoo")
    assert found(tmp_path / "zoo") == [
        f"{triple.info.id}: answers 3 of 3 probes otherwise than stored",
        f"{triple.info.id}: accuracy 0.000 on its probes, stored 1.000",
    ]


def test_misshapen_and_broken_arrays_are_found(synthetic, tmp_path):
    triple = answers_as_stored(synthetic.synthetic_triple(0))
    by_edge = ("noising_margin", "noising_kl", "zero_margin", "zero_kl", "member")
    cut = dataclasses.replace(triple.circuit, **{n: getattr(triple.circuit, n)[:-1] for n in by_edge})
    raw = dataclasses.replace(triple.activation, second_moment=triple.activation.second_moment * float("nan"))
    begin(tmp_path / "zoo", name="zoo", config={}, labels=synthetic.LABELS, n_shards=1)
    write_shard(tmp_path / "zoo", 0, [dataclasses.replace(triple, circuit=cut, activation=raw)], {})
    finish(tmp_path / "zoo")
    n = len(triple.circuit.zero_kl)
    assert found(tmp_path / "zoo") == [
        *(f"{triple.info.id}: circuit/{name}: expected shape ({n},), got ({n - 1},)" for name in by_edge),
        f"{triple.info.id}: activation/second_moment: nan or inf",
    ]
