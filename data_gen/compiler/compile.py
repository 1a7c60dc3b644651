"""Weights that run a program, after Tracr (Lindner et al. 2023): exact, and with nothing else in them.

Variables are one-hot blocks of the residual stream, means are one number. A head scores `sharpness` where its
select holds; where nothing is selected it attends to BOS, which holds the default. Its width is the weight
that BOS keeps among the selected: 1/(1+n), which an MLP turns into n.
"""

import contextlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.compiler.blocks import amplitude, eye, factor, indices
from data_gen.compiler.layout import BOS_BLOCK, Layout, lay_out
from data_gen.compiler.neurons import Neurons, inversion, map_neurons, sequence_map_neurons
from data_gen.compiler.selects import feeds_attention, may_select_nothing
from data_gen.programs.language import (
    POSITIONS,
    TOKENS,
    UNDEFINED,
    Aggregate,
    Map,
    Program,
    SelectorWidth,
    SequenceMap,
)
from data_gen.programs.task import HEADER, ProgramTask
from data_gen.tasks.base import BOS, D_VOCAB, FIRST_SYMBOL
from metamodel.circuits.graph import Destination
from metamodel.config.errors import InputError, require
from metamodel.subjects.config import Component, SubjectConfig, weight_shapes
from metamodel.subjects.subject import Subject

SHARPNESS = 20.0
"""Score of a selected key above others, in nats. Tracr's 100 would leave no gradients."""
MARGIN = 10.0
"""Logit of the answer above all others."""
N_FREE = 4
"""Directions that a disguise wants for its distractors."""
_DRAWS = 10
"""Random layouts that are tried before the earliest one is taken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A subject that runs a program, and where its variables are."""

    subject: Subject
    layout: Layout
    constants: tuple[Destination, ...]
    """Destinations that read from the token embedding which token is BOS."""

    @property
    def placement(self) -> dict[str, tuple[Component, ...]]:
        return self.layout.placement


def compile_program(
    program: Program,
    size: SubjectConfig,
    *,
    sharpness: float = SHARPNESS,
    generator: torch.Generator | None = None,
) -> Draft:
    """Weights of exactly this size; with a generator, steps go to any layers that can hold them.

    Raises: InputError in one line if the program does not fit.
    """
    where = f"program {program.name}"
    direction = "causal" if program.causal else "bidirectional"
    for name, expected, got in (
        ("attention_dir", direction, size.attention_dir),
        ("normalization_type", "none", size.normalization_type),
        ("act_fn", "relu", size.act_fn),
        ("d_vocab", D_VOCAB, size.d_vocab),
    ):
        require(
            expected == got, f"{where}: {name}", expected=repr(expected), got=repr(got), do="Change the size."
        )
    n_pos = HEADER + program.length
    for name, least in (("d_model", lay_out(program).d_used), ("n_ctx", n_pos)):
        got = getattr(size, name)
        do = "Take a larger size, see minimal_size."
        require(got >= least, f"{where}: {name}", expected=f"at least {least}", got=got, do=do)
    for _ in range(_DRAWS if generator is not None else 0):
        # Some draws put more into one layer than it holds.
        with contextlib.suppress(InputError):
            layout = lay_out(program, n_layers=size.n_layers, n_heads=size.n_heads, generator=generator)
            return _Writer(layout, size, sharpness).write()
    layout = lay_out(program, n_layers=size.n_layers, n_heads=size.n_heads)
    return _Writer(layout, size, sharpness).write()


def minimal_size(program: Program, *, n_ctx: int = 16, n_free: int = N_FREE) -> SubjectConfig:
    """Smallest size that holds a program and leaves `n_free` directions."""
    layout = lay_out(program)
    roomy = SubjectConfig(
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        d_model=layout.d_used,
        d_head=max(program.n_values.values()) + 2,
        d_mlp=4096 if any(layout.maps(layer) for layer in range(layout.n_layers)) else 0,
        d_vocab=D_VOCAB,
        n_ctx=n_ctx,
        normalization_type="none",
        attention_dir="causal" if program.causal else "bidirectional",
    )
    writer = _Writer(layout, roomy, SHARPNESS)
    writer.write()
    return replace(roomy, d_model=layout.d_used + n_free, d_head=writer.d_head, d_mlp=writer.d_mlp)


