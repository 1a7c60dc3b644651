"""The editor as one network: what is wanted of every example, then a change of weights that achieves it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.config.editing import Part
from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told, last_writer, observed, seen_again
from metamodel.networks.editing.answers import one_hot
from metamodel.networks.editing.gates import Gates
from metamodel.networks.editing.last_mlp import written_in_last_mlp
from metamodel.networks.editing.sites import Blamed, Sites, with_blame
from metamodel.networks.editing.targets import TargetReader, Targets
from metamodel.networks.editing.writer import Writer
from metamodel.subjects.forward import unembed
from metamodel.subjects.last_mlp import last_mlp_names

N_REACHED = 4
N_VARIED = 3
FARTHEST = 8.0
"""Standard deviations from the mean that a forecast tells apart."""
WHOLE = 0.75
"""How far a behavior as a whole must change for its edit to be written in the whole last MLP."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edited:
    """What the editor proposes for a batch of specifications."""

    changes: dict[str, Tensor]
    """`[subject, ...]`: what is added to each weight, in the form of what was told."""
    targets: Targets
    forecast: Float[Tensor, " subject"]
    """Logit of success."""
    old: Float[Tensor, "subject example answer"]
    """What the subject says before it, as a distribution over answers."""
    looks: Float[Tensor, "subject look"]
    """What the forecast is made from."""
    blamed: Blamed | None = None
    """The component that the edit is written in, where the editor looks for one."""


