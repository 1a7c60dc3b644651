"""The validator of specifications: what a user wrote is judged by itself, and then against a subject.

Every mistake is one line that names its place in the specification, such as `pairs[2].answer`.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import NoReturn

import torch

from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.subject import Subject

Tokens = tuple[int, ...]
DEMANDS = ("pairs", "ablate", "restore", "transplant")
"""What a specification may ask for; each asks for one of them."""
ANSWERED = ("pairs", "restore")
"""Those that come with answers."""
KEYS = (*DEMANDS, "keep", "unlabelled", "answers")
MOST_ANSWERS = 32
"""Candidate answers of one edit: the map between them is inferred from all of their pairs and triples."""


def checked_value(name: str, value: object) -> tuple:
    """One key of a specification. Raises: InputError unless it holds what that key holds."""
    if name in ANSWERED:
        return checked_pairs(value, name)
    return checked_tokens(value, name) if name == "answers" else checked_inputs(value, name)


def checked_input(value: object, where: str) -> Tokens:
    """One input. Raises: InputError unless it is a list of whole numbers, at least one."""
    tokens = checked_tokens(value, where)
    do = "Write the tokens that the subject reads."
    require(len(tokens) > 0, where, expected="at least one token", got="an empty list", do=do)
    return tokens


def checked_token(value: object, where: str) -> int:
    """Raises: InputError unless it is a whole number, 0 or more."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(
        whole, where, expected="a token, a whole number", got=repr(value), do="Write token ids, not text."
    )
    assert isinstance(value, Integral)
    require(int(value) >= 0, where, expected="a token, 0 or more", got=value, do="Write token ids.")
    return int(value)


def checked_inputs(value: object, where: str) -> tuple[Tokens, ...]:
    """Several inputs. Raises: InputError."""
    items = _list(value, where, expected="a list of inputs, each a list of tokens")
    return tuple(checked_input(item, f"{where}[{i}]") for i, item in enumerate(items))


def checked_pairs(value: object, where: str) -> tuple[tuple[Tokens, int], ...]:
    """Inputs with answers: mappings with `input` and `answer`, or (input, answer). Raises: InputError."""
    items = _list(value, where, expected="a list of pairs {input: [tokens], answer: token}")
    return tuple(_pair(item, f"{where}[{i}]") for i, item in enumerate(items))


def checked_tokens(value: object, where: str) -> Tokens:
    """A list of tokens, which may be empty. Raises: InputError."""
    items = _list(value, where, expected="a list of tokens such as [3, 1, 4]")
    return tuple(checked_token(token, f"{where}[{i}]") for i, token in enumerate(items))


def check_keys(values: object, where: str) -> Mapping[str, object]:
    """Raises: InputError unless it is a mapping whose keys are all known."""
    require(
        isinstance(values, Mapping),
        where,
        expected=f"keys {', '.join(KEYS)}",
        got="nothing" if values is None else f"a {type(values).__name__}",
        do="Write `pairs:` and below it one line a pair, `- {input: [3, 1], answer: 4}`.",
    )
    assert isinstance(values, Mapping)
    for key in values:
        more = f"Remove it.{suggestion(str(key), KEYS)}"
        require(key in KEYS, str(key), expected=f"one of {', '.join(KEYS)}", got="another key", do=more)
    return values


def check_demand(found: Sequence[str]) -> None:
    """Raises: InputError unless exactly one thing is asked for."""
    expected = "one of pairs, ablate, restore and transplant"
    require(
        len(found) > 0, "spec", expected=expected, got="none of them", do="Say what is to change: give pairs."
    )
    do = "Write a specification for each, and apply one edit after the other."
    require(len(found) == 1, "spec", expected=expected, got=" and ".join(found), do=do)


def check_contradictions(
    demand: str, asked: Sequence[Tokens], wanted: Sequence[int] | None, keep: Sequence[Tokens]
) -> None:
    """Raises: InputError for an input that stands twice, with another answer or the same one."""
    first: dict[Tokens, int] = {}
    for i, tokens in enumerate(asked):
        at = first.setdefault(tokens, i)
        if at == i:
            continue
        where = f"{demand}[{i}]"
        if wanted is not None and wanted[at] != wanted[i]:
            raise InputError(
                where,
                expected=f"one answer for {list(tokens)}",
                got=f"{wanted[i]} here and {wanted[at]} in {demand}[{at}]",
                do="Keep one of the two.",
            )
        _repeated(where, tokens, f"{demand}[{at}]")
    kept: dict[Tokens, int] = {}
    for i, tokens in enumerate(keep):
        if tokens in first:
            raise InputError(
                f"keep[{i}]",
                expected="an input whose answer stays",
                got=f"{list(tokens)}, which {demand}[{first[tokens]}] changes",
                do="Remove it from one of the two.",
            )
        at = kept.setdefault(tokens, i)
        if at != i:
            _repeated(f"keep[{i}]", tokens, f"keep[{at}]")


