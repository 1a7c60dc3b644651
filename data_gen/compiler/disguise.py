"""Makes a compiled subject look like a trained one: nobody shall find its circuit by looking for zeros.

Whatever the program leaves free is filled: tokens, positions, heads and neurons that it does not use, spare
directions inside heads, and a little noise everywhere. Distractors have the norms of real components, read
everything, and write to directions that the program does not use. Then comes a random element of the gauge
group: order of heads and neurons, bases of heads and of the residual stream.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.compiler.compile import MARGIN, Draft
from data_gen.programs.inputs import random_inputs
from data_gen.programs.placement import Placement
from data_gen.programs.task import HEADER, ProgramTask
from data_gen.tasks.base import BOS, FIRST_SYMBOL
from metamodel.circuits.graph import Destination
from metamodel.config.errors import require
from metamodel.subjects.config import Component, components
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject

NOISE = 0.08
"""Standard deviation of the noise on every weight, relative to the root mean square of its array."""
QK_NOISE = 0.1
"""Share of it that queries and keys get: a mean over n places tells n from n+1 only if their scores agree to
a tenth of a nat, in which the sharpness multiplies relative noise."""
CONDITION = 3.0
"""Largest condition number of the change of any basis."""
LOUDEST = 2.0
"""Largest root mean square norm of what the distractors of one layer write."""
_N_PROBES = 256
_SPARE = 0.05
"""Size of queries and keys in those directions of a program's head that it does not use."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Disguised:
    """A compiled subject in disguise, and where its variables went."""

    subject: Subject
    placement: Placement
    constants: tuple[Destination, ...]
    node_order: Int[Tensor, " node"]
    """`node_order[i]`: index in the plain subject of the disguised one's node i."""


def disguised(draft: Draft, generator: torch.Generator, *, noise: float = NOISE) -> Disguised:
    """Other weights with the same answers and circuit, up to noise.

    Raises: InputError if the program leaves fewer than two directions free.
    """
    free = draft.subject.config.d_model - draft.layout.d_used
    require(
        free >= 2,
        f"program {draft.layout.program.name}: d_model",
        expected=f"at least {draft.layout.d_used + 2} for a disguise",
        got=draft.subject.config.d_model,
        do="Take a larger size, see minimal_size.",
    )
    filled = _Filler(draft, generator).fill(noise)
    element = gauge_element(filled, generator, condition=CONDITION)
    return moved(draft.placement, draft.constants, element.subject, element.node_order)


def moved(
    placement: Placement,
    constants: tuple[Destination, ...],
    subject: Subject,
    node_order: Int[Tensor, " node"],
) -> Disguised:
    """A placement after its components changed their order."""
    nodes = components(subject.config)
    new = {nodes[int(old)]: nodes[i] for i, old in enumerate(node_order)}
    return Disguised(
        subject=subject,
        placement={name: tuple(new[c] for c in places) for name, places in placement.items()},
        constants=tuple(replace(d, component=new[d.component]) for d in constants),
        node_order=node_order,
    )


