"""Ray builds the bytes that a pool of processes builds, and its dead workers are replaced."""

import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from data_gen import ray_executor
from data_gen.executor import Job, build_shards
from data_gen.workers import Advance, Outcome
from metamodel.config import InputError
from metamodel.triples import begin

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra, not there")
ignores_warnings_of_ray = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
BEGUN = {"name": "synthetic", "n_shards": 3}


def test_without_ray_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as error:
        next(ray_executor.run_jobs(abs, [0], workers=1))
    assert str(error.value) == (
        "--executor: expected Ray, for --executor ray, got none installed. "
        'Install it: pip install "metamodel[ray]"'
    )


def test_an_address_without_a_cluster_is_one_line_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ray_executor._knock(address)
        ray_executor._knock("auto")
    with pytest.raises(InputError) as error:
        ray_executor._knock(address)
    assert str(error.value) == (
        f"RAY_ADDRESS: expected a Ray cluster, got no answer from {address}. "
        "Start it with `ray start --head`, or unset the variable."
    )


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple]:
    """Functions that a fresh process can import, and one cluster for the tests of this file."""
    ray = importlib.import_module("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        found = importlib.import_module("fake_shards"), importlib.import_module("test_store")
        with ray_executor._cluster(ray, 2):
            yield found


@needs_ray
@ignores_warnings_of_ray
def test_a_worker_that_dies_is_replaced_and_a_job_that_kills_is_given_up(modules, tmp_path):
    fakes, _ = modules
    job = partial(fakes.dies_once_or_always, tmp_path)
    outcomes = [o for o in ray_executor.run_jobs(job, range(5), workers=2) if isinstance(o, Outcome)]
    assert {o.job: o.result for o in outcomes} == {0: 0, 1: 1, 2: None, 3: 9, 4: 16}
    (given_up,) = (o for o in outcomes if o.died)
    assert given_up.died.startswith("WorkerCrashedError: ")
    assert [len(list(tmp_path.glob(f"started-{job}-*"))) for job in range(5)] == [1, 2, 2, 1, 1]


@needs_ray
@ignores_warnings_of_ray
def test_tasks_have_one_thread_and_their_mistakes_faults_and_progress_are_told(modules, tmp_path):
    fakes, _ = modules
    assert [
        o.result for o in ray_executor.run_jobs(fakes.threads, [0], workers=1) if isinstance(o, Outcome)
    ] == [1]
    with pytest.raises(InputError) as mistake:
        list(ray_executor.run_jobs(fakes.mistaken, [7], workers=1))
    assert str(mistake.value) == "seed: expected 3, got 7. Set 3."
    with pytest.raises(RuntimeError, match=r"(?s)shard 0 failed in its worker:.*ZeroDivisionError"):
        list(ray_executor.run_jobs(fakes.faulty, [0], workers=1))
    with closing(ray_executor.run_jobs(partial(fakes.halfway_and_waits, tmp_path), [0], workers=1)) as told:
        assert next(o for o in told if o is not None) == Advance(job=0, share=0.5)


@needs_ray
@ignores_warnings_of_ray
def test_a_machine_without_the_package_is_one_line(modules, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("def job(number, report): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = importlib.import_module("elsewhere").job
    with pytest.raises(InputError) as error:
        list(ray_executor.run_jobs(job, [0], workers=1))
    assert str(error.value) == (
        "--executor: expected this package, in this version, on every machine of the Ray cluster, "
        "got ModuleNotFoundError: No module named 'elsewhere'. Install it there."
    )


@needs_ray
@ignores_warnings_of_ray
def test_ray_builds_the_bytes_that_a_pool_builds(modules, tmp_path):
    fakes, store = modules
    expected, folder = store.store_zoo(tmp_path / "pool"), tmp_path / "ray"
    begun = begin(folder, config=store.CONFIG, labels=store.LABELS, **BEGUN)
    jobs = {index: Job(n_subjects=2, cost=1.0) for index in range(3)}
    make, run = partial(fakes.stored, folder), ray_executor.run_jobs
    build_shards(begun, folder, make, jobs, run=run, workers=2, progress=False)
    for path in expected.rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(expected)).read_bytes(), path
