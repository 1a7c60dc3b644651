"""A zoo of students from its configuration to its table, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_gen.student import __main__ as student

ROOT = Path(__file__).parents[2]
PAIRS = (
    "[{family: sorting, teacher_size: l9h9, teacher_recipe: quick, size: l2h2, recipe: brief, n_pairs: 3}]"
)
CONFIG = ("--config", "configs/student/tiny.yaml")


@pytest.fixture(scope="module")
def students(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("students") / "zoo"
    student.main([*CONFIG, "--zoo", str(job[0] / "data/tiny"), "--out", str(out)])
    return out


def test_students_are_measured_beside_plain_training(students, tmp_path):
    file = tmp_path / "students.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/students.py", students, "--out", file],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["n_pairs"] == 2
    for metric in ("circuit_distance", "transplant", "accuracy"):
        assert set(found["values"][metric]) == set(found["against_plain"][metric]) | {"plain"}
        assert set(found["against_cka"][metric]) == set(found["values"][metric]) - {"cka"}
    whole = json.loads(file.read_text())
    assert all(0 <= x <= 1 for arm in whole["pairs"]["circuit_distance"].values() for x in arm.values())
    starts = {arm: next(iter(of.values())) for arm, of in whole["pairs"]["circuit_distance"].items()}
    assert len(set(starts.values())) > 1


def test_a_zoo_of_students_is_never_overwritten(students, refused_here):
    said = refused_here(student.main, *CONFIG, "--out", students)
    assert said == (
        f"{students}: expected a new folder, got a zoo of students. "
        "Remove it, or give another --out: nothing is overwritten."
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tua", "0.5"],
         "data_gen.student: expected a known option, got --tua. See --help. Did you mean '--tau'?"),
        (["--tau", "1.0"], "student.tau: expected 0 <= tau < 1, got 1.0. Try 0.5."),
        (["--arms", "[cka]"], "student.arms: expected plain among them, got ['cka']. "
         "Add plain: every arm is compared with it."),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words, line, refused_here):
    assert refused_here(student.main, *CONFIG, *words) == line


def test_missing_teachers_are_said(job, refused_here, tmp_path):
    said = refused_here(
        student.main, *CONFIG, "--zoo", job[0] / "data/tiny", "--out", tmp_path / "x",
        "--pairs", PAIRS
    )  # fmt: skip
    assert "teachers of sorting, l9h9, quick: expected at least 3, got 0. Ask for fewer pairs" in said


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom data_gen.student.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
