"""The main job of matching: trains a matcher, judges it beside its opponents, and leaves a checkpoint."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import plain
from metamodel.evaluation import report as reports
from metamodel.evaluation.matching.card import write_matching_card
from metamodel.evaluation.matching.evaluate import judge, tuning_pairs
from metamodel.evaluation.matching.levels import save_levels
from metamodel.evaluation.matching.scores import partial_f1
from metamodel.evaluation.terminal import report_console, said, show
from metamodel.matching import SubjectMatcher
from metamodel.networks.matching.ensemble import MatcherEnsemble
from metamodel.networks.matching.matcher import Matcher
from metamodel.training.fit_matching import fit_matcher, sizes_of
from metamodel.training.matching_checkpoint import (
    MODEL,
    MatchingCheckpoint,
    load_matching_checkpoint,
    save,
)
from metamodel.training.run_folder import CHECKPOINT, claim_folder

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
"""Confidences from which pairs are kept, that are tried on validation pairs."""


def train_matcher(config: MatchingConfig, zoo: PairZoo, *, command: str) -> Path:
    """Trains, judges, and prints the table and the paths. Returns the folder of the checkpoint.

    A run that was interrupted after its training goes on with the report.

    Args:
        command: what the card says to run to do it again.
    """
    folder, _held = claim_folder(config, zoo.fingerprint)
    where, say = folder / CHECKPOINT, said(config.trainer.progress)
    if not (where / MODEL).is_file():
        train = list(zoo.of("train"))
        say(f"training on {len(train)} pairs and on what is drawn from their circuits")
        matcher = fit_matcher(config, train, folder)
        save(checkpoint_of(config, zoo, matcher, train), where)
    matcher = SubjectMatcher(load_matching_checkpoint(where))
    report, levels = judge(
        matcher, zoo, config.report, command=command, seed=config.bootstrap_seed, progress=say
    )
    reports.save(report, where)
    save_levels(levels, where)
    write_matching_card(where, report, levels, name=config.name, config=plain(config))
    show(report, report_console())
    sys.stdout.write(f"checkpoint  {where}\ncard        {where / 'README.md'}\nzoo         {config.zoo}\n")
    return where


def checkpoint_of(
    config: MatchingConfig,
    zoo: PairZoo,
    matcher: Matcher | MatcherEnsemble,
    train: Sequence[MatchedPair],
) -> MatchingCheckpoint:
    """With the threshold and the null scores that validation pairs give."""
    validation = list(zoo.of("validation"))
    draft = MatchingCheckpoint(
        matcher=matcher,
        sizes=sizes_of(config, len(zoo.feature_names)),
        feature_names=zoo.feature_names,
        keep_above=0.0,
        null_scores=(),
        zoo={"name": zoo.name, "folder": config.zoo, "fingerprint": zoo.fingerprint},
        lineages=tuple(sorted({name for pair in [*train, *validation] for name in pair.lineages if name})),
        training=plain(config),
    )
    known = tuning_pairs(zoo, config.report)
    absent = [pair for pair in validation if not pair.present and not pair.missing]
    scores = sorted(found.score for found in SubjectMatcher(draft).match_all(graphs_of(absent)))
    return replace(draft, keep_above=_best_threshold(draft, known), null_scores=tuple(scores))


def _best_threshold(draft: MatchingCheckpoint, pairs: Sequence[MatchedPair]) -> float:
    """The confidence with the highest mean partial F1 on these pairs, the lowest of equals."""
    if not pairs:
        return 0.3

    def mean(threshold: float) -> float:
        found = SubjectMatcher(replace(draft, keep_above=threshold)).match_all(graphs_of(pairs))
        return float(np.mean([partial_f1(pair, one.pairs) for pair, one in zip(pairs, found, strict=True)]))

    return max(THRESHOLDS, key=mean)


def graphs_of(pairs: Sequence[MatchedPair]) -> list[tuple]:
    """What a matcher sees of pairs."""
    return [(pair.first, pair.second) for pair in pairs]
