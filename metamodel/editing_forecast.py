"""The forecast of success, fitted when an editor is trained: on what it proposes as it is used.

Training writes in few steps, and what fails there may come right in use. So the network that forecasts is
fitted last, on edits of training and validation subjects that are written in full, at their full size, and
run on whole domains.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.baselines.editing.base import Episode
from metamodel.config.edits import GOOD
from metamodel.evaluation.editing.episodes import trainable_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.processes import each
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.forecast import Judge, of_all, of_repairs, put_right
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.mapped_back import carries_back_w_in, mapped_back
from metamodel.subjects.threads import one_thread
from metamodel.triples.edits import Editable

STEPS, RATE, DECAY = 400, 3e-3, 0.3
"""Of AdamW, on all edits at once."""
DROPPED, DROPPED_OF_REPAIRS = 0.2, 0.1
"""Share of what is looked at that is left out at random in every step."""
LEAST_REPAIRS = 20
"""Repairs from which on a network of their own is fitted to them."""
LEAST_SPREAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What was proposed for some edits."""

    looks: Float[Tensor, "edit look"]
    """What the forecast looks at."""
    good: Bool[Tensor, " edit"]
    """Whether S was at least GOOD."""
    summary: Float[Tensor, "edit summary"] | None = None
    """What else the editor knew of them, which its forecast does not look at."""


def fit_forecast(
    editor: Editor,
    subjects: Sequence[Editable],
    *,
    n_edits: int,
    seed: int,
    workers: int | None = 1,
    progress: Callable[[str], object] = lambda _: None,
) -> None:
    """Fits `editor.judge` anew, on edits that may be trained on: of all subjects, kinds and numbers of pairs.

    Args:
        subjects: none of them of a test split.
        n_edits: at most so many.
        seed: of initial weights and of what is left out.
        workers: processes that propose; by default this one alone.
    """
    drawn = sorted((e for one in subjects for e in trainable_episodes(one)), key=_place)[:n_edits]
    progress(f"forecast: {len(drawn)} edits of training and validation subjects")
    if drawn:
        with one_thread():
            judge_on(editor, seen_in_use(editor, drawn, workers=workers), seed)


def seen_in_use(editor: Editor, episodes: Sequence[Episode], *, workers: int | None = 1) -> Seen:
    """What an editor proposes for each, and whether it is a success.

    Args:
        workers: processes; by default this one alone.
    """
    # in double precision, as in use
    in_use = copy.deepcopy(editor).double().eval()
    found = dict(each(lambda one: _seen(in_use, one), episodes, workers=workers))
    looks, good, summary = zip(*(found[i] for i in range(len(episodes))), strict=True)
    return Seen(
        looks=torch.stack(looks).float(), good=torch.tensor(good), summary=torch.stack(summary).float()
    )


@torch.no_grad()
def _seen(editor: Editor, episode: Episode) -> tuple[Float[Tensor, " look"], bool, Float[Tensor, " summary"]]:
    subject = episode.editable.subject
    form = editing_form(subject)
    told = told_batch([form], [episode.examples])
    edited = editor(told, deep=True, deep_mlp=carries_back_w_in(subject))
    changes = mapped_back(subject, {key: value[0] for key, value in edited.changes.items()}, form=form)
    good = scores(episode, changes).harmonic_mean >= GOOD
    return edited.looks[0], good, edited.targets.summary[0]


def judge_on(editor: Editor, seen: Seen, seed: int) -> None:
    """Fits `editor.judge` on them, from new weights.

    What was put right is judged by a network of its own, fitted to such edits alone, if they are not too few.
    """
    finite = seen.looks.isfinite().all(1)
    looks, good, judge = seen.looks[finite], seen.good[finite], editor.judge
    repair = put_right(looks)
    apart = int(repair.sum()) >= LEAST_REPAIRS
    rest = ~repair if apart else torch.ones_like(repair)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fit_judge(judge.written, of_all(looks[rest]), good[rest], DROPPED)
        judge.repair.fitted.fill_(value=False)
        if apart:
            fit_judge(judge.repair, of_repairs(looks[repair]), good[repair], DROPPED_OF_REPAIRS)


def fit_judge(
    judge: Judge, looks: Float[Tensor, "edit look"], good: Bool[Tensor, " edit"], dropped: float
) -> None:
    """Fits one network anew; units of what it looks at are made alike first.

    Args:
        dropped: share of what is looked at that is left out at random in every step.
    """
    if len(looks) < 2:  # nothing to take units from
        return
    judge.mean.copy_(looks.mean(0))
    judge.spread.copy_(looks.std(0).clamp_min(LEAST_SPREAD))
    judge.fitted.fill_(value=True)
    units, aim = judge.units(looks), good.to(looks.dtype)
    for layer in judge.network:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    search = torch.optim.AdamW(judge.network.parameters(), lr=RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for step in range(STEPS):
            search.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            search.zero_grad()
            said = judge.network(F.dropout(units, dropped))[:, 0]
            F.binary_cross_entropy_with_logits(said, aim).backward()
            search.step()


def _place(one: Episode) -> str:
    """In an order that says nothing."""
    name = f"{one.editable.subject.name} {one.edit.kind} {one.edit.rule} {len(one.examples.role)}"
    return hashlib.sha256(f"{name} {one.examples.role.sum()}".encode()).hexdigest()
