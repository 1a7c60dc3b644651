"""Trains the students of one size and recipe side by side, one for each teacher, by one way of being like it.

    L = task + β · circuit loss(τ_t) + γ · interchange on matched components + α · misalignment of streams

τ rises from 0: a student's first edges are weak, and at a fixed τ match nothing. The teacher's edges are
exact and fixed, the student's attribution patching with a graph; their map is solved every few terms.
The last term needs no map: where the others begin late, it acts alone until then.
All arms begin with the same weights and see the same prompts in the same order.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.config import RecipeConfig
from data_gen.seeds import generator_for
from data_gen.stacked_training import CHUNK_STEPS, StackedTrainer, draw, learning_rate, supervised_rows
from data_gen.student.config import Arm, SpanConfig, StudentConfig
from data_gen.student.likeness import (
    cka,
    interchange,
    kl,
    matched_layers,
    misalignment,
    rsa,
    streams,
    transplanted,
)
from data_gen.student.teachers import N_POOL, Teacher, stacked_prompts
from data_gen.tasks.base import UNSUPERVISED
from metamodel.analogy.graph import edge_matrix, normalised
from metamodel.analogy.solver import SolverSetting
from metamodel.circuits.weight_gradients import StackedPrompts, edge_shares
from metamodel.config.errors import require
from metamodel.losses.circuit import MapKeeper, annealed_tau, circuit_loss, rounded_map
from metamodel.subjects.config import KINDS, SubjectConfig, kind_indices
from metamodel.subjects.forward import Weights, logits_at
from metamodel.subjects.subject import initial_weights, stack

SETTING = SolverSetting(n_steps=12, n_starts=2)
"""Of the map, which is mended every few terms and keeps what it had where nothing better is found."""


def train_students(
    config: StudentConfig,
    size: SubjectConfig,
    recipe: RecipeConfig,
    teachers: Sequence[Teacher],
    arm: Arm,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Weights `[subject, ...]` of one student a teacher.

    Args:
        teachers: of one shape, with prompts of one length.
        progress: called with (steps done, steps in all) now and then.
    """
    names = [teacher.id for teacher in teachers]
    begin = initial_weights(size, [generator_for(config.seed, "student", "weights", id) for id in names])
    if config.embeddings == "teacher":
        begin |= embeddings_of(teachers, begin)
    data = [generator_for(config.seed, "student", "data", id) for id in names]
    trainer = StackedTrainer.by(recipe, size, begin)
    likeness, factor = _Likeness(config, size, recipe.steps, teachers, arm), config.factors.get(arm, 1.0)
    for first in range(0, recipe.steps, CHUNK_STEPS):
        n_steps = min(CHUNK_STEPS, recipe.steps - first)
        drawn = [
            draw(teacher.task, generator, n_steps, recipe.batch_size)
            for teacher, generator in zip(teachers, data, strict=True)
        ]
        tokens = torch.stack([d[0] for d in drawn])
        rows, targets = supervised_rows(torch.stack([d[1] for d in drawn]).flatten(2))
        for i in range(n_steps):
            trainer.set_learning_rate(learning_rate(recipe, first + i))
            weights = trainer.views()
            logits = logits_at(weights, size, tokens[:, i], rows[:, i])
            loss = task_loss(logits, targets[:, i])
            extra = likeness(weights, logits, tokens[:, i], rows[:, i], first + i)
            trainer.descend(loss if extra is None else loss + factor * extra)
        if progress is not None:
            progress(first + n_steps, recipe.steps)
    return trainer.weights()


SHARED = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U", "unembed.b_U")
"""What tells tokens and positions apart, on the way in and on the way out."""


def embeddings_of(teachers: Sequence[Teacher], begin: Weights) -> dict[str, Tensor]:
    """The teachers' own embeddings and unembedding, for students of their width.

    Raises: InputError for students of another width.
    """
    found = {key: torch.stack([t.subject.weights[key] for t in teachers]) for key in SHARED if key in begin}
    for key, value in found.items():
        require(
            value.shape == begin[key].shape,
            f"embeddings: {key}",
            expected=f"the shape of the teachers', {list(value.shape[1:])}",
            got=list(begin[key].shape[1:]),
            do="Give students the d_model of their teachers, or set embeddings to own.",
        )
    return {key: value.to(begin[key].dtype) for key, value in found.items()}


def task_loss(
    logits: Float[Tensor, "subject row d_vocab"], targets: Int[Tensor, "subject row"]
) -> Float[Tensor, " subject"]:
    """Mean cross entropy of what is asked for, in nats."""
    each = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=UNSUPERVISED, reduction="none"
    )
    return each.view_as(targets).sum(1) / (targets != UNSUPERVISED).sum(1).clamp(min=1)


