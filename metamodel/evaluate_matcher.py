"""Judges a matcher again, beside its opponents: `python -m metamodel.evaluate` for its checkpoint."""

import sys
from pathlib import Path

from metamodel.analogy.pair_store import PairZoo
from metamodel.config.errors import require
from metamodel.config.evaluate import EvaluateOptions
from metamodel.config.matching import MatchReportConfig
from metamodel.config.record import record_from_json
from metamodel.evaluation.matching.evaluate import TESTS, judge
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import give, note_other_zoo
from metamodel.features.relative import description_of
from metamodel.matching import SubjectMatcher


def evaluate_matcher(matcher: SubjectMatcher, options: EvaluateOptions, *, command: str) -> None:
    """Prints tables, or JSON, on a zoo of pairs.

    Raises: InputError on a zoo whose test pairs have lineages that the matcher was trained on, or a split
        that there is not.
    """
    give(evaluated(matcher, options, command=command), as_json=options.json)


def evaluated(matcher: SubjectMatcher, options: EvaluateOptions, *, command: str) -> Report:
    """The report, with opponents tuned again; one split of it if one is named."""
    checkpoint = matcher.checkpoint
    zoo = PairZoo.open(
        Path(options.zoo or checkpoint.zoo["folder"]), described_by=description_of(checkpoint.feature_names)
    )
    check_held_out(matcher, zoo)
    note_other_zoo(zoo.folder, zoo.fingerprint, checkpoint.zoo["fingerprint"])
    config = record_from_json(
        MatchReportConfig, checkpoint.training["report"], "training.report", do="Train the matcher again."
    )
    report, _ = judge(
        matcher,
        zoo,
        config,
        command=command,
        seed=int(checkpoint.training.get("bootstrap_seed", 0)),
        progress=lambda text: sys.stderr.write(f"{text}\n"),
        only=options.split,
    )
    return report


def check_held_out(matcher: SubjectMatcher, zoo: PairZoo) -> None:
    """Raises: InputError where test pairs have lineages of training, or nodes have other features."""
    known = set(matcher.checkpoint.lineages)
    tests = {name for split in TESTS for name in zoo.lineages(split)}
    require(
        not tests & known,
        str(zoo.folder),
        expected="test pairs of lineages that the matcher was not trained on",
        got=f"{len(tests & known)} that it was",
        do="Evaluate on the zoo that the checkpoint's card names, or on another one.",
    )
    have, want = zoo.feature_names, matcher.checkpoint.feature_names
    require(
        have == want,
        str(zoo.folder),
        expected=f"the {len(want)} features of the matcher",
        got=f"{len(have)}, {len(set(have) & set(want))} of them the same",
        do="Build the zoo that the checkpoint's card names.",
    )
