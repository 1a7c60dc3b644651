"""Which component is to learn which variable: heads what selects and aggregates, MLPs what maps.

Unlike a compiled subject, one that is trained needs no second component to invert a selector width: the head
carries it. Layers and heads are drawn, so that subjects of one program do not share their circuit.
"""

import torch

from data_gen.compiler.layout import schedule
from data_gen.programs.language import TOKENS, Map, Program, SequenceMap
from data_gen.programs.placement import Placement, embeddings
from data_gen.programs.task import HEADER
from metamodel.config.errors import require
from metamodel.subjects.config import Component, SubjectConfig


def place(program: Program, config: SubjectConfig, generator: torch.Generator) -> Placement:
    """A component for every variable of a program; several maps may share an MLP.

    Args:
        generator: draws the layer among those that leave room for the steps that follow, and the head.

    Raises: InputError if the program does not fit the shape, or has a variable that no exchange can show.
    """
    _check(program, config)
    slots = schedule(program, config.n_layers, config.n_heads, generator, width_takes_mlp=False)
    free = {
        layer: torch.randperm(config.n_heads, generator=generator).tolist()
        for layer in range(config.n_layers)
    }
    placement = dict(embeddings(program))
    for step in program.steps:
        layer = slots[step.name] // 2
        if isinstance(step, Map | SequenceMap):
            placement[step.name] = (Component(kind="mlp", layer=layer),)
        else:
            placement[step.name] = (Component(kind="head", layer=layer, head=free[layer].pop()),)
    return placement


def _check(program: Program, config: SubjectConfig) -> None:
    where = f"program {program.name}"
    maps = any(isinstance(step, Map | SequenceMap) for step in program.steps)
    ok, do = config.has_mlp or not maps, "Set d_mlp, or take a program without maps."
    require(ok, where, expected="a subject with MLPs, for its maps", got="d_mlp 0", do=do)
    direction = "causal" if program.causal else "bidirectional"
    require(
        config.attention_dir == direction,
        where,
        expected=f"{direction} attention",
        got=config.attention_dir,
        do=f"Set attention_dir: {direction}.",
    )
    varying = {TOKENS}
    for step in program.steps:
        # Prompts share their positions: what positions alone determine is the same after every exchange, so
        # that nothing would teach or certify where it is computed.
        require(
            not varying.isdisjoint(step.reads.values()),
            f"{where}: {step.name}",
            expected="a step that depends on the tokens",
            got="one of positions alone",
            do="Take another program: exchanges between prompts cannot show this variable.",
        )
        varying.add(step.name)
    n_pos = HEADER + program.length
    ok, do = n_pos <= config.n_ctx, "Raise n_ctx or shorten the program."
    require(ok, where, expected=f"n_ctx of at least {n_pos}", got=config.n_ctx, do=do)