def check_editable(subject: Subject) -> None:
    """Raises: InputError for a post-norm subject, which cannot be run."""
    require(
        subject.config.norm_position == "pre",
        f"{subject.name}: norm_position",
        expected="'pre', a subject that can be run and edited",
        got="'post'",
        do="Post-norm encoders can be read, not edited.",
    )


def check_donor(demand: str, subject: Subject, donor: Subject | None) -> None:
    """Raises: InputError for a transplant without a donor, a donor of another vocabulary, or one too many."""
    if donor is None:
        expected = "a subject to transplant from"
        do = "Give the subject whose answers are wanted."
        require(demand != "transplant", "donor", expected=expected, got="none", do=do)
        return
    do = "Leave the donor out, or ask for `transplant`."
    expected = f"none, for a specification of `{demand}`"
    require(demand == "transplant", "donor", expected=expected, got=donor.name, do=do)
    check_editable(donor)
    require(
        donor.config.d_vocab == subject.config.d_vocab,
        f"donor {donor.name}",
        expected=f"the {subject.config.d_vocab} tokens of {subject.name}",
        got=f"{donor.config.d_vocab} tokens",
        do="Choose a donor of the same vocabulary.",
    )


def check_fits(subject: Subject, inputs: Mapping[str, Tokens]) -> None:
    """Raises: InputError for inputs that the subject does not embed; `inputs` by their place."""
    config = subject.config
    for where, tokens in inputs.items():
        check_tokens(config, torch.tensor(tokens), where=where, who=subject.name)
        require(
            len(tokens) <= config.n_ctx,
            where,
            expected=f"at most n_ctx = {config.n_ctx} tokens, for {subject.name}",
            got=len(tokens),
            do="Shorten this input.",
        )
    lengths = sorted({len(tokens) for tokens in inputs.values()})
    require(
        config.attention_dir == "causal" or len(lengths) == 1,
        "spec",
        expected=f"inputs of one length, for {subject.name} attends to both sides and would see padding",
        got=f"lengths from {lengths[0]} to {lengths[-1]}",
        do="Cut or pad them in the way the subject was trained.",
    )


def check_known(subject: Subject, answers: Mapping[str, int]) -> None:
    """Raises: InputError for an answer that is no token of the subject; `answers` by their place."""
    for where, answer in answers.items():
        check_tokens(subject.config, torch.tensor(answer), where=where, who=subject.name)


def check_candidates(answers: Sequence[int], given: Sequence[int]) -> None:
    """Raises: InputError unless there are 2 to MOST_ANSWERS candidate answers."""
    require(
        len(answers) >= 2,
        "answers",
        expected="at least 2 candidate answers: those wanted, and the subject's to all inputs",
        got=f"{len(answers)}, token {', '.join(map(str, answers))}",
        do="Add inputs that are answered otherwise to `keep`, or list the possible answers in `answers`.",
    )
    do = "Give fewer inputs, or inputs of one domain." if not given else "List fewer, or give fewer inputs."
    require(
        len(answers) <= MOST_ANSWERS,
        "answers",
        expected=f"at most {MOST_ANSWERS} candidate answers: those wanted, and the subject's to all inputs",
        got=len(answers),
        do=do,
    )


def _pair(value: object, where: str) -> tuple[Tokens, int]:
    if isinstance(value, Mapping):
        for key in ("input", "answer"):
            require(key in value, f"{where}.{key}", expected="a value", got="no such key", do="Add it.")
        for key in value:
            more = f"Remove it.{suggestion(str(key), ('input', 'answer'))}"
            known = key in ("input", "answer")
            require(known, f"{where}.{key}", expected="input or answer", got="another key", do=more)
        tokens, answer = value["input"], value["answer"]
    else:
        two = isinstance(value, list | tuple) and len(value) == 2
        expected = "a pair {input: [tokens], answer: token}"
        require(two, where, expected=expected, got=repr(value), do="Write both of them.")
        assert isinstance(value, list | tuple)
        tokens, answer = value
    return checked_input(tokens, f"{where}.input"), checked_token(answer, f"{where}.answer")


def _list(value: object, where: str, *, expected: str) -> Sequence[object]:
    got = "nothing" if value is None else f"a {type(value).__name__}"
    do = "Call .tolist() on it." if isinstance(value, torch.Tensor) else "Write a list in brackets."
    require(isinstance(value, list | tuple), where, expected=expected, got=got, do=do)
    assert isinstance(value, list | tuple)
    return value


def _repeated(where: str, tokens: Tokens, before: str) -> NoReturn:
    raise InputError(
        where,
        expected="each input once",
        got=f"{list(tokens)}, as in {before}",
        do="Remove one of the two.",
    )
