"""Circuits from a shell: prompts of a zoo's subject, its circuit on them, and people's own networks."""

import json

import pytest

from data_gen import prompts as prompts_command
from metamodel import circuit
from metamodel.triples import Zoo


@pytest.fixture(scope="module")
def subject(job):
    folder = job[0] / "data/tiny"
    zoo = Zoo.open(folder)
    id = next(id for id in zoo.ids if zoo.info(id).relation == "none")
    return f"{folder}#{id}", zoo.subject(id), id


def test_the_circuit_of_a_zoo_subject_is_printed_and_written(subject, tmp_path, called):
    name, network, id = subject
    file = tmp_path / "prompts.jsonl"
    said = called(prompts_command.main, name, "--n", 12, "--out", file).out
    assert f"holds 12 prompts of {id.split('-')[0]}" in said
    assert f"python -m metamodel.circuit {name} --prompts {file}" in said
    found = called(circuit.main, name, "--prompts", file, "--out", tmp_path / "circuit")
    assert f"{id}: " in found.out
    written = json.loads((tmp_path / "circuit/circuit.json").read_text())
    assert f"alone they recover {written['recovered']:.1%} of the margin" in found.out
    assert f"the rest alone {written['complement']:.1%}" in found.out
    assert f"median {written['kl_median']:.3f}, 95th percentile {written['kl_95']:.3f} nats" in found.out
    assert written["subject"] == id
    assert written["n_prompts"] == 12
    assert written["recovered"] > 0.85
    assert (tmp_path / "circuit/circuit.png").stat().st_size > 10_000
    as_json = json.loads(called(circuit.main, name, "--prompts", file, "--json", "--edges", 3).out)
    assert 3 <= as_json["n_edges"] <= 6
    attributed = called(circuit.main, name, "--prompts", file, "--method", "eap", "--edges", 5).out
    assert "estimated" in attributed
    unsigned = called(circuit.main, name, "--prompts", file, "--method", "weight_norm", "--edges", 5).out
    assert "norm of" in unsigned
    # People's own networks go the same way, as folders in transformers' format.
    folder = tmp_path / "gpt2"
    if network.config.has_norm:
        plain = network.with_weights({**network.weights, "unembed.b_U": network.weights["unembed.b_U"] * 0})
        plain.to_transformers(folder)
        own = called(circuit.main, folder, "--prompts", file, "--json").out
        assert json.loads(own)["n_edges_of_subject"] == written["n_edges_of_subject"]


def test_mistakes_are_one_line(subject, tmp_path, called):
    name, _, _ = subject
    file = tmp_path / "prompts.jsonl"
    called(prompts_command.main, name, "--n", 4, "--out", file)
    again = called(prompts_command.main, name, "--out", file, code=2).err
    assert again == f"{file}: expected no file, got one. Choose another name.\n"
    for words, message in [
        ((name, "--prompts", tmp_path / "none"), "none: expected a file of JSON lines, got no file."),
        ((name, "--prompts", file, "--method", "eep"), "Did you mean 'eap'?"),
        ((name, "--prompts", file, "--metric", "loss"), "metric: expected margin or logit_difference"),
        ((name, "--prompts", file, "--faithful", "0"), "faithful: expected above 0, at most 1, got 0.0."),
        ((name, "--prompts", file, "--out", tmp_path), "--out: expected a new or an empty folder"),
        ((f"{name}x", "--prompts", file), "expected the id of a subject in this zoo"),
        ((name, "--prompts", file, "--method", "eap", "--metric", "kl"), "kl"),
    ]:
        refused = called(circuit.main, *words, code=2).err
        assert message in refused
        assert refused.count("\n") == 1
    for words in (("--out", file), ("data/tiny", "--out", file), (name, "--n", "0", "--out", file)):
        assert called(prompts_command.main, *words, code=2).err.count("\n") == 1
    prompts = file.read_text().splitlines()
    prompts[1] = json.dumps(json.loads(prompts[1]) | {"clean": [1, 2]})
    file.write_text("\n".join(prompts))
    assert (
        f"{file}:2: corrupt: expected 2 tokens" in called(circuit.main, name, "--prompts", file, code=2).err
    )
