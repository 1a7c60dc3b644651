"""The editor as one network: what is wanted of every example, then a change of weights that achieves it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told, last_writer, observed
from metamodel.networks.editing.targets import TargetReader, Targets
from metamodel.networks.editing.writer import Writer
from metamodel.subjects.forward import unembed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edited:
    """What the editor proposes for a batch of specifications."""

    changes: dict[str, Tensor]
    """`[subject, ...]`: what is added to each weight, in canonical form."""
    targets: Targets
    forecast: Float[Tensor, " subject"]
    """Logit of success."""


class Editor(nn.Module):
    """Reads subjects of any width and depth; emits coefficients over vectors that they supply."""

    def __init__(self, *, width: int, map_width: int, map_layers: int, n_steps: int):
        super().__init__()
        self.read = TargetReader(width, map_width, map_layers)
        self.write = Writer(self.read.n_summary, width, n_steps)
        self.judge = nn.Sequential(nn.Linear(self.read.n_summary + 4, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, told: Told) -> Edited:
        seen = observed(told)
        targets = self.read(seen)
        change = self.write(told, seen, targets)
        name = last_writer(told.config)
        shape = told.weights[name].shape
        return Edited(
            changes={name: change.view(shape)},
            targets=targets,
            forecast=self._forecast(told, seen, targets, change),
        )

    def _forecast(self, told: Told, seen: Observed, targets: Targets, change: Tensor) -> Tensor:
        """From how sure the targets are and how well they are reached on the examples."""
        said = unembed(told.weights, told.config, seen.stream + seen.hidden @ change)
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
        looks = torch.cat([targets.summary, torch.stack(parts, dim=1)], dim=1)
        return self.judge(looks.detach()).squeeze(-1)