class _Likeness:
    """The term by which one arm makes students like their teachers."""

    def __init__(
        self,
        config: StudentConfig,
        size: SubjectConfig,
        n_steps: int,
        teachers: Sequence[Teacher],
        arm: Arm,
    ):
        self.config, self.size, self.arm = config, size, arm
        self.span = config.spans.get(arm, SpanConfig()).of(n_steps)
        self.theirs = teachers[0].subject.config
        self.weights = stack([teacher.subject for teacher in teachers])
        names = [teacher.id for teacher in teachers]
        if arm == "rewired":
            shuffles = [generator_for(config.seed, "student", "rewired", id) for id in names]
            edges = [t.rewired(g) for t, g in zip(teachers, shuffles, strict=True)]
        else:
            edges = [teacher.edges for teacher in teachers]
        self.edges = normalised(torch.stack(edges))
        self.kinds = (_kinds(self.theirs, len(teachers)), _kinds(size, len(teachers)))
        pools = [teacher.pool for teacher in teachers]
        self.pool = {
            name: stacked_prompts(pools, name) for name in ("clean", "corrupt", "position", "answer")
        }
        self.generator = generator_for(config.seed, "student", "terms", *names)
        self.keeper = MapKeeper(every=config.map_every, setting=SETTING)
        self.pairs: Tensor | None = None

    def __call__(
        self,
        weights: Weights,
        logits: Float[Tensor, "subject row d_vocab"],
        tokens: Int[Tensor, "subject batch pos"],
        rows: Int[Tensor, "subject row"],
        step: int,
    ) -> Float[Tensor, " subject"] | None:
        strength = self.config.strength
        if self.arm == "circuit_interchange" and strength.alignment > 0 and step < self.span.start:
            sides = (weights, self.size), (self.weights, self.theirs)
            return strength.alignment * misalignment(*sides, tokens)
        if step not in self.span:
            return None
        match self.arm:
            case "plain":
                return None
            case "logits":
                with torch.no_grad():
                    wanted = logits_at(self.weights, self.theirs, tokens, rows)
                return strength.logits * kl(wanted, logits)
            case "cka":
                return strength.cka * self._representations(weights, tokens, cka)
            case "rsa":
                return strength.rsa * self._representations(weights, tokens, rsa)
        done = step - self.span.start
        if done % self.config.circuit_every:
            return None
        return self.config.circuit_every * self._circuit(weights, done)

    def _representations(
        self, weights: Weights, tokens: Tensor, likeness: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, " subject"]:
        """1 minus the likeness of streams at matched depths, on half of the step's prompts."""
        some = tokens[:, : max(2, tokens.shape[1] // 2)]
        own = streams(weights, self.size, some)
        with torch.no_grad():
            theirs = streams(self.weights, self.theirs, some)
        pairs = matched_layers(len(own), len(theirs))
        found = [1 - likeness(own[i].flatten(1, 2), theirs[j].flatten(1, 2)) for i, j in pairs]
        return torch.stack(found).mean(0)

    def _circuit(self, weights: Weights, done: int) -> Float[Tensor, " subject"]:
        config = self.config
        chosen = torch.randperm(N_POOL, generator=self.generator)[: config.n_circuit_prompts]
        prompts = StackedPrompts(**{name: value[:, chosen] for name, value in self.pool.items()})
        shares = edge_shares(weights, self.size, prompts, points=config.points)
        edges = normalised(edge_matrix(self.size, shares))
        tau = annealed_tau(done, len(self.span), final=config.tau, share=config.tau_share)
        kept = self.keeper.p
        p = self.keeper(self.edges, edges.detach(), tau=tau, kinds=self.kinds)
        loss = config.strength.circuit * circuit_loss(self.edges, edges, tau=tau, p=p)
        if self.arm != "circuit_interchange":
            return loss
        if p is not kept or self.pairs is None:
            self.pairs = rounded_map(
                self.edges, edges.detach(), tau=tau, p=p, kinds=self.kinds, setting=SETTING
            )
        theirs, own, known = self._exchanged(self.pairs, config.n_circuit_prompts)
        sides, asked = ((weights, self.size), (self.weights, self.theirs)), (prompts.clean, prompts.position)
        found = config.strength.interchange * interchange(*sides, *asked, theirs, own)
        if config.strength.transplant > 0:
            found = found + config.strength.transplant * transplanted(*sides, *asked, theirs[:, 0], own[:, 0])
        loss = loss + found * known
        if config.strength.alignment > 0:
            loss = loss + config.strength.alignment * misalignment(*sides, prompts.clean)
        return loss

    def _exchanged(
        self, pairs: Int[Tensor, "subject node"], n: int
    ) -> tuple[Int[Tensor, "subject batch"], Int[Tensor, "subject batch"], Float[Tensor, " subject"]]:
        """One matched head or MLP for each prompt, of either side; and which students have any."""
        kinds = self.kinds[0]
        inner = (kinds == KINDS.index("head")) | (kinds == KINDS.index("mlp"))
        able = ((pairs >= 0) & inner).float()
        known = (able.sum(1) > 0).float()
        weight = torch.where(known[:, None] > 0, able, inner.float())
        theirs = torch.multinomial(weight, n, replacement=True, generator=self.generator)
        return theirs, pairs.gather(1, theirs).clamp_min(0), known


def _kinds(config: SubjectConfig, n: int) -> Int[Tensor, "subject node"]:
    return torch.tensor([kind_indices(config)] * n)
