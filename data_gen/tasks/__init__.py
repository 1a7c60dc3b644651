"""Task families, one file each, and their registry."""

from data_gen.tasks.base import Task
from data_gen.tasks.brackets import Brackets
from data_gen.tasks.facts import Facts
from data_gen.tasks.ioi import IndirectObject
from data_gen.tasks.modular import Modular
from data_gen.tasks.repeated import Repeated
from data_gen.tasks.sorting import Sorting
from metamodel.config import require, suggestion

FAMILIES: dict[str, type[Task]] = {
    family.family: family for family in (Repeated, IndirectObject, Facts, Modular, Brackets, Sorting)
}
"""Every family by name. A new one is a file here and a line above."""


def make_task(family: str, variant: str, seed: int) -> Task:
    """One instance of a family: its parameters by `variant`, its private truth by `seed`.

    Raises: InputError for an unknown family or variant.
    """
    require(
        family in FAMILIES,
        "task.family",
        expected=f"one of {sorted(FAMILIES)}",
        got=repr(family),
        do=f"Name a known family.{suggestion(family, FAMILIES)}",
    )
    variants = FAMILIES[family].variants
    require(
        variant in variants,
        f"task.{family}.variant",
        expected=f"one of {list(variants)}",
        got=repr(variant),
        do=f"Name a known variant.{suggestion(variant, variants)}",
    )
    return FAMILIES[family].make(variant, seed)
