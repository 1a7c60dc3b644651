"""What each ingredient of the matcher is worth: one change an entry, judged on validation pairs.

    python benchmarks/matching_ablations.py ZOO_OF_PAIRS [--steps N] [--out FILE.json] [--only NAME ...]

Every entry (`--list` names them, `ablation_entries.py` says what they change) is trained by the code that
trains the released matcher, and its threshold is chosen as the release does it. The table has each entry
beside the default, with intervals over lineages. Test pairs are never looked at. With `--hold-out-sizes` or
`--hold-out-tasks`, pairs of training and validation subjects of these are taken out of training and judged:
what that says of sizes and tasks that were not trained on, validation pairs cannot say. Without, threshold
and figures come from the same validation pairs, which favours all entries alike.

An entry that is in FILE.json is not trained again, and one that was interrupted goes on. Several processes
may share the file, each with its own entries:

    python benchmarks/matching_ablations.py ZOO --list | xargs -P 8 -I{} \\
        python benchmarks/matching_ablations.py ZOO --out ablations.json --only {}
    python benchmarks/matching_ablations.py ZOO --out ablations.json      # prints the table
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_entries import DEFAULT, ENTRIES, HeldOut, arguments_of, without_tests
from filelock import FileLock

from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.errors import InputError, require, require_one_of
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.matching.intervals import (
    auroc_of,
    difference_of,
    interval_of,
    mean_of,
    precision_of,
)
from metamodel.evaluation.matching.measures import PARTIAL
from metamodel.evaluation.matching.scores import alone, partial_f1
from metamodel.evaluation.metrics import Measure
from metamodel.matching import SubjectMatcher
from metamodel.train_matcher import checkpoint_of, graphs_of
from metamodel.training.fit_matching import fit_matcher

METRICS = ("partial F1", "dustbin AP", "absent AUROC")
Scores = Mapping[str, Any]
"""Of one entry: `f1` and `alone` of each pair with missing parts, `presence` of each that asks."""


def parts_of(pairs: Sequence[MatchedPair]) -> list[MatchedPair]:
    """Pairs with a truth where parts are missing."""
    return [p for p in pairs if p.present and p.truth is not None and p.kind in PARTIAL]


def asked_of(pairs: Sequence[MatchedPair]) -> list[MatchedPair]:
    """Pairs whose circuit is there, and absent ones like them."""
    return [p for p in pairs if not p.missing and p.kind in (*PARTIAL, "absent")]


def trained(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains one entry, judges it, and says how it went."""
    words = arguments_of(ENTRIES[name], steps=options.steps)
    words += [f"--trainer.accelerator={options.device}", "--trainer.progress=false"]
    config, _ = parse_config(
        command_parser(prog="matching_ablations", description=""),
        MatchingConfig,
        ["--config", options.config, f"--zoo={options.zoo}", *words],
    )
    zoo = without_tests(
        PairZoo.open(options.zoo, described_by=config.matcher.described_by), held_out(options)
    )
    begun, train = time.perf_counter(), list(zoo.of("train"))
    folder.mkdir(parents=True, exist_ok=True)
    matcher = fit_matcher(config, train, folder)
    checkpoint = checkpoint_of(config, zoo, matcher, train)
    found = judged(SubjectMatcher(checkpoint), zoo.of(held_out(options).split))
    return found | {
        "arguments": words,
        "keep_above": checkpoint.keep_above,
        "seconds": round(time.perf_counter() - begun),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def judged(matcher: SubjectMatcher, pairs: Sequence[MatchedPair]) -> dict[str, Any]:
    """Scores of every pair."""
    parts, asked = parts_of(pairs), asked_of(pairs)
    matches = matcher.match_all(graphs_of(parts))
    return {
        "f1": [partial_f1(pair, match.pairs) for pair, match in zip(parts, matches, strict=True)],
        "alone": [alone(pair, match.p)[1].tolist() for pair, match in zip(parts, matches, strict=True)],
        "presence": [match.score for match in matcher.match_all(graphs_of(asked))],
    }


def measures(scores: Scores, pairs: Sequence[MatchedPair]) -> dict[str, Measure]:
    """Partial F1, dustbin average precision, absent AUROC, and F1 of each kind."""
    parts, asked = parts_of(pairs), asked_of(pairs)
    f1 = np.array(scores["f1"])
    lonely = [alone(pair, torch.zeros(len(pair.first), len(pair.second)))[0] for pair in parts]
    found = {
        METRICS[0]: mean_of(f1),
        METRICS[1]: precision_of(lonely, [np.array(sure) for sure in scores["alone"]]),
        METRICS[2]: auroc_of(np.array([p.present for p in asked]), np.array(scores["presence"])),
    }
    kinds = np.array([pair.kind for pair in parts])
    return found | {kind: mean_of(np.where(kinds == kind, f1, np.nan)) for kind in PARTIAL}


def table(entries: Mapping[str, Scores], pairs: Sequence[MatchedPair], *, seed: int = 0) -> str:
    """One line an entry: value, and difference from the default with its interval over lineages."""
    of = {name: asked_of(pairs) if name == METRICS[2] else parts_of(pairs) for name in (*METRICS, *PARTIAL)}
    default = measures(entries[DEFAULT], pairs) if DEFAULT in entries else None
    heads = [f"{name} | difference" for name in METRICS]
    lines = [
        f"| entry | {heads[0]} | {' | '.join(PARTIAL)} | {heads[1]} | {heads[2]} |",
        "| --- " * (2 + 2 * len(METRICS) + len(PARTIAL) - 1) + "|",
    ]
    for name in [name for name in ENTRIES if name in entries]:
        ours = measures(entries[name], pairs)
        cells = [name]
        for metric in (METRICS[0], *PARTIAL, *METRICS[1:]):
            cells.append(f"{interval_of(ours[metric], of[metric], seed=seed).value:.3f}")
            if metric in METRICS:
                apart = name != DEFAULT and default is not None
                cells.append(
                    said(difference_of(ours[metric], default[metric], of[metric], seed=seed))
                    if apart and default is not None
                    else ""
                )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def said(one: Interval) -> str:
    """A difference; bold where its interval leaves out 0."""
    text = f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    return f"**{text}**" if one.low > 0 or one.high < 0 else text


def held_out(options: argparse.Namespace) -> HeldOut:
    return HeldOut(sizes=tuple(options.hold_out_sizes), tasks=tuple(options.hold_out_tasks))


def read(file: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds. Raises: InputError where it holds entries of another zoo or of other settings."""
    if not file.is_file():
        return {**header, "entries": {}}
    held = json.loads(file.read_text())
    for key, value in header.items():
        require(
            held[key] == value,
            f"{file}: {key}",
            expected=str(value),
            got=held[key],
            do="Choose another --out.",
        )
    return held


def keep(file: Path, header: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> None:
    """Puts an entry beside those that other processes have written meanwhile."""
    with FileLock(f"{file}.lock"):
        held = read(file, header)
        held["entries"][name] = entry
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(held))
        partial.replace(file)


def run(options: argparse.Namespace) -> str:
    """Trains what is missing, and returns the table of what is there."""
    for name in options.only or ():
        require_one_of(name, tuple(ENTRIES), "--only")
    zoo = without_tests(PairZoo.open(options.zoo), held_out(options))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "zoo": f"{zoo.name} {zoo.fingerprint}",
        "config": options.config,
        "steps": options.steps,
        "hold_out": [options.hold_out_sizes, options.hold_out_tasks],
    }
    for name in options.only or ENTRIES:
        if name not in read(out, header)["entries"]:
            sys.stderr.write(f"{name}\n")
            keep(out, header, name, trained(name, options, out.with_suffix("") / name))
    return table(read(out, header)["entries"], zoo.of(held_out(options).split))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    found.add_argument("zoo", help="folder of a zoo of pairs")
    found.add_argument("--config", default="configs/matching/ablations.yaml", help="of the default matcher")
    found.add_argument("--steps", type=int, default=2400, help="of the optimiser, for the default")
    found.add_argument("--out", default="runs/matching-ablations.json", help="where entries are kept")
    found.add_argument("--only", nargs="+", default=None, metavar="NAME", help="entries; all by default")
    found.add_argument("--hold-out-sizes", nargs="+", default=[], metavar="SIZE", help="such as l2h4-mlp")
    found.add_argument("--hold-out-tasks", nargs="+", default=[], metavar="TASK", help="such as facts")
    found.add_argument("--device", choices=["auto", "cpu", "gpu", "mps"], default="auto")
    found.add_argument("--list", action="store_true", help="print the names of the entries")
    return found


def main() -> None:
    options = parser().parse_args()
    if options.list:
        print("\n".join(ENTRIES))
        return
    torch.set_num_threads(1)
    try:
        print(run(options))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
