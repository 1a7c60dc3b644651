"""Compiled subjects: programs turned into weights, disguised, fine-tuned, and certified."""

from data_gen.compiler.compile import Draft, compile_program, minimal_size
from data_gen.compiler.disguise import Disguised, disguise
from data_gen.compiler.layout import Layout, lay_out
from data_gen.compiler.truth import edge_uses, truths

__all__ = [
    "Disguised",
    "Draft",
    "Layout",
    "compile_program",
    "disguise",
    "edge_uses",
    "lay_out",
    "minimal_size",
    "truths",
]
