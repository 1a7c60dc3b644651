"""Cases on disk: one safetensors file, `case-00000/<part>` for every part of a case. Without pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metamodel.cases.case import Case
from metamodel.cases.memory import CaseMemory
from metamodel.config.errors import InputError, require

VERSION = "1"
PARTS = ("tokens", "role", "said", "streams", "moved", "answers", "readout", "signature")
AGAIN = "Remember the edits again and save them."


def save_cases(memory: CaseMemory, path: Path | str) -> None:
    """Writes all cases of a memory."""
    tensors = {
        f"case-{i:05d}/{part}": getattr(case, part).contiguous().cpu()
        for i, case in enumerate(memory.cases)
        for part in PARTS
    }
    names = json.dumps([case.name for case in memory.cases])
    save_file(tensors, Path(path), metadata={"version": VERSION, "names": names, "near": str(memory.near)})


def load_cases(path: Path | str) -> CaseMemory:
    """Reads a memory. Raises: InputError if the file is missing, damaged or something else."""
    path = Path(path)
    require(path.is_file(), str(path), expected="a file of cases", got="no file", do="Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(str(path), expected="a safetensors file", got=str(error), do=AGAIN) from error
    version = about.get("version")
    require(version == VERSION, f"{path}: version", expected=VERSION, got=version, do=AGAIN)
    names = json.loads(about["names"])
    wanted = {f"case-{i:05d}/{part}" for i in range(len(names)) for part in PARTS}
    wrong = sorted(wanted ^ set(found))
    require(
        not wrong, f"{path}: {wrong[0] if wrong else ''}", expected="every part once", got="not", do=AGAIN
    )
    for key, value in found.items():
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        require(finite, f"{path}: {key}", expected="finite numbers", got="nan or inf", do=AGAIN)
    cases = [
        Case(name=name, **{part: found[f"case-{i:05d}/{part}"] for part in PARTS})
        for i, name in enumerate(names)
    ]
    return CaseMemory(cases, near=float(about["near"]))
