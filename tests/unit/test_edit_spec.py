"""A specification comes back as it was written, becomes examples, and each mistake in it is one line."""

import re

import pytest
import torch

from metamodel.config import InputError
from metamodel.config.edits import CHANCE, KEEP, PAIR, UNLABELLED
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.triples.edit_spec import EditSpec, asked_logits

SHAPE = SubjectConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=8, d_vocab=9, n_ctx=5)
PAIRS = [{"input": [1, 2, 3], "answer": 4}, {"input": [2, 2, 3], "answer": 5}]


def subject(seed: int = 0, **changes) -> Subject:
    config = SubjectConfig.from_dict(SHAPE.to_dict() | changes)
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(seed)], init_std=0.5), 0)
    return Subject(config=config, weights=weights, name="one")


SPECS = {
    "pairs": {"pairs": PAIRS, "keep": [[3, 2, 3]], "unlabelled": [[4, 2, 3], [5]], "answers": [7]},
    "ablate": {"ablate": [[1, 2], [3, 4]], "keep": [[3, 3]], "answers": [1, 2, 3]},
    "restore": {"restore": PAIRS},
    "transplant": {"transplant": [[1, 2, 3], [4, 4, 4]], "keep": [[1, 1, 1]]},
}


@pytest.mark.parametrize("values", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
def test_a_specification_comes_back_from_a_file(values, ending, tmp_path):
    spec = EditSpec.from_dict(values)
    assert spec.to_dict() == values
    assert spec.demand == next(iter(values))
    again = EditSpec.load(spec.save(tmp_path / f"spec.{ending}"))
    assert again == spec
    assert hash(again) == hash(spec)


def test_lists_and_tuples_say_the_same():
    written = EditSpec(pairs=[([1, 2, 3], 4), ([2, 2, 3], 5)], keep=[[3, 2, 3]])
    assert written == EditSpec(pairs=(((1, 2, 3), 4), ((2, 2, 3), 5)), keep=((3, 2, 3),))
    assert written == EditSpec.from_dict({"pairs": PAIRS, "keep": [[3, 2, 3]]})


def test_examples_are_padded_on_the_right_and_say_where_the_answer_is_asked():
    one = subject()
    told = EditSpec.from_dict(SPECS["pairs"]).examples(one)
    assert told.tokens.tolist() == [[1, 2, 3], [2, 2, 3], [3, 2, 3], [4, 2, 3], [5, 0, 0]]
    assert told.position.tolist() == [2, 2, 2, 2, 0]
    assert told.role.tolist() == [PAIR, PAIR, KEEP, UNLABELLED, UNLABELLED]
    assert told.wanted[:2].tolist() == [4, 5]
    own = set(asked_logits(one, told.tokens, told.position).argmax(-1).tolist())
    assert told.answers.tolist() == sorted(own | {4, 5, 7})


def test_padding_does_not_reach_the_answer():
    one = subject()
    alone = one.run(torch.tensor([[5]])).logits[0, 0, -1]
    padded = asked_logits(one, torch.tensor([[5, 0, 0], [1, 2, 3]]), torch.tensor([0, 2]))
    torch.testing.assert_close(padded[0], alone)
    torch.testing.assert_close(padded[1], one.run(torch.tensor([[1, 2, 3]])).logits[0, 0, -1])


def test_what_is_wanted_of_ablate_restore_and_transplant():
    one, donor = subject(), subject(seed=5)
    assert EditSpec.from_dict(SPECS["ablate"]).examples(one).wanted[:2].tolist() == [CHANCE, CHANCE]
    assert CHANCE not in EditSpec.from_dict(SPECS["ablate"]).examples(one).answers
    assert EditSpec.from_dict(SPECS["restore"]).examples(one).wanted.tolist() == [4, 5]
    told = EditSpec.from_dict(SPECS["transplant"]).examples(one, donor)
    asked = torch.tensor([[1, 2, 3], [4, 4, 4]])
    theirs = donor.run(asked).logits[0, :, -1].argmax(-1)
    assert told.wanted[:2].tolist() == theirs.tolist()
    assert told.wanted[:2].tolist() != one.run(asked).logits[0, :, -1].argmax(-1).tolist()
    assert set(theirs.tolist()) <= set(told.answers.tolist())


def test_unlabelled_inputs_that_are_told_already_are_told_once():
    spec = EditSpec(
        pairs=[([1, 2], 3)], keep=[[2, 2]], unlabelled=[[1, 2], [2, 2], [4, 4], [4, 4]], answers=[1]
    )
    assert spec.examples(subject()).tokens.tolist() == [[1, 2], [2, 2], [4, 4]]


FORM = {
    "nothing": (None, "spec: expected keys pairs, ablate, restore, transplant, keep, unlabelled, answers, "
                "got nothing. Write `pairs:`"),
    "a list": ([PAIRS], "spec: expected keys pairs, "),
    "an unknown key": ({"pairs": PAIRS, "keeps": []}, "keeps: expected one of pairs, ablate, restore, "
                       "transplant, keep, unlabelled, answers, got another key. "
                       "Remove it. Did you mean 'keep'?"),
    "empty": ({},
        "spec: expected one of pairs, ablate, restore and transplant, got none of them. Say what is"),
    "keeps alone": ({"pairs": [], "keep": [[1]]},
        "spec: expected one of pairs, ablate, restore and transplant"),
    "two demands": ({"pairs": PAIRS, "ablate": [[1]]},
        "got pairs and ablate. Write a specification for each"),
    "pairs that are no list": ({"pairs": 3}, "pairs: expected a list of pairs {input: [tokens], answer: "
                               "token}, got a int. Write a list in brackets."),
    "an empty key": ({"pairs": PAIRS, "keep": None}, "keep: expected a list of inputs, each a list of "
                     "tokens, got nothing."),
    "one input in place of several": ({"pairs": PAIRS, "keep": [1, 2]}, "keep[0]: expected a list of tokens "
                                      "such as [3, 1, 4], got a int."),
    "a tensor": ({"pairs": PAIRS, "keep": torch.zeros(1, 2)}, "got a Tensor. Call .tolist() on it."),
    "a pair without answer": ({"pairs": [{"input": [1]}]},
        "pairs[0].answer: expected a value, got no such key"),
    "a pair with more": ({"restore": [PAIRS[0] | {"answr": 1}]}, "restore[0].answr: expected input or "
                         "answer, got another key. Remove it. Did you mean 'answer'?"),
    "half a pair": ({"pairs": [[[1, 2]]]}, "pairs[0]: expected a pair {input: [tokens], answer: token}, got "
                    "[[1, 2]]. Write both of them."),
    "an empty input": ({"ablate": [[1], []]}, "ablate[1]: expected at least one token, got an empty list."),
    "text": ({"pairs": [{"input": ["a"], "answer": 1}]},
        "pairs[0].input[0]: expected a token, a whole number,"
             " got 'a'. Write token ids, not text."),
    "a flag": ({"pairs": [{"input": [1], "answer": True}]}, "pairs[0].answer: expected a token, a whole"),
    "a fraction": ({"pairs": PAIRS, "answers": [1.5]},
        "answers[0]: expected a token, a whole number, got 1.5"),
    "a negative token": ({"ablate": [[-1]]}, "ablate[0][0]: expected a token, 0 or more, got -1."),
    "two answers": ({"pairs": [*PAIRS, PAIRS[0] | {"answer": 8}]},
        "pairs[2]: expected one answer for [1, 2, 3],"
                    " got 8 here and 4 in pairs[0]. Keep one of the two."),
    "a pair twice": ({"pairs": [*PAIRS, PAIRS[1]]}, "pairs[2]: expected each input once, got [2, 2, 3], as "
                     "in pairs[1]. Remove one of the two."),
    "an input twice": ({"ablate": [[1], [1]]},
        "ablate[1]: expected each input once, got [1], as in ablate[0]."),
    "a kept input twice": ({"pairs": PAIRS, "keep": [[1], [1]]},
        "keep[1]: expected each input once, got [1]"),
    "a pair that is kept": ({"pairs": PAIRS, "keep": [[2, 2, 3]]}, "keep[0]: expected an input whose answer "
                            "stays, got [2, 2, 3], which pairs[1] changes. Remove it from one of the two."),
    "an ablated input that is kept": ({"ablate": [[1]], "keep": [[1]]}, "which ablate[0] changes"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "line"), FORM.values(), ids=FORM)
def test_mistakes_of_form_are_one_line(values, line):
    with pytest.raises(InputError, match=re.escape(line)) as caught:
        EditSpec.from_dict(values)
    assert "\n" not in str(caught.value)


FIT = {
    "a token out of vocabulary": ({"pairs": [{"input": [1, 9], "answer": 1}]}, {},
        "pairs[0].input: expected tokens from 0 to 8, those one knows, got 9."),
    "an answer out of vocabulary": ({"pairs": [{"input": [1], "answer": 12}]}, {},
        "pairs[0].answer: expected tokens from 0 to 8, those one knows, got 12."),
    "a kept token out of vocabulary": ({"pairs": PAIRS, "keep": [[1], [99]]}, {},
        "keep[1]: expected tokens from 0 to 8"),
    "an unlabelled token out of vocabulary": ({"ablate": [[1]], "unlabelled": [[99]]}, {},
        "unlabelled[0]: expected tokens from 0 to 8"),
    "a candidate out of vocabulary": ({"pairs": PAIRS, "answers": [99]}, {}, "answers[0]: expected tokens"),
    "a long input": ({"ablate": [[1], [1] * 6]}, {},
        "ablate[1]: expected at most n_ctx = 5 tokens, for one, got 6. Shorten this input."),
    "post-norm": ({"pairs": PAIRS}, {"norm_position": "post", "attention_dir": "bidirectional"},
        "one: norm_position: expected 'pre', a subject that can be run and edited, got 'post'."),
    "several lengths on both sides": ({"pairs": PAIRS, "keep": [[1]]}, {"attention_dir": "bidirectional"},
        "spec: expected inputs of one length, for one attends to both sides and would see padding, got "
        "lengths from 1 to 3."),
    "no donor": ({"transplant": [[1]]}, {}, "donor: expected a subject to transplant from, got none."),
}  # fmt: skip


@pytest.mark.parametrize(("values", "shape", "line"), FIT.values(), ids=FIT)
def test_a_specification_that_does_not_fit_the_subject_is_one_line(values, shape, line):
    with pytest.raises(InputError, match=re.escape(line)) as caught:
        EditSpec.from_dict(values).examples(subject(**shape))
    assert "\n" not in str(caught.value)


def test_a_donor_must_fit_too():
    transplant = EditSpec(transplant=[[1, 2, 3]], keep=[[1, 1, 1]])
    with pytest.raises(InputError, match=r"donor one: expected the 9 tokens of one, got 11 tokens. Choose a"):
        transplant.examples(subject(), subject(d_vocab=11))
    with pytest.raises(
        InputError, match=r"transplant\[0\]: expected at most n_ctx = 2 tokens, for one, got 3"
    ):
        transplant.examples(subject(), subject(n_ctx=2))
    with pytest.raises(InputError, match=r"norm_position: expected 'pre'"):
        transplant.examples(subject(), subject(norm_position="post", attention_dir="bidirectional"))
    with pytest.raises(
        InputError, match=r"donor: expected none, for a specification of `ablate`, got one. Leave the donor"
    ):
        EditSpec(ablate=[[1]]).examples(subject(), subject())


def test_there_are_2_to_32_candidate_answers():
    one = subject()
    own = int(one.run(torch.tensor([[1, 2]])).logits[0, 0, -1].argmax())
    with pytest.raises(
        InputError, match=f"answers: expected at least 2 candidate .* got 1, token {own}. Add"
    ):
        EditSpec(ablate=[[1, 2]]).examples(one)
    wide = subject(d_vocab=40)
    assert len(EditSpec(ablate=[[1, 2]], answers=list(range(31))).examples(wide).answers) <= 32
    with pytest.raises(
        InputError, match=r"answers: expected at most 32 candidate answers: .* got 33. List fewer"
    ):
        EditSpec(ablate=[[1, 2]], answers=list(range(33))).examples(wide)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("spec.yaml", "pairs: [\n", "spec.yaml, line 2: expected YAML, got a syntax error. Check brackets"),
        ("spec.json", "{\n'a'}", "spec.json, line 2: expected JSON, got a syntax error."),
        ("spec.yaml", "", "spec.yaml: spec: expected keys pairs"),
        ("spec.yaml", "pairs: 1", "spec.yaml: pairs: expected a list of pairs"),
        ("spec.txt", "", "spec.txt: expected a name that ends in .yaml, .yml, .json, got '.txt'. Rename the"),
        ("none.yaml", None, "none.yaml: expected a file, got none. Check the path of the spec."),
    ],
)
def test_a_broken_file_is_named(name, text, line, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(line)):
        EditSpec.load(tmp_path / name)
