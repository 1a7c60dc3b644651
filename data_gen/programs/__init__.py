"""Programs: algorithms in a small language, their interpreter, and the tasks that they are the rules of."""

from data_gen.programs.inputs import all_inputs, random_inputs
from data_gen.programs.interpreter import interchange, output, run, valid
from data_gen.programs.language import (
    POSITIONS,
    TOKENS,
    UNDEFINED,
    Aggregate,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Step,
    uses,
)
from data_gen.programs.library import MAKE, NULLS, library_program
from data_gen.programs.sampling import behavior, random_program, random_programs
from data_gen.programs.task import (
    HEADER,
    PROGRAM_FAMILIES,
    ProgramTask,
    make_program_task,
    program_of,
)

__all__ = [
    "HEADER",
    "MAKE",
    "NULLS",
    "POSITIONS",
    "PROGRAM_FAMILIES",
    "TOKENS",
    "UNDEFINED",
    "Aggregate",
    "Map",
    "Program",
    "ProgramTask",
    "Select",
    "SelectorWidth",
    "SequenceMap",
    "Step",
    "all_inputs",
    "behavior",
    "interchange",
    "library_program",
    "make_program_task",
    "output",
    "program_of",
    "random_inputs",
    "random_program",
    "random_programs",
    "run",
    "uses",
    "valid",
]
