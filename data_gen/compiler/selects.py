"""What the compiler asks of a select before it writes a head: may it select nothing, and who reads BOS."""

from data_gen.programs.language import POSITIONS, Aggregate, Program, Select, SelectorWidth


def may_select_nothing(program: Program, select: Select) -> bool:
    """Whether some place may select none. Sure only for selects by position or of the place itself."""
    if not select.reads_key:
        return not all(row[0] for row in select.table)
    if select.query == select.key and all(row[i] for i, row in enumerate(select.table)):
        return False
    positional = (not select.reads_query or select.query == POSITIONS) and select.key == POSITIONS
    if not positional:
        return True
    for q in range(program.length):
        seen = range(q + 1) if program.causal else range(program.length)
        row = select.table[q if select.reads_query else 0]
        if not any(row[k] for k in seen):
            return True
    return False


def feeds_attention(program: Program, name: str) -> bool:
    """Whether what stands at BOS in a variable's block can be read from there by a later head."""
    for step in program.steps:
        for argument, read in step.reads.items():
            if read != name:
                continue
            if argument in ("key", "value") and isinstance(step, Aggregate | SelectorWidth):
                return True
            if feeds_attention(program, step.name):
                return True
    return False
