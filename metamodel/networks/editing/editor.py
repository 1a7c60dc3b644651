"""The editor as one network: what is wanted of every example, then a change of weights that achieves it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.config.editing import Part
from metamodel.config.edits import PADDING, UNLABELLED
from metamodel.features.observed import HIDDEN, Observed, Told, last_writer, observed, seen_again
from metamodel.features.rewordings import MOST_TRIED, Reworded, reworded
from metamodel.networks.editing.components import Mended, mended
from metamodel.networks.editing.forecast import N_REACHED, Forecast, how_reached, looks_of
from metamodel.networks.editing.gates import Gates
from metamodel.networks.editing.last_mlp import written_in_last_mlp
from metamodel.networks.editing.targets import TargetReader, Targets
from metamodel.networks.editing.writer import Writer
from metamodel.subjects.forward import unembed
from metamodel.subjects.last_mlp import last_mlp_names

WHOLE = 0.75
"""How far a behavior as a whole must change for its edit to be written in the whole last MLP."""
LEAST_REACHED = 0.95
"""Share of the examples in scope that the last matrix alone must make come out as wanted; else the whole last
MLP is written in."""
TIED = 1e-3
"""Answers that are wanted so nearly alike are no one answer."""


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
    mended: Mapping[int, Mended]
    """By subject, the damaged component that the edit puts right, where one is to blame."""


class Editor(nn.Module):
    """Reads subjects of any width and depth; emits coefficients over vectors that they supply."""

    def __init__(
        self,
        *,
        width: int,
        map_width: int,
        map_layers: int,
        n_steps: int,
        recurrent: int = 1,
        gates: bool = False,
        decay: bool = False,
        without: tuple[Part, ...] = (),
        deep_steps: int = 0,
        component_steps: int = 0,
    ):
        """Args:
        deep_steps: steps of writing in the whole last MLP, where a behavior as a whole changes or the last
            matrix does not reach what is wanted.
        component_steps: steps of putting a damaged component right.
        """
        super().__init__()
        self.read = TargetReader(width, map_width, map_layers, without)
        n = self.read.n_summary
        self.write = Writer(n, width, n_steps, decay=decay, without=without)
        self.judge = Forecast(width)
        # behind what every editor has: those that lack these parts begin from the same weights
        self.gates = Gates(width) if gates else None
        self.correct = (
            Writer(n + N_REACHED, width, n_steps, decay=decay, without=without) if recurrent > 1 else None
        )
        self.recurrent, self.without = recurrent, without
        self.deep_steps, self.component_steps = deep_steps, component_steps

    @property
    def passes(self) -> int:
        """Runs of a subject on all examples that one proposal takes at most, backward passes among them.

        One to read it; two for gates and one behind them; one for every correction; two where a component
        is looked for that is to blame; and two for rewordings, of which twice as many are tried. Fits to the
        known examples alone are not among them, and neither is what runs from the last MLP on, or, where a
        repair is completed, from the component on.
        """
        alone = self.gates is None and self.correct is None
        looks, rewords = alone and self.component_steps > 0, alone and "rewordings" not in self.without
        return 3 * (self.gates is not None) + self.recurrent + 2 * looks + MOST_TRIED * rewords

    def of_steps(self, n_steps: int) -> None:
        """Sets the number of steps of every writer."""
        self.write.n_steps = n_steps
        if self.correct is not None:
            self.correct.n_steps = n_steps

    def forward(
        self, told: Told, *, deep: bool = False, deep_mlp: bool = True, components: bool = True
    ) -> Edited:
        """Args:
        deep: whether a damaged component is put right, and what changes a whole behavior, or is not reached
            by the last matrix, is written in the whole last MLP, as it is in use. Gradients do not pass
            through that, so training does without.
        components, deep_mlp: whether the former, and the latter.
        """
        if "unlabelled" in self.without:
            told = replace(told, role=told.role.masked_fill(told.role == UNLABELLED, PADDING))
        seen = observed(told)
        targets = self.read(seen, in_use=deep)
        changes: dict[str, Tensor] = {}
        put_right: dict[int, Mended] = {}
        if self.gates is not None:
            changes = _sum(changes, self.gates(told, seen))
        name = last_writer(told.config)
        now = seen_again(told, seen, changes) if changes else seen
        alone = not changes and self.correct is None
        more = reworded(told, now) if deep and alone and "rewordings" not in self.without else None
        change = self.write(told, now, targets, targets.summary, more)
        last = now.stream + now.hidden @ change
        edits = _sum(changes, {name: change.view(told.weights[name].shape)})
        if deep and alone:
            put_right = self._put_right(told, now) if components else {}
            edits, last = self._deepened(told, now, targets, more, put_right, edits, last, deep_mlp)
        for _ in range(self.recurrent - 1):
            assert self.correct is not None
            # each correction takes what was proposed before it as given
            now = seen_again(told, seen, edits)
            with torch.no_grad():
                reached = how_reached(now, targets, _said(told, now.stream))
            change = self.correct(told, now, targets, torch.cat([targets.summary, reached], dim=1))
            last = now.stream + now.hidden @ change
            edits = _sum(edits, {name: change.view(told.weights[name].shape)})
        looks = looks_of(now, targets, how_reached(now, targets, _said(told, last)), put_right)
        return Edited(
            changes=edits,
            targets=targets,
            forecast=self.judge(looks),
            old=seen.old,
            looks=looks,
            mended=put_right,
        )

    @torch.no_grad()
    def _put_right(self, told: Told, seen: Observed) -> dict[int, Mended]:
        """By subject, the component that is to blame."""
        if not self.component_steps:
            return {}
        complete, sums = (part not in self.without for part in ("completion", "sums"))
        found = {
            i: mended(told, seen, i, self.component_steps, complete=complete, sums=sums)
            for i in range(len(told.role))
        }
        return {i: one for i, one in found.items() if one is not None}

    def _deepened(
        self,
        told: Told,
        seen: Observed,
        targets: Targets,
        more: Reworded | None,
        put_right: Mapping[int, Mended],
        edits: Mapping[str, Tensor],
        last: Tensor,
        deep_mlp: bool,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "subject example d_model"]]:
        """The edits, and the last stream, with components put right; in the whole last MLP are written whole
        behaviors and what the last matrix does not reach."""
        deeper = (targets.whole > WHOLE) | (_share_reached(told, targets, last) < LEAST_REACHED)
        chosen = [i for i in deeper.nonzero()[:, 0].tolist() if i not in put_right]
        if not (deep_mlp and self.deep_steps and told.config.has_mlp):
            chosen = []
        names = {one.name for one in put_right.values()}
        names |= set(last_mlp_names(told.config)) if chosen else set()
        found = {name: x.clone() for name, x in edits.items()}
        found |= {name: torch.zeros_like(told.weights[name]) for name in sorted(names - edits.keys())}
        last = last.clone()
        for i, one in put_right.items():
            for change in found.values():
                change[i] = 0
            found[one.name][i], last[i] = one.change, one.stream
        if not chosen:
            return found, last
        aims = self.write.aims(told, seen, targets, targets.summary, more)
        for i in chosen:
            written = written_in_last_mlp(told, aims, i, self.deep_steps)
            last[i] = written.stream[: last.shape[1]]
            for name, change in written.changes.items():
                found[name][i] = change
        return found, last


def _said(told: Told, stream: Tensor) -> Float[Tensor, "subject example answer"]:
    """Logits of the answers behind a last residual stream."""
    said = unembed(told.weights, told.config, stream)
    among = said.gather(2, told.answers[:, None].expand(-1, said.shape[1], -1))
    return among.masked_fill(~told.answer_mask[:, None], HIDDEN)


def _share_reached(told: Told, targets: Targets, stream: Tensor) -> Float[Tensor, " subject"]:
    """Of the examples in scope of which one answer is wanted most, those that come out so."""
    top = targets.wanted.topk(min(2, targets.wanted.shape[2]), dim=-1).values
    one = top[..., 0] > top[..., -1] + TIED
    inside = (targets.inside > 0.5) & (told.role != PADDING) & one
    wrong = _said(told, stream).argmax(-1) != targets.wanted.argmax(-1)
    return 1 - (wrong & inside).sum(1) / inside.sum(1).clamp_min(1)


def _sum(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**first, **{key: first[key] + x if key in first else x for key, x in second.items()}}