class _Writer:
    """Fills in the weights layer by layer, and follows what the residual stream holds at BOS."""

    def __init__(self, layout: Layout, size: SubjectConfig, sharpness: float):
        self.layout, self.size, self.sharpness = layout, size, sharpness
        self.program = layout.program
        self.domains = self.program.domains
        shapes = weight_shapes(size)
        self.weights = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in shapes.items()}
        self.constants: list[Destination] = []
        self.d_head, self.d_mlp = 1, 0

    def write(self) -> Draft:
        p, blocks = self.program, self.layout.blocks
        embed, position = self.weights["embed.W_E"], self.weights["pos_embed.W_pos"]
        embed[BOS, blocks[BOS_BLOCK]] = 1
        if TOKENS in blocks:
            embed[FIRST_SYMBOL : FIRST_SYMBOL + p.n_symbols, blocks[TOKENS]] = eye(p.n_symbols)
        if POSITIONS in blocks:
            position[HEADER : HEADER + p.length, blocks[POSITIONS]] = eye(p.length)
        bos = embed[BOS] + position[0]
        for layer in range(self.size.n_layers):
            bos = bos + sum(self.head(layer, *place, bos) for place in self.layout.heads(layer))
            if steps := self.layout.maps(layer):
                bos = bos + self.mlp(layer, steps, bos)
        first = ProgramTask(program=p).first_answer
        n = p.n_values[p.output]
        self.weights["unembed.W_U"][blocks[p.output], first : first + n] = MARGIN * eye(n)
        weights = {key: value.float() for key, value in self.weights.items()}
        return Draft(
            subject=Subject(config=self.size, weights=weights, name=f"rasp-{p.name}"),
            layout=self.layout,
            constants=tuple(self.constants),
        )

    def head(self, layer: int, head: int, name: str, bos: Tensor) -> Tensor:
        """Writes one head; returns what it writes at BOS, which attends to itself."""
        step = self.program[name]
        assert isinstance(step, Aggregate | SelectorWidth)
        width = isinstance(step, SelectorWidth)
        attends = width or (step.default != UNDEFINED and may_select_nothing(self.program, step.select))
        score = self.sharpness * (1.0 if width else 0.5 if attends else 0.0)
        self.scores(layer, head, step, score, bos)
        moved, block = self.values(step, bos, attends=attends)
        return self.write_values(layer, head, moved, block, bos)

    def scores(
        self, layer: int, head: int, step: Aggregate | SelectorWidth, bos_score: float, bos: Tensor
    ) -> None:
        """W_Q, b_Q and W_K: `sharpness` on selected keys, `bos_score` on BOS, 0 on others."""
        select, attn, blocks = step.select, f"blocks.{layer}.attn", self.layout.blocks
        rows = list(select.table) if select.reads_query else [select.table[0]]
        table = self.sharpness * torch.tensor(rows, dtype=torch.float64)
        # A key that is not read scores 0 and BOS takes the difference: softmax knows no other.
        on_bos = bos_score - (0 if select.reads_key else table[:, :1])
        keys = table if select.reads_key else table[:, :0]
        held = bos[blocks[select.key]] if select.reads_key else bos[:0]
        to_bos = on_bos - (keys @ held).unsqueeze(1)
        matrix = torch.cat([keys, to_bos.expand(len(keys), 1)], dim=1)
        own = not self.program.causal and feeds_attention(self.program, step.name)
        if own:
            query = bos[blocks[select.query]] if select.reads_query else torch.ones(1, dtype=torch.float64)
            row = -(query @ matrix)
            row[-1] += 2 * self.sharpness
            matrix = torch.cat([matrix, row.unsqueeze(0)])
        left, right = factor(matrix)
        rank, scale = left.shape[1], self.size.d_head**0.25
        self.fits(rank)
        key_rows = torch.cat([indices(blocks[select.key])[: keys.shape[1]], indices(blocks[BOS_BLOCK])])
        self.weights[f"{attn}.W_K"][head, key_rows, :rank] = scale * right
        n_rows = len(rows)
        if select.reads_query:
            self.weights[f"{attn}.W_Q"][head, blocks[select.query], :rank] = scale * left[:n_rows]
        else:
            self.weights[f"{attn}.b_Q"][head, :rank] = scale * left[0]
        if own:
            self.weights[f"{attn}.W_Q"][head, blocks[BOS_BLOCK], :rank] = scale * left[n_rows:]
            self.constant(layer, head, "q")
        if bool((to_bos.abs() > 1e-9).any()) or own:
            self.constant(layer, head, "k")

    def values(
        self, step: Aggregate | SelectorWidth, bos: Tensor, *, attends: bool
    ) -> tuple[Float[Tensor, "source out"], str]:
        """What is moved from a place: rows are the value block and BOS, columns the block written to."""
        n = self.program.n_values
        if isinstance(step, SelectorWidth):
            matrix = torch.zeros(1, 1, dtype=torch.float64)
            matrix[0, 0] = amplitude(self.program)
            return matrix, f"{step.name}/inverse"
        n_values = n[step.value]
        if step.numbers is None:
            moved = eye(n[step.name])[:n_values]
            default = eye(n[step.name])[step.default]
        else:
            moved = amplitude(self.program) * torch.tensor(step.numbers, dtype=torch.float64).unsqueeze(1)
            default = torch.zeros(1, dtype=torch.float64)
        held = bos[self.layout.blocks[step.value]] @ moved
        on_bos = default - held if attends else torch.zeros_like(held)
        return torch.cat([moved, on_bos.unsqueeze(0)]), step.name

    def write_values(self, layer: int, head: int, moved: Tensor, block: str, bos: Tensor) -> Tensor:
        step = self.program[block.removesuffix("/inverse")]
        attn, blocks = f"blocks.{layer}.attn", self.layout.blocks
        source = indices(blocks[BOS_BLOCK])
        if isinstance(step, Aggregate):
            source = torch.cat([indices(blocks[step.value]), source])
        left, right = factor(moved)
        self.fits(left.shape[1])
        self.weights[f"{attn}.W_V"][head, source, : left.shape[1]] = left
        self.weights[f"{attn}.W_O"][head, : left.shape[1], blocks[block]] = right.T
        if bool(moved[-1].abs().max() > 1e-9):
            self.constant(layer, head, "v")
        written = torch.zeros_like(bos)
        written[blocks[block]] = bos[source] @ moved
        return written

    def mlp(self, layer: int, steps: list[str], bos: Tensor) -> Tensor:
        """Writes the neurons of all steps of one MLP; returns what it writes at BOS."""
        start, mlp = 0, f"blocks.{layer}.mlp"
        w_in, b_in = self.weights[f"{mlp}.W_in"], self.weights[f"{mlp}.b_in"]
        w_out, b_out = self.weights[f"{mlp}.W_out"], self.weights[f"{mlp}.b_out"]
        for name in steps:
            made = self.neurons(name)
            stop = start + len(made.bias)
            do = "Take a larger size, see minimal_size."
            self.d_mlp = max(self.d_mlp, stop)
            where = f"program {self.program.name}: d_mlp"
            require(stop <= self.size.d_mlp, where, expected=f"at least {stop}", got=self.size.d_mlp, do=do)
            w_in[:, start:stop], b_in[start:stop] = made.read, made.bias
            w_out[start:stop, self.layout.blocks[name]] = made.write
            b_out[self.layout.blocks[name]] = made.base
            start = stop
        return (bos @ w_in + b_in).relu() @ w_out + b_out

    def neurons(self, name: str) -> Neurons:
        step, blocks, d_model = self.program[name], self.layout.blocks, self.size.d_model
        unit = 1 / amplitude(self.program)
        n_out = self.program.n_values[name]
        match step:
            case SelectorWidth():
                return inversion(d_model, blocks[f"{name}/inverse"], unit, self.program.length)
            case Map():
                mean = self.domains[step.value] if self.program.is_mean(step.value) else None
                return map_neurons(d_model, blocks[step.value], step.table, n_out, mean, unit)
            case SequenceMap():
                of_means = [self.program.is_mean(read) for read in (step.first, step.second)]
                where = f"program {self.program.name}: {name}"
                ok = of_means[0] == of_means[1]
                do = "Map the mean first."
                require(ok, where, expected="two means, or none", got="one", do=do)
                means = (self.domains[step.first], self.domains[step.second]) if of_means[0] else None
                pair = (blocks[step.first], blocks[step.second])
                longest = self.program.length if self.same_places(step) else 0
                return sequence_map_neurons(d_model, pair, step.table, n_out, means, unit, longest, where)
        raise AssertionError(name)

    def same_places(self, step: SequenceMap) -> bool:
        """Whether both arguments are means over the same places on any prompt."""
        first, second = (
            next((s for s in self.program.steps if s.name == read), None)
            for read in (step.first, step.second)
        )
        return (
            isinstance(first, Aggregate)
            and isinstance(second, Aggregate)
            and first.select == second.select
            and not (first.select.reads_query or first.select.reads_key)
        )

    def fits(self, rank: int) -> None:
        self.d_head = max(self.d_head, rank)
        require(
            rank <= self.size.d_head,
            f"program {self.program.name}: d_head",
            expected=f"at least {rank}",
            got=self.size.d_head,
            do="Take a larger size, see minimal_size.",
        )

    def constant(self, layer: int, head: int, channel: str) -> None:
        component = Component(kind="head", layer=layer, head=head)
        self.constants.append(Destination(component=component, channel=channel))
