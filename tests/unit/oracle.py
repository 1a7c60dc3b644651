"""Evaluations of planted examples, and a reader that answers the truth: what tests of reports start from."""

import io

from rich.console import Console

from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.evaluate import evaluate
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import show
from metamodel.features.examples import NONE_OF_THESE, Prediction
from metamodel.triples.schema import POSITIVE

LABELS = ("previous_token", "copying", "induction")


METHODS = [
    "meta-model",
    "prior",
    "best_single_feature",
    "nearest",
    "logistic",
    "boosted_trees",
    "statistics",
    "token_space",
    "transformer_nfn",
    "neuron_graph",
    "probegen",
    "detect_head",
]


class Oracle:
    """Answers the truth, which it is given beforehand."""

    def __init__(self, *groups):
        self.truths = {seen.id: truth for examples in groups for seen, truth in examples}

    def __call__(self, seen) -> Prediction:
        truth = self.truths[seen.id]
        return Prediction(
            function_probability=(truth.function_state == POSITIVE).float(),
            function_score=truth.function_score.nan_to_num(0.0),
            node_member=truth.node_member.float(),
            edge_member=truth.edge_member.float(),
            slice_accuracy=truth.slice_accuracy.nan_to_num(0.0),
            probe_answer=truth.probe_answer,
            algorithm=truth.algorithm or NONE_OF_THESE,
        )


def evaluated(planted_examples, answer=None, *, seed: int = 0, readers=None, tests=None, ceiling=None):
    train, validation = planted_examples(14, seed=0), planted_examples(4, seed=1)
    tests = tests or {
        "seed": planted_examples(8, seed=2),
        "task": planted_examples(6, seed=3, family="other"),
    }
    return evaluate(
        answer or Oracle(*tests.values()),
        train=train,
        validation=validation,
        tests=tests,
        labels=LABELS,
        determined=("copying",),
        command="python -m metamodel.train",
        zoo="planted@abc",
        seed=seed,
        readers=readers,
        ceiling=ceiling,
    )


def shown(report: Report) -> dict[str, str]:
    """What a terminal of 100 columns shows of every metric."""
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    show(report, console)
    _, *blocks = console.file.getvalue().split("\n\n")
    return {block.split()[0]: block for block in blocks}


def interval(value: float, low: float, high: float, n_lineages: int = 5) -> Interval:
    return Interval(value=value, low=low, high=high, n_lineages=n_lineages)