class Editor(nn.Module):
    """Reads subjects of any width and depth; emits coefficients over vectors that they supply."""

    looks_mean: Tensor
    looks_spread: Tensor

    def __init__(
        self,
        *,
        width: int,
        map_width: int,
        map_layers: int,
        n_steps: int,
        recurrent: int = 1,
        sites: bool = False,
        gates: bool = False,
        decay: bool = False,
        without: tuple[Part, ...] = (),
        deep_steps: int = 0,
    ):
        """Args:
        deep_steps: steps of writing in the whole last MLP, where a behavior as a whole changes.
        """
        super().__init__()
        self.read = TargetReader(width, map_width, map_layers, without)
        n = self.read.n_summary
        self.write = Writer(n, width, n_steps, decay=decay, without=without)
        n_looks = n + N_REACHED + N_VARIED + 2 * sites
        self.judge = nn.Sequential(nn.Linear(n_looks, width), nn.GELU(), nn.Linear(width, 1))
        self.register_buffer("looks_mean", torch.zeros(n_looks))
        self.register_buffer("looks_spread", torch.ones(n_looks))
        # behind what every editor has: those that lack these parts begin from the same weights
        self.sites = Sites(n, width) if sites else None
        self.gates = Gates(width) if gates else None
        self.correct = (
            Writer(n + N_REACHED, width, n_steps, decay=decay, without=without) if recurrent > 1 else None
        )
        self.recurrent, self.without, self.deep_steps = recurrent, without, deep_steps
        self.looks_for_sites = True
        """Whether components are fitted; in training only now and then, for it is dear."""

    @property
    def passes(self) -> int:
        """Runs of a subject on all examples that one proposal takes, backward passes among them.

        One to read it; one for components and one for what it says with each changed; two for gates; one
        behind either; one for every correction. Fits to the known examples alone are not among them, and
        neither is what runs from the last MLP on.
        """
        parts = 2 * (self.sites is not None) + 2 * (self.gates is not None)
        return 1 + parts + (parts > 0) + self.recurrent - 1

    def of_steps(self, n_steps: int) -> None:
        """Sets the number of steps of every writer."""
        self.write.n_steps = n_steps
        if self.correct is not None:
            self.correct.n_steps = n_steps

    def forward(self, told: Told, *, deep: bool = False) -> Edited:
        """Args:
        deep: whether edits of a whole behavior are written in the whole last MLP, as they are in use.
            Gradients do not pass through that, so training does without.
        """
        if "unlabelled" in self.without:
            told = replace(told, role=told.role.masked_fill(told.role == UNLABELLED, PADDING))
        seen = observed(told)
        targets = self.read(seen)
        blamed, changes = None, {}
        if self.sites is not None and self.looks_for_sites:
            blamed = self.sites(told, seen, targets)
            targets, changes = with_blame(targets, blamed, seen), blamed.changes
        if self.gates is not None:
            changes = _sum(changes, self.gates(told, seen))
        name = last_writer(told.config)
        now = seen_again(told, seen, changes) if changes else seen
        change = self.write(told, now, targets, targets.summary)
        last = now.stream + now.hidden @ change
        edits = _sum(changes, {name: change.view(told.weights[name].shape)})
        if deep and not changes and self.correct is None:
            edits, last = self._deepened(told, now, targets, edits, last)
        for _ in range(self.recurrent - 1):
            assert self.correct is not None
            # each correction takes what was proposed before it as given
            now = seen_again(told, seen, edits)
            with torch.no_grad():
                reached = self._reached(told, now, targets, now.stream)
            change = self.correct(told, now, targets, torch.cat([targets.summary, reached], dim=1))
            last = now.stream + now.hidden @ change
            edits = _sum(edits, {name: change.view(told.weights[name].shape)})
        looks = self._looks(told, now, targets, last, blamed)
        return Edited(
            changes=edits,
            targets=targets,
            forecast=self._forecast(looks),
            old=seen.old,
            looks=looks,
            blamed=blamed,
        )

    def _deepened(
        self, told: Told, seen: Observed, targets: Targets, edits: dict[str, Tensor], last: Tensor
    ) -> tuple[dict[str, Tensor], Float[Tensor, "subject example d_model"]]:
        """The edits, and the last stream, with whole behaviors written in the whole last MLP instead."""
        chosen = (targets.whole > WHOLE).nonzero()[:, 0].tolist()
        if not (chosen and self.deep_steps and told.config.has_mlp):
            return edits, last
        wanted, weight = self.write.aims(told, seen, targets, targets.summary)
        names = last_mlp_names(told.config)
        found = {name: edits.get(name, torch.zeros_like(told.weights[name])).clone() for name in names}
        last = last.clone()
        for i in chosen:
            written = written_in_last_mlp(told, seen, i, wanted[i], weight[i], self.deep_steps)
            last[i] = written.stream
            for name in names:
                found[name][i] = written.changes[name]
        return found, last

    def _reached(self, told: Told, seen: Observed, targets: Targets, stream: Tensor) -> Tensor:
        """How well what is wanted is reached: mean log probability, of four kinds of examples."""
        said = unembed(told.weights, told.config, stream)
        among = said.gather(2, told.answers[:, None].expand(-1, said.shape[1], -1))
        among = among.masked_fill(~told.answer_mask[:, None], -1e4)
        reached = (among.log_softmax(-1) * targets.wanted).sum(-1).clamp_min(-5)
        parts = [
            (reached * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
            for weight in (
                (seen.role == PAIR).to(reached.dtype),
                (seen.role == KEEP).to(reached.dtype),
                targets.inside * (seen.role == UNLABELLED),
                (1 - targets.inside) * (seen.role == UNLABELLED),
            )
        ]
        return torch.stack(parts, dim=1)

    def in_units(self, looks: Float[Tensor, "edit look"]) -> Float[Tensor, "edit look"]:
        """What the forecast looks at, in standard deviations from the mean."""
        return ((looks - self.looks_mean) / self.looks_spread).clamp(-FARTHEST, FARTHEST)

    def _forecast(self, looks: Float[Tensor, "subject look"]) -> Float[Tensor, " subject"]:
        return self.judge(self.in_units(looks)).squeeze(-1)

    def _looks(
        self, told: Told, seen: Observed, targets: Targets, stream: Tensor, blamed: Blamed | None
    ) -> Float[Tensor, "subject look"]:
        """How sure the targets are, how well they are reached on the examples, and how varied the pairs are."""
        looks = [targets.summary, self._reached(told, seen, targets, stream), _varied(seen)]
        if self.sites is not None:
            looks.append(targets.summary.new_zeros(len(stream), 2) if blamed is None else blamed.looks)
        return torch.cat(looks, dim=1).detach()


def _varied(seen: Observed) -> Float[Tensor, "subject look"]:
    """How many different answers pairs have, before and as wanted, and how many there are: two pairs with the
    same old answer say no more of a map of answers than one. In logarithms."""
    pair = (seen.role == PAIR)[..., None]
    told = [((one_hot(x) * pair).sum(1) > 0).sum(1) for x in (seen.old, seen.wanted)]
    return torch.stack([*told, seen.answer_mask.sum(1)], dim=1).to(seen.old.dtype).log1p()


def _sum(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**first, **{key: first[key] + x if key in first else x for key, x in second.items()}}
