"""Task families, one file each, and their registry."""

from data_gen.cells import JOIN
from data_gen.tasks.agreement import Agreement
from data_gen.tasks.base import Task
from data_gen.tasks.brackets import Brackets
from data_gen.tasks.copying import Copying
from data_gen.tasks.docstring import Docstring
from data_gen.tasks.dyck import Dyck
from data_gen.tasks.facts import Facts
from data_gen.tasks.histogram import Histogram
from data_gen.tasks.ioi import IndirectObject
from data_gen.tasks.mixture import Mixture
from data_gen.tasks.modular import Modular
from data_gen.tasks.movers import Movers
from data_gen.tasks.ngram import NGram
from data_gen.tasks.ordinal import Ordinal
from data_gen.tasks.recall import Recall
from data_gen.tasks.repeated import Repeated
from data_gen.tasks.selecting import Selecting
from data_gen.tasks.shortest import Shortest
from data_gen.tasks.sorting import Sorting
from metamodel.config import require, suggestion

_ALL: tuple[type[Task], ...] = (
    Repeated,
    IndirectObject,
    Facts,
    Modular,
    Brackets,
    Sorting,
    NGram,
    Copying,
    Selecting,
    Histogram,
    Ordinal,
    Agreement,
    Movers,
    Recall,
    Dyck,
    Shortest,
    Docstring,
)
FAMILIES: dict[str, type[Task]] = {family.family: family for family in _ALL}
"""Every family by name. A new one is a file here and a line above."""

PROGRAM = "rasp-"
"""Beginning of the names of families that are programs."""


def make_task(family: str, variant: str, seed: int) -> Task:
    """One instance of a family: its parameters by `variant`, its private truth by `seed`.

    `repeated+facts` is both families at once, in their base variants; `rasp-histogram` the task of a program.

    Raises: InputError for an unknown family or variant, or a family twice.
    """
    if JOIN in family:
        return _make_mixture(family, variant, seed)
    if family.startswith(PROGRAM):
        from data_gen.programs.task import make_program_task  # programs are tasks, and so import this package

        return make_program_task(family, variant, seed)
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


def _make_mixture(family: str, variant: str, seed: int) -> Mixture:
    names = family.split(JOIN)
    require(
        variant == "base",
        f"task.{family}.variant",
        expected="base, as of every family that is learnt beside others",
        got=repr(variant),
        do="Leave the variant out.",
    )
    require(
        len(set(names)) == len(names),
        "task.family",
        expected="each family once",
        got=repr(family),
        do="Name different families.",
    )
    programs = [name for name in names if name.startswith(PROGRAM)]
    require(
        not programs,
        "task.family",
        expected="families whose prompts have a marker, beside others",
        got=f"{programs[0] if programs else ''}, whose prompts have none",
        do="Let programs be learnt alone.",
    )
    return Mixture.of(tuple(make_task(name, "base", seed) for name in names))
