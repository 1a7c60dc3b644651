"""A report as a terminal shows it: every number of it, in 100 columns."""

from oracle import METHODS, interval, shown

from metamodel.config.words import TEST_SPLITS
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import WIDTH

OURS = ("meta-model/weights", "meta-model/activations")


def test_every_metric_has_a_block_and_every_method_a_line_in_it(report):
    blocks = shown(report)
    assert blocks.keys() == report.scores["seed"].keys()
    assert next(iter(blocks)).startswith("average_precision/"), "averages stay on the screen"
    for metric, block in blocks.items():
        lines = block.splitlines()
        assert lines[1].split() == ["seed", "(8)", "task", "(6)"] or "†" in lines[1], metric
        names = [line[:16].strip() for line in lines]
        for method in METHODS:
            name = {"best_single_feature": "single feature"}.get(method, method.replace("_", " "))
            assert names.count(name) == 1, (metric, method)
    assert "win" in blocks["average_precision/copying"]
    assert "n/a" in blocks["average_precision/induction"]
    assert "noise ceiling" not in blocks["kendall_tau"]
    assert "right answer" in blocks["behavior_accuracy"]


def test_six_splits_and_fourteen_methods_stand_side_by_side_without_a_broken_cell():
    scores = {name: interval(0.5, 0.25, 0.75) for name in (*METHODS, *OURS)} | {
        "prior": interval(0.8, 0.7, 1.0)
    }
    gaps = {name: interval(-0.3, -0.45, -0.05) for name in METHODS[1:]}
    report = Report(
        command="",
        zoo="",
        scores={split: {"average_precision": scores} for split in TEST_SPLITS},
        differences={split: {"average_precision": gaps} for split in TEST_SPLITS},
    )
    block = shown(report)["average_precision"]
    lines = [line.rstrip() for line in block.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) == 3 + len(METHODS) + len(OURS) + 2
    (narrow,) = (line for line in lines if line.startswith("  on weights"))
    assert narrow.split()[2:] == 6 * [".500", ".25–.75"]
    (prior,) = (line for line in lines if line.startswith("prior"))
    assert prior.split()[1:] == 6 * [".800*", ".70–1.0"]
    assert lines[-2].split()[3:] == 6 * ["-0.300", "lose"]
    assert lines[-1].split() == 6 * ["-.45", "to", "-.05"]


def test_numbers_beyond_one_keep_their_digits():
    scores = {METHODS[0]: interval(200.0, 10.0, 1000.5), METHODS[1]: interval(-0.25, -10.5, 1.0)}
    gaps = {"seed": {"steps": {name: interval(0.0, 0.0, 0.0) for name in METHODS}}}
    report = Report(command="", zoo="", scores={"seed": {"steps": scores}}, differences=gaps)
    words = shown(report)["steps"].split()
    for number in ("200.000", "10.00–1000.50", "-.250*", "-10.50–1.0"):
        assert number in words, number
