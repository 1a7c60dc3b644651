"""People's own networks become a zoo; prompts and networks that do not fit are one line each."""

import json
import random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_gen.checks import problems
from data_gen.harvest import build_imported
from data_gen.imported import import_shard, model_folders
from data_gen.labels.registry import LABELS
from data_gen.prompt_file import prompt_task
from metamodel.config import InputError
from metamodel.subjects import Subject
from metamodel.triples import Zoo, read_manifest
from metamodel.triples.building import begin, finish

D_VOCAB = 40


def prompt(rng: random.Random, **changes) -> dict:
    clean = [0, *(rng.randrange(1, D_VOCAB) for _ in range(rng.choice((5, 7))))]
    corrupt = list(clean)
    corrupt[3] = clean[3] % (D_VOCAB - 1) + 1
    return {"clean": clean, "corrupt": corrupt, "answer": clean[3], "corrupt_answer": corrupt[3], **changes}


def write(path, prompts):
    path.write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return path


@pytest.fixture
def prompts(tmp_path):
    rng = random.Random(0)
    slices = [{"slice": "odd"} if i % 2 else {} for i in range(20)]
    return write(tmp_path / "words.jsonl", [prompt(rng, **s) for s in slices])


@pytest.fixture
def networks(tmp_path):
    for i, (layers, heads) in enumerate(((1, 2), (2, 1))):
        torch.manual_seed(i)
        shape = GPT2Config(vocab_size=D_VOCAB, n_positions=12, n_embd=8, n_layer=layers, n_head=heads)
        GPT2LMHeadModel(shape).save_pretrained(tmp_path / f"nets/net{i}")
    (tmp_path / "nets/broken").mkdir()
    (tmp_path / "nets/broken/config.json").write_text("{}")
    return tmp_path / "nets"


def test_networks_of_a_folder_become_a_zoo_and_the_broken_one_a_reason(networks, prompts, tmp_path):
    threads = torch.get_num_threads()
    out, names = tmp_path / "zoo", [str(p) for p in model_folders(networks)]
    begin(out, name="zoo", config={"name": "zoo"}, labels=LABELS, n_shards=len(names))
    for i in range(len(names)):
        import_shard(tuple(names), str(prompts), 1000, out, i)
    torch.set_num_threads(threads)
    assert finish(out) is not None
    assert list(problems(out, n_measured=2)) == []
    zoo = Zoo.open(out)
    assert zoo.ids == ("net0", "net1")
    rejected = [reason for shard in read_manifest(out).shards for reason in shard.rejected.items()]
    assert [name for name, _ in rejected] == ["broken"]
    assert "architecture: expected" in rejected[0][1]
    triple = zoo[1]
    assert (triple.info.origin, triple.info.departs, triple.info.family) == ("imported", "origin", "words")
    original = Subject.from_pretrained(networks / "net1")
    assert triple.subject.fingerprint() == original.fingerprint()
    assert triple.behavior.slice_names == ("all", "odd")
    task = prompt_task(prompts)
    logits = original.run(task.given.clean).logits[0, torch.arange(20), task.given.position]
    right = (logits.argmax(-1) == task.given.answer).float().mean()
    assert float(triple.behavior.accuracy) == pytest.approx(float(right))


def test_shorter_prompts_are_filled_up_behind_and_answered_where_they_end(prompts):
    task = prompt_task(prompts)
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    assert task.n_pos == 8
    assert task.given.position.tolist() == [len(p["clean"]) - 1 for p in lines]
    for i, p in enumerate(lines):
        assert task.given.clean[i, : len(p["clean"])].tolist() == p["clean"]
    assert task.bos == 0
    drawn = task.prompts(torch.Generator().manual_seed(0), 30)
    assert len(drawn) == 30
    assert len(drawn.clean.unique(dim=0)) == 20


def test_a_circuit_that_is_too_large_is_left_out_with_its_number_of_edges(networks, prompts, tmp_path):
    threads = torch.get_num_threads()
    begin(tmp_path / "zoo", name="zoo", config={}, labels=LABELS, n_shards=1)
    record = import_shard((str(networks / "net0"),), str(prompts), 5, tmp_path / "zoo", 0)
    torch.set_num_threads(threads)
    assert "net0: expected at most 5 edges, each of which is patched, got 21" in record.rejected["net0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "the"}, r"words\.jsonl:3: answer: expected a token id, got 'the'"),
        ({"clean": []}, r"words\.jsonl:3: clean: expected a list of token ids"),
        ({"corrupt": [0, 1]}, r"words\.jsonl:3: corrupt: expected \d tokens, as many as in clean, got 2"),
        ({"position": 99}, r"words\.jsonl:3: position: expected 0 to \d, got 99"),
        ({"anwser": 3}, r"words\.jsonl:3: anwser: expected one of answer, clean"),
    ],
)
def test_a_prompt_that_does_not_fit_is_named_with_its_line(prompts, change, message):
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    lines[2] |= change
    with pytest.raises(InputError, match=message):
        prompt_task(write(prompts, lines))


def test_missing_keys_equal_answers_few_prompts_and_no_networks_are_one_line_each(prompts, tmp_path):
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    with pytest.raises(InputError, match="expected at least 16 prompts, got 15"):
        prompt_task(write(prompts, lines[:15]))
    del lines[0]["answer"]
    with pytest.raises(InputError, match=r":1: answer: expected a value, got none"):
        prompt_task(write(prompts, lines))
    lines[0]["answer"] = lines[0]["corrupt_answer"]
    with pytest.raises(InputError, match=r":1: corrupt_answer: expected another answer"):
        prompt_task(write(prompts, lines))
    short = [p | {"clean": p["clean"][:5], "corrupt": p["corrupt"][:5]} for p in lines]
    short[0]["answer"] = short[0]["clean"][3]
    with pytest.raises(InputError, match="expected prompts of at least 6 tokens"):
        prompt_task(write(prompts, short))
    prompts.write_text("[1]\n")
    with pytest.raises(InputError, match=r":1: expected a JSON object"):
        prompt_task(prompts)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected networks in transformers' format"):
        build_imported(tmp_path / "empty", prompts, tmp_path / "zoo", workers=1, most_edges=10)
