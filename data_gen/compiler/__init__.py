"""Compiled subjects: programs turned into weights, disguised, fine-tuned, and certified."""

from data_gen.compiler.compile import Draft, compile_program, minimal_size
from data_gen.compiler.disguise import Disguised, disguised
from data_gen.compiler.layout import Layout, lay_out
from data_gen.compiler.make import Compiled, Report, make_compiled
from data_gen.programs.truth import edge_uses, truths

__all__ = [
    "Compiled",
    "Disguised",
    "Draft",
    "Layout",
    "Report",
    "compile_program",
    "disguised",
    "edge_uses",
    "lay_out",
    "make_compiled",
    "minimal_size",
    "truths",
]
