"""What a forecast of success should look at: judged on lineages, and on families, that it was not fitted to.

    python benchmarks/forecast_looks.py CHECKPOINT [--zoo FOLDER]

An editor's forecast is fitted to edits of training and validation subjects; no test split is looked at. Here
it is fitted to a part of them, with a fifth of the lineages left out, and with each family of subjects left
out, and judged by AUROC on what was left out. `one`: one network that looks at all that an editor knows of an
edit; `apart`: repairs of a component are judged by a network of their own, by what there is to say of them;
`few`: the other one looks at less, as the editor's own forecast does. Of repairs alone, too. Progress goes to
stderr; the last line of stdout is one JSON object, `{way: {left out: AUROC}}`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metamodel.baselines.editing.base import Episode
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.editing_forecast import DROPPED, DROPPED_OF_REPAIRS, Seen, fit_judge, seen_in_use
from metamodel.evaluation.editing.episodes import trainable_episodes
from metamodel.networks.editing.forecast import REPAIR_WIDTH, Judge, of_all, of_repairs, put_right
from metamodel.triples.edit_store import EditZoo

FOLDS, SEEDS = 5, 3
ONE, APART, FEW = WAYS = ("one", "apart", "few")


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.forecast_looks", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="data/edits-small", help="folder of a zoo of edits")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor, zoo = SubjectEditor.from_pretrained(given.checkpoint), EditZoo.open(Path(given.zoo))
    ids = {*editor.splits.train, *editor.splits.validation}
    episodes = [e for one in zoo.subjects if one.subject.name in ids for e in trainable_episodes(one)]
    sys.stderr.write(f"{len(episodes)} edits\n")
    seen = seen_in_use(editor.checkpoint.editor, episodes, workers=None)
    found = {way: by_part(seen, episodes, way, editor.checkpoint.sizes.width) for way in WAYS}
    columns = list(found[ONE])
    lines = [f"| forecast | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    lines += [f"| {way} | {' | '.join(f'{of[c]:.3f}' for c in columns)} |" for way, of in found.items()]
    sys.stdout.write("\n".join([*lines, json.dumps(found)]) + "\n")


def by_part(seen: Seen, episodes: Sequence[Episode], way: str, width: int) -> dict[str, float]:
    """AUROC of all edits and of repairs, with lineages left out, and of each family that is left out; where
    there are failures and successes."""
    finite = seen.looks.isfinite().all(1)
    repair = torch.tensor([e.edit.kind == "repair" for e in episodes])
    lineage = np.unique([e.editable.lineage for e in episodes], return_inverse=True)[1] % FOLDS
    family = np.array([e.editable.family for e in episodes])
    said = torch.zeros(len(episodes))
    for fold in range(FOLDS):
        out = torch.from_numpy(lineage == fold)
        said[out] = forecasts(seen, ~out & finite, way, width)[out]
    parts = {"lineages": (finite, said), "lineages, repairs": (repair & finite, said)}
    for name in sorted(set(family)):
        out = torch.from_numpy(family == name)
        then = forecasts(seen, ~out & finite, way, width)
        parts |= {name: (out & finite, then), f"{name}, repairs": (out & finite & repair, then)}
    return {
        name: float(roc_auc_score(seen.good[among], of[among]))
        for name, (among, of) in parts.items()
        if 0 < seen.good[among].sum() < among.sum()
    }


def forecasts(seen: Seen, among: Bool[Tensor, " edit"], way: str, width: int) -> Float[Tensor, " edit"]:
    """Logits of all edits, where those `among` them are fitted to; the mean over seeds."""
    assert seen.summary is not None
    beside, repair = of_repairs(seen.looks), put_right(seen.looks)
    looks = of_all(seen.looks) if way == FEW else torch.cat([seen.summary, beside], dim=1)
    if way == ONE:
        return _fitted(looks, seen.good, among, width, DROPPED)
    of_others = _fitted(looks, seen.good, among & ~repair, width, DROPPED)
    return torch.where(
        repair, _fitted(beside, seen.good, among & repair, REPAIR_WIDTH, DROPPED_OF_REPAIRS), of_others
    )


@torch.no_grad()
def _fitted(
    looks: Float[Tensor, "edit look"],
    good: Bool[Tensor, " edit"],
    among: Bool[Tensor, " edit"],
    width: int,
    dropped: float,
) -> Float[Tensor, " edit"]:
    said = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        judge = Judge(looks.shape[1], width)
        fit_judge(judge, looks[among], good[among], dropped)
        said.append(judge(looks))
    return torch.stack(said).mean(0)


if __name__ == "__main__":
    run_command(main)
