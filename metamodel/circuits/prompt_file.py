"""A file of prompts: JSON lines of token ids.

    {"clean": [50256, 464, 3290], "corrupt": [50256, 464, 3797], "answer": 318, "corrupt_answer": 373}

`position` is where the answer is read, by default the last token; `slice` names the part of the task. Prompts
of different lengths are filled up behind, which a causal subject sees only after the answer; where the
filling would be read (attention both ways, means over prompts) they are refused.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import InputError, require

TOKENS = ("clean", "corrupt")
ANSWERS = ("answer", "corrupt_answer")
KEYS = {*TOKENS, *ANSWERS, "position", "slice"}


def read_prompts(path: Path) -> Prompts:
    """The prompts of a file.

    Raises: InputError, naming file and line, if a prompt lacks something or does not fit.
    """
    require(path.is_file(), str(path), expected="a file of JSON lines", got="no file", do="Check the path.")
    lines = path.read_text().splitlines()
    found = [_prompt(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    require(bool(found), str(path), expected="at least one prompt", got="none", do="Add prompts.")
    longest = max(len(p["clean"]) for p in found)
    names = tuple(dict.fromkeys(p["slice"] for p in found))

    def tokens(key: str) -> Int[Tensor, "batch pos"]:
        return torch.tensor([p[key] + [p[key][-1]] * (longest - len(p[key])) for p in found])

    return Prompts(
        clean=tokens("clean"),
        corrupt=tokens("corrupt"),
        position=torch.tensor([p["position"] for p in found]),
        answer=torch.tensor([p["answer"] for p in found]),
        corrupt_answer=torch.tensor([p["corrupt_answer"] for p in found]),
        slice=torch.tensor([names.index(p["slice"]) for p in found]),
        slice_names=names,
        padded=any(len(p["clean"]) < longest for p in found),
    )


def write_prompts(prompts: Prompts, path: Path) -> None:
    """Writes what `read_prompts` reads; targets are left out.

    Raises: InputError if the file is there already.
    """
    require(not path.exists(), str(path), expected="no file", got="one", do="Choose another name.")
    lines = [
        json.dumps(
            {
                "clean": prompts.clean[i].tolist(),
                "corrupt": prompts.corrupt[i].tolist(),
                "position": int(prompts.position[i]),
                "answer": int(prompts.answer[i]),
                "corrupt_answer": int(prompts.corrupt_answer[i]),
                "slice": prompts.slice_names[int(prompts.slice[i])],
            }
        )
        for i in range(len(prompts))
    ]
    path.write_text("\n".join(lines) + "\n")


def _prompt(where: str, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(
            where, expected="a JSON object", got="another text", do="One prompt a line."
        ) from error
    require(isinstance(values, dict), where, expected="a JSON object", got=line[:40], do="One prompt a line.")
    for key in values.keys() ^ KEYS:
        known = key in KEYS
        if known and key in ("position", "slice"):
            continue
        raise InputError(
            f"{where}: {key}",
            expected="a value" if known else f"one of {', '.join(sorted(KEYS))}",
            got="none" if known else repr(key),
            do="Add it." if known else "Remove it.",
        )
    for key in TOKENS:
        good = isinstance(values[key], list) and values[key] and all(_is_token(t) for t in values[key])
        require(
            bool(good), f"{where}: {key}", expected="a list of token ids", got=repr(values[key])[:40],
            do="Tokenise the prompts first.",
        )  # fmt: skip
    for key in ANSWERS:
        good = _is_token(values[key])
        require(good, f"{where}: {key}", expected="a token id", got=repr(values[key])[:40], do="Tokenise it.")
    n = len(values["clean"])
    require(
        len(values["corrupt"]) == n,
        f"{where}: corrupt",
        expected=f"{n} tokens, as many as in clean",
        got=len(values["corrupt"]),
        do="Corrupt a prompt in place: patching needs the same positions.",
    )
    require(
        values["answer"] != values["corrupt_answer"],
        f"{where}: corrupt_answer",
        expected="another answer than the clean prompt's",
        got=values["corrupt_answer"],
        do="Corrupt what the answer depends on.",
    )
    position = values.get("position", n - 1)
    require(
        _is_token(position) and position < n,
        f"{where}: position",
        expected=f"0 to {n - 1}",
        got=position,
        do="Leave it out for the last token.",
    )
    return values | {"position": position, "slice": str(values.get("slice", "all"))}


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