class _Filler:
    """Fills what a program leaves free, in float64, before any change of basis."""

    def __init__(self, draft: Draft, generator: torch.Generator):
        self.draft, self.generator, self.config = draft, generator, draft.subject.config
        self.task = ProgramTask(program=draft.layout.program)
        self.weights = {key: value.double() for key, value in draft.subject.weights.items()}
        self.used = draft.layout.d_used
        self.busy = {c for places in draft.placement.values() for c in places}

    def normal(self, *shape: int) -> Float[Tensor, "*rest"]:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def fill(self, noise: float) -> Subject:
        self.embeddings()
        self.unembedding()
        scores, writes = self.head_norms()
        neuron = self.neuron_norms()
        for layer in range(self.config.n_layers):
            for head in range(self.config.n_heads):
                if Component(kind="head", layer=layer, head=head) in self.busy:
                    self.spare(layer, head)
                else:
                    self.distractor_head(layer, head, scores, writes)
            self.quieten_heads(layer)
            if self.config.has_mlp:
                self.distractor_neurons(layer, neuron)
        self.add_noise(noise)
        return self.subject()

    def subject(self) -> Subject:
        weights = {key: value.float() for key, value in self.weights.items()}
        return self.draft.subject.with_weights(weights)

    def add_noise(self, noise: float) -> None:
        """On every array, relative to its size; on neurons, to the size of each, and none on their biases.

        Two neurons that make one step get the same noise: it moves and scales the step, where noise of each
        alone would be multiplied by what they cancel.
        """
        for key, value in self.weights.items():
            if ".mlp.W" not in key and not key.endswith("b_in"):
                size = value.square().mean().sqrt().clamp(min=0.05)
                size = size * (QK_NOISE if key[-3:] in ("W_Q", "W_K", "b_Q") else 1.0)
                self.weights[key] = value + noise * size * self.normal(*value.shape)
        for layer in range(self.config.n_layers if self.config.has_mlp else 0):
            read, write = (self.weights[f"blocks.{layer}.mlp.W_{x}"] for x in ("in", "out"))
            reading, writing = self.normal(*read.shape), self.normal(*write.shape)
            second = (read[:, 1:] == read[:, :-1]).all(0) & (write[1:] == -write[:-1]).all(1)
            for neuron in (second.nonzero().squeeze(1) + 1).tolist():
                reading[:, neuron], writing[neuron] = reading[:, neuron - 1], -writing[neuron - 1]
            self.weights[f"blocks.{layer}.mlp.W_in"] = read + noise * reading * _rms(read, 0)
            self.weights[f"blocks.{layer}.mlp.W_out"] = write + noise * writing * _rms(write, 1)

    def embeddings(self) -> None:
        """Tokens and positions get something in the free directions, unused ones in all."""
        c, p = self.config, self.task.program
        width = c.d_model - self.used
        for key, kept in (
            ("embed.W_E", [BOS, *range(FIRST_SYMBOL, FIRST_SYMBOL + p.n_symbols)]),
            ("pos_embed.W_pos", list(range(HEADER + p.length))),
        ):
            table = self.weights[key]
            unused = [row for row in range(len(table)) if row not in kept]
            table[unused] = self.normal(len(unused), c.d_model) / self.used**0.5
            table[:, self.used :] = self.normal(len(table), width) / width**0.5

    def unembedding(self) -> None:
        """Tokens that are no answers get a negative logit, each its own."""
        program, table = self.task.program, self.weights["unembed.W_U"]
        block, first = self.draft.layout.blocks[program.output], self.task.first_answer
        answers = range(first, first + program.n_values[program.output])
        others = [token for token in range(self.config.d_vocab) if token not in answers]
        low = torch.rand(len(others), generator=self.generator, dtype=torch.float64) * 0.4 + 0.2
        table[block.start : block.stop, others] = -MARGIN * low

    def head_norms(self) -> tuple[float, float]:
        """Mean norms of QK and OV of the program's heads."""
        scores, writes = [], []
        for head in self.busy:
            if head.kind == "head":
                q, k, v, o = (self.weights[f"blocks.{head.layer}.attn.W_{x}"][head.head] for x in "QKVO")
                bias = self.weights[f"blocks.{head.layer}.attn.b_Q"][head.head].unsqueeze(0)
                scores.append(float((torch.cat([q, bias]) @ k.T).norm()))
                writes.append(float((v @ o).norm()))
        mean = len(scores) or 1
        return sum(scores) / mean or self.config.d_head**0.5, sum(writes) / mean or 1.0

    def neuron_norms(self) -> float:
        """Mean over the program's neurons of the product of the norms that they read and write with."""
        norms = []
        for layer in range(self.config.n_layers if self.config.has_mlp else 0):
            mlp = f"blocks.{layer}.mlp"
            norm = self.weights[f"{mlp}.W_in"].norm(dim=0) * self.weights[f"{mlp}.W_out"].norm(dim=1)
            norms += norm[norm > 0].tolist()
        return sum(norms) / len(norms) if norms else 1.0

    def spare(self, layer: int, head: int) -> None:
        """Directions inside a program's head that it does not use: they move free directions to others."""
        attn, free = f"blocks.{layer}.attn", slice(self.used, None)
        value, out = self.weights[f"{attn}.W_V"][head], self.weights[f"{attn}.W_O"][head]
        query, key = self.weights[f"{attn}.W_Q"][head], self.weights[f"{attn}.W_K"][head]
        idle = value.norm(dim=0) == 0
        n, width = int(idle.sum()), self.config.d_model - self.used
        value[:, idle] = self.normal(self.config.d_model, n) / self.config.d_model**0.5
        rows = torch.zeros(n, self.config.d_model, dtype=torch.float64)
        rows[:, free] = self.normal(n, width) / width**0.5
        out[idle] = rows
        idle = key.norm(dim=0) == 0
        n = int(idle.sum())
        for matrix in (query, key):
            columns = torch.zeros(self.config.d_model, n, dtype=torch.float64)
            columns[free] = _SPARE * self.normal(width, n) / width**0.5
            matrix[:, idle] = columns

    def distractor_head(self, layer: int, head: int, scores: float, writes: float) -> None:
        c, attn = self.config, f"blocks.{layer}.attn"
        query, key, value = (self.normal(c.d_model, c.d_head) for _ in range(3))
        out = torch.zeros(c.d_head, c.d_model, dtype=torch.float64)
        out[:, self.used :] = self.normal(c.d_head, c.d_model - self.used)
        scale = (scores / float((query @ key.T).norm())) ** 0.5
        self.weights[f"{attn}.W_Q"][head] = scale * query
        self.weights[f"{attn}.W_K"][head] = scale * key
        scale = (writes / float((value @ out).norm())) ** 0.5
        self.weights[f"{attn}.W_V"][head] = scale * value
        self.weights[f"{attn}.W_O"][head] = scale * out

    def distractor_neurons(self, layer: int, norm: float) -> None:
        """Neurons that the program leaves idle, no louder together than LOUDEST."""
        c, mlp = self.config, f"blocks.{layer}.mlp"
        read, write = self.weights[f"{mlp}.W_in"], self.weights[f"{mlp}.W_out"]
        idle = (read.norm(dim=0) == 0) & (write.norm(dim=1) == 0)
        n, width = int(idle.sum()), c.d_model - self.used
        rows = torch.zeros(n, c.d_model, dtype=torch.float64)
        rows[:, self.used :] = self.normal(n, width) / width**0.5
        read[:, idle] = (norm / c.d_model) ** 0.5 * self.normal(c.d_model, n)
        self.weights[f"{mlp}.b_in"][idle] = 0.3 * self.normal(n)
        write[idle] = norm**0.5 * rows
        write[idle] *= self.quietening(f"blocks.{layer}.hook_mlp_out")

    def quieten_heads(self, layer: int) -> None:
        """Distractor heads of a layer, and spare directions of others, no louder together than LOUDEST."""
        out = self.weights[f"blocks.{layer}.attn.W_O"]
        out[..., self.used :] *= self.quietening(f"blocks.{layer}.hook_attn_out")

    def quietening(self, site: str) -> float:
        """What brings the root mean square norm of writes to the free directions down to LOUDEST."""
        symbols = random_inputs(self.task.program, self.generator, _N_PROBES)
        written = self.subject().run(self.task.tokens(symbols), taps=[site]).taps[site]
        loud = float(written[..., self.used :].square().sum(-1).mean().sqrt())
        return min(1.0, LOUDEST / max(loud, 1e-9))


def _rms(x: Float[Tensor, "row column"], dim: int) -> Float[Tensor, "*rest"]:
    return x.square().mean(dim, keepdim=True).sqrt()
