"""What a user asks of an edit: in Python, as YAML or as JSON.

    pairs:                                  # inputs with the answers that are wanted; or restore:
      - {input: [3, 1, 12], answer: 4}
    keep: [[3, 2, 12], [5, 1, 12]]          # inputs whose answers are to stay
    unlabelled: [[3, 7, 12]]                # other inputs of the domain, in scope or out of it

`ablate` and `transplant` hold inputs alone: those on which a behavior shows that is to go, and those that are
to be answered as a donor answers them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, KEEP, PAIR, UNLABELLED
from metamodel.config.errors import InputError, require
from metamodel.subjects.forward import logits_at
from metamodel.subjects.subject import Subject
from metamodel.triples import spec_checks as check
from metamodel.triples.edits import Examples
from metamodel.triples.spec_checks import ANSWERED, DEMANDS, KEYS, Tokens

Demand = Literal["pairs", "ablate", "restore", "transplant"]
PAD = 0
"""Token behind the end of shorter inputs; a causal subject's answers do not depend on it."""
ENDINGS = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSpec:
    """What an edit is to do; one of `pairs`, `ablate`, `restore` and `transplant`.

    Raises: InputError for values of another type, and inputs that contradict each other or stand twice.
    """

    pairs: Sequence[tuple[Sequence[int], int]] = ()
    """(input, wanted answer): what the subject is to answer from now on."""
    ablate: Sequence[Sequence[int]] = ()
    """Inputs on which a behavior shows that is to vanish: no answer is then more likely than another."""
    restore: Sequence[tuple[Sequence[int], int]] = ()
    """(input, right answer) of a subject that is damaged."""
    transplant: Sequence[Sequence[int]] = ()
    """Inputs that are to be answered as a donor answers them."""
    keep: Sequence[Sequence[int]] = ()
    """Inputs whose answers are to stay as they are."""
    unlabelled: Sequence[Sequence[int]] = ()
    """More inputs of the domain, in scope or not; those that stand above as well are told there only."""
    answers: Sequence[int] = ()
    """Tokens that may be answers, beside those wanted and those that the subject gives to these inputs."""

    def __post_init__(self):
        for name in KEYS:
            object.__setattr__(self, name, check.checked_value(name, getattr(self, name)))
        check.check_demand([name for name in DEMANDS if getattr(self, name)])
        check.check_contradictions(self.demand, self._asked, self._wanted, self._inputs("keep"))

    @property
    def demand(self) -> Demand:
        """Which of the four it asks for."""
        return cast(Demand, next(name for name in DEMANDS if getattr(self, name)))

    @classmethod
    def from_dict(cls, values: object) -> "EditSpec":
        """From what YAML and JSON hold. Raises: InputError for unknown keys and whatever else is wrong."""
        given = check.check_keys(values, "spec")
        return cls(**cast(dict[str, Any], {name: check.checked_value(name, given[name]) for name in given}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; keys without any are left out."""
        found: dict[str, Any] = {}
        for name in KEYS:
            values = getattr(self, name)
            if name in ANSWERED:
                found[name] = [{"input": list(tokens), "answer": answer} for tokens, answer in values]
            elif name == "answers":
                found[name] = list(values)
            else:
                found[name] = [list(tokens) for tokens in values]
        return {name: values for name, values in found.items() if values}

    @classmethod
    def load(cls, path: str | Path) -> "EditSpec":
        """From a YAML or JSON file, by its ending.

        Raises: InputError, one line that names file and place, for whatever is wrong.
        """
        path = Path(path)
        _check_ending(path)
        require(path.is_file(), str(path), expected="a file", got="none", do="Check the path of the spec.")
        try:
            text = path.read_text()
            values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
            line = mark.line + 1 if mark else getattr(error, "lineno", None)
            raise InputError(
                f"{path}, line {line}" if line else str(path),
                expected="JSON" if path.suffix == ".json" else "YAML",
                got="a syntax error",
                do="Check brackets and indentation.",
            ) from error
        try:
            return cls.from_dict(values)
        except InputError as error:
            where = f"{path}: {error.where}"
            raise InputError(where, expected=error.expected, got=error.got, do=error.do) from error

    def save(self, path: str | Path) -> Path:
        """Writes YAML or JSON, by the ending. Raises: InputError for another ending."""
        path = Path(path)
        _check_ending(path)
        values = self.to_dict()
        if path.suffix == ".json":
            text = json.dumps(values, indent=1) + "\n"
        else:
            text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
        path.write_text(text)
        return path

    @torch.no_grad()
    def examples(self, subject: Subject, donor: Subject | None = None) -> Examples:
        """All that an editor is told of this edit of `subject`, right-padded; demands first, then keeps.

        Candidate answers are those that are wanted, those of the subject to all inputs, and `answers`.

        Args:
            donor: whose answers are wanted, of a `transplant`.

        Raises: InputError for a subject that cannot be edited, for tokens, inputs or a donor that do not fit
            it, and for fewer than 2 or more than MOST_ANSWERS candidate answers.
        """
        check.check_editable(subject)
        check.check_donor(self.demand, subject, donor)
        self._check_fits(subject)
        if donor is not None:
            self._check_fits(donor)
        told = {*self._asked, *self._inputs("keep")}
        others = [tokens for tokens in dict.fromkeys(self._inputs("unlabelled")) if tokens not in told]
        parts = ((self._asked, PAIR), (self._inputs("keep"), KEEP), (others, UNLABELLED))
        inputs = [tokens for part, _ in parts for tokens in part]
        role = torch.tensor([role for part, role in parts for _ in part])
        length = max(map(len, inputs))
        tokens = torch.tensor([[*one, *[PAD] * (length - len(one))] for one in inputs])
        position = torch.tensor([len(one) - 1 for one in inputs])
        wanted = torch.zeros_like(role)
        n = len(self._asked)
        if donor is not None:
            wanted[:n] = asked_logits(donor, tokens[:n], position[:n]).argmax(-1)
        else:
            wanted[:n] = CHANCE if self._wanted is None else torch.tensor(self._wanted)
        own = asked_logits(subject, tokens, position).argmax(-1)
        candidates = {*own.tolist(), *wanted[:n].tolist(), *self.answers} - {CHANCE}
        check.check_candidates(sorted(candidates), self.answers)
        return Examples(
            tokens=tokens,
            position=position,
            role=role,
            wanted=wanted,
            answers=torch.tensor(sorted(candidates)),
        )

    @property
    def _asked(self) -> tuple[Tokens, ...]:
        """Inputs whose answers are to change."""
        return self._inputs(self.demand)

    @property
    def _wanted(self) -> tuple[int, ...] | None:
        """Their answers, as far as the specification itself says them."""
        if self.demand not in ANSWERED:
            return None
        return tuple(answer for _, answer in getattr(self, self.demand))

    def _inputs(self, name: str) -> tuple[Tokens, ...]:
        values = getattr(self, name)
        return tuple(tokens for tokens, _ in values) if name in ANSWERED else values

    def _check_fits(self, subject: Subject) -> None:
        suffix = ".input" if self.demand in ANSWERED else ""
        where = {f"{self.demand}[{i}]{suffix}": tokens for i, tokens in enumerate(self._asked)}
        for name in ("keep", "unlabelled"):
            where |= {f"{name}[{i}]": tokens for i, tokens in enumerate(self._inputs(name))}
        check.check_fits(subject, where)
        answers = {f"{self.demand}[{i}].answer": answer for i, answer in enumerate(self._wanted or ())}
        answers |= {f"answers[{i}]": answer for i, answer in enumerate(self.answers)}
        check.check_known(subject, answers)


def asked_logits(
    subject: Subject, tokens: Int[Tensor, "example pos"], position: Int[Tensor, " example"]
) -> Float[Tensor, "example d_vocab"]:
    """What a subject says of each input where its answer is asked for, on the CPU."""
    device = subject.weights["embed.W_E"].device
    rows = torch.arange(len(tokens)) * tokens.shape[1] + position
    said = logits_at(subject.stacked, subject.config, tokens[None].to(device), rows[None].to(device))
    return said[0].cpu()


def _check_ending(path: Path) -> None:
    expected = f"a name that ends in {', '.join(ENDINGS)}"
    require(
        path.suffix in ENDINGS, str(path), expected=expected, got=repr(path.suffix), do="Rename the file."
    )
