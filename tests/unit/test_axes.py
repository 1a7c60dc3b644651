"""Every word that names an axis in an annotation has its line in the one legend."""

import ast
import re
from pathlib import Path

import jaxtyping
import pytest

from metamodel import axes

ROOT = Path(__file__).parents[2]


def legend() -> list[str]:
    assert axes.__doc__ is not None
    return re.findall(r"^ {4}(\w+) +\S", axes.__doc__, flags=re.MULTILINE)


def axis_words(code: str) -> set[str]:
    """Words of every shape in code: `Float[Tensor, "*rest pos"]` has `rest` and `pos`; numbers are none."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Subscript(
                value=ast.Name(id=name), slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))])
            ):
                if hasattr(jaxtyping, name):
                    found |= set(re.findall(r"[A-Za-z]\w*", shape))
    return found


@pytest.mark.parametrize("package", ["metamodel", "data_gen"])
def test_the_legend_has_every_axis_word(package: str):
    unknown = {
        str(path.relative_to(ROOT)): sorted(axis_words(path.read_text()) - set(legend()))
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert {path: words for path, words in unknown.items() if words} == {}


def test_the_legend_has_each_word_once():
    assert len(legend()) > 50
    assert len(legend()) == len(set(legend()))


def test_a_planted_word_is_found():
    code = 'def f(x: Float[Tensor, "*wrong pos 3"]) -> dict[str, "Tensor"]:\n    y: Int[Tensor, " alas"]'
    assert axis_words(code) == {"wrong", "pos", "alas"}
    assert axis_words(code) - set(legend()) == {"wrong", "alas"}
