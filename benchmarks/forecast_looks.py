"""What a forecast of success should look at: judged on lineages, and on families, that it was not fitted to.

    python benchmarks/forecast_looks.py CHECKPOINT [--zoo FOLDER] [--edits 2000] [--keep FILE]

An editor's forecast is fitted to edits of training and validation subjects; no test split is looked at. Here
it is fitted to a part of them, with a fifth of the lineages left out, and with each family of subjects left
out, and judged by AUROC on what was left out. `one`: one network that looks at all that an editor knows of an
edit; `apart`: repairs of a component are judged by a network of their own, by what there is to say of them;
`few`: the other one looks at less, as the editor's own forecast does. Progress goes to stderr; the last line
of stdout is one JSON object, `{way: {lineages, repairs, FAMILY...}}`.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from metamodel.baselines.editing.base import Episode
from metamodel.config.command import run_command
from metamodel.config.edits import GOOD
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.editing_forecast import DECAY, DROPPED, DROPPED_OF_REPAIRS, LEAST_SPREAD, RATE, STEPS
from metamodel.evaluation.editing.episodes import trainable_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.processes import each
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.forecast import FARTHEST, REPAIR_WIDTH, put_right
from metamodel.networks.editing.targets import TELLS
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.mapped_back import carries_back_w_in, mapped_back
from metamodel.triples.edit_store import EditZoo

FOLDS, SEEDS = 5, 3
WAYS = ("one", "apart", "few")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What an editor knew of some edits, and what became of them."""

    summary: Float[Tensor, "edit summary"]
    looks: Float[Tensor, "edit look"]
    """What its own forecast looked at: a part of the summary first."""
    good: Bool[Tensor, " edit"]

    @property
    def repair(self) -> Bool[Tensor, " edit"]:
        return put_right(self.looks)

    def seen_by(self, way: str) -> tuple[Tensor, Tensor]:
        """What the network of repairs looks at, and that of all else."""
        beside = self.looks[:, len(TELLS) :]
        first = self.looks[:, : len(TELLS)] if way == "few" else self.summary
        return beside, torch.cat([first, beside], dim=1)


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.forecast_looks", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="data/edits-small", help="folder of a zoo of edits")
    parser.add_argument("--edits", type=int, default=2000, help="at most so many")
    parser.add_argument("--keep", type=str, default="", help="file of what was seen, read where there is one")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor, zoo = SubjectEditor.from_pretrained(given.checkpoint), EditZoo.open(Path(given.zoo))
    ids = {*editor.splits.train, *editor.splits.validation}
    episodes = [e for one in zoo.subjects if one.subject.name in ids for e in trainable_episodes(one)]
    episodes = sorted(episodes, key=lambda e: _hash(f"{e.editable.subject.name} {e.edit.kind} {e.edit.rule}"))
    seen = _kept(Path(given.keep) if given.keep else None, editor.checkpoint.editor, episodes[: given.edits])
    episodes = episodes[: len(seen.good)]
    families = sorted({e.editable.family for e in episodes})
    repairs = torch.tensor([e.edit.kind == "repair" for e in episodes])
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        sys.stderr.write(f"{way}\n")
        said = torch.zeros(len(episodes))
        for fold in range(FOLDS):
            out = torch.tensor([int(_hash(e.editable.lineage), 16) % FOLDS == fold for e in episodes])
            said[out] = forecasts(seen, ~out, way)[out]
        of = {"lineages": auroc(seen.good, said), "repairs": auroc(seen.good[repairs], said[repairs])}
        for family in families:
            out = torch.tensor([e.editable.family == family for e in episodes])
            of[family] = auroc(seen.good[out], forecasts(seen, ~out, way)[out])
        found[way] = of
    columns = list(next(iter(found.values())))
    lines = [f"| forecast | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    lines += [f"| {way} | {' | '.join(f'{of[c]:.3f}' for c in columns)} |" for way, of in found.items()]
    sys.stdout.write("\n".join([*lines, json.dumps(found)]) + "\n")


def forecasts(seen: Seen, among: Bool[Tensor, " edit"], way: str) -> Float[Tensor, " edit"]:
    """Logits of all edits, where those `among` them are fitted to; the mean over seeds."""
    beside, everything = seen.seen_by(way)
    if way == "one":
        return fitted(everything, seen.good, among, width=48, dropped=DROPPED)
    of_others = fitted(everything, seen.good, among & ~seen.repair, width=48, dropped=DROPPED)
    of_repairs = fitted(
        beside, seen.good, among & seen.repair, width=REPAIR_WIDTH, dropped=DROPPED_OF_REPAIRS
    )
    return torch.where(seen.repair, of_repairs, of_others)


def fitted(
    looks: Float[Tensor, "edit look"],
    good: Bool[Tensor, " edit"],
    among: Bool[Tensor, " edit"],
    *,
    width: int,
    dropped: float,
) -> Float[Tensor, " edit"]:
    """As an editor's own forecast is fitted."""
    mean, spread = looks[among].mean(0), looks[among].std(0).clamp_min(LEAST_SPREAD)
    units = ((looks - mean) / spread).clamp(-FARTHEST, FARTHEST)
    said = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(looks.shape[1], width), nn.GELU(), nn.Linear(width, 1))
        search = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        for step in range(STEPS):
            search.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            search.zero_grad()
            out = network(F.dropout(units[among], dropped))[:, 0]
            F.binary_cross_entropy_with_logits(out, good[among].float()).backward()
            search.step()
        said.append(network(units)[:, 0].detach())
    return torch.stack(said).mean(0)


def auroc(good: Bool[Tensor, " edit"], said: Float[Tensor, " edit"]) -> float:
    return float(roc_auc_score(good.numpy(), said.numpy())) if 0 < good.sum() < len(good) else float("nan")


def _kept(keep: Path | None, editor: Editor, episodes: Sequence[Episode]) -> Seen:
    if keep is not None and keep.is_file():
        return Seen(**torch.load(keep))
    in_use = editor.double().eval()
    found = dict(each(lambda one: _seen(in_use, one), episodes, workers=None))
    summary, looks, good = zip(*(found[i] for i in range(len(episodes))), strict=True)
    columns = {"summary": torch.stack(summary).float(), "looks": torch.stack(looks).float()}
    seen = Seen(**columns, good=torch.tensor(good))
    if keep is not None:
        torch.save({**columns, "good": seen.good}, keep)
    return seen


@torch.no_grad()
def _seen(editor: Editor, episode: Episode) -> tuple[Tensor, Tensor, bool]:
    subject = episode.editable.subject
    form = editing_form(subject)
    edited = editor(told_batch([form], [episode.examples]), deep=True, deep_mlp=carries_back_w_in(subject))
    changes = mapped_back(subject, {key: value[0] for key, value in edited.changes.items()}, form=form)
    return edited.targets.summary[0], edited.looks[0], scores(episode, changes).harmonic_mean >= GOOD


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


if __name__ == "__main__":
    run_command(main)
