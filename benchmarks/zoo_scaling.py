"""What a subject of a zoo costs: seconds, bytes and memory against subjects, layers and heads.

    python benchmarks/zoo_scaling.py

Builds zoos of 100, 400 and 1,600 subjects as the command does, samples the resident memory of the build
with its workers, and then opens, checks and finishes each zoo. Its subjects are sorters of 1 layer and 2
heads with d_model 16, trained for 200 steps on 16 prompts, with the smallest harvest, 20 to a shard.
`seconds_per_subject` is wall time, the start of about 5 s included; `cpu_seconds_per_subject` counts all
processes, and other work on the machine hardly moves it. Against layers and heads (d_model 32, heads of 8) it
is the processor time of one thread that trains and harvests one shard of subjects, also those that a zoo
would reject. Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from builds import small_zoo, start

from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.made import Made
from data_gen.population import shard_specs
from data_gen.shard import harvest_all
from data_gen.stacked_training import train
from metamodel.subjects import Subject, unstack
from metamodel.triples import Zoo, finish, valid_shard

SAMPLE = 0.2
"""Seconds between samples of memory."""
N_SHAPED = 8
"""Subjects of each shape."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of memory of a process and of all below it; pages they share count in each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0
    return pages * PAGE + sum(resident(child) for child in children)


def measured_build(folder: Path, n_subjects: int, workers: int) -> dict[str, float]:
    """What one zoo costs."""
    config, out = folder / f"{n_subjects}.yaml", folder / str(n_subjects)
    config.write_text(small_zoo("scaling", n_subjects=n_subjects, subjects_per_shard=20))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    build = start(config, out, "--workers", workers)
    drained = threading.Thread(target=build.stdout.read if build.stdout else str)
    drained.start()
    peak = 0
    while build.poll() is None:
        peak = max(peak, resident(build.pid))
        time.sleep(SAMPLE)
    drained.join()
    if build.returncode != 0:
        raise RuntimeError(f"the build of {n_subjects} subjects ended with code {build.returncode}")
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    began = time.process_time()
    zoo = Zoo.open(out)
    accepted, opened = len(zoo.ids), time.process_time()
    whole = all(valid_shard(out, index) for index in range(zoo.manifest.n_shards))
    checked = time.process_time()
    assert whole
    finish(out)
    ended = time.process_time()
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "cpu_seconds": processor,
        "peak_memory_mib": peak / 2**20,
        "bytes": n_bytes,
        "accepted": accepted,
        "open_seconds": opened - began,
        "check_seconds": checked - opened,
        "finish_seconds": ended - checked,
    }


def of_shape(n_layers: int, n_heads: int) -> tuple[float, float]:
    """Processor seconds per subject of training and of harvest, on one thread."""
    config = ZooConfig(
        name="shape",
        n_ctx=16,
        sizes={"s": SizeConfig(n_layers=n_layers, n_heads=n_heads, d_model=32, d_head=8)},
        recipes={"r": RecipeConfig(steps=100, batch_size=16, warmup_steps=10)},
        cells=(CellConfig(family="sorting", variant="short", sizes=("s",), recipe="r", n_subjects=N_SHAPED),),
        subjects_per_shard=N_SHAPED,
        harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=32, n_probes=4, n_shown=8, n_random=16),
    )
    (spec,) = shard_specs(config)
    began = time.process_time()
    trained = train(spec)
    middle = time.process_time()
    made = [
        Made(
            subject=Subject(config=spec.subject_config, weights=unstack(trained.weights, i), name=s.id),
            task=trained.tasks[i],
            seed=s.seed,
            lineage=s.lineage,
        )
        for i, s in enumerate(spec.subjects)
    ]
    harvest_all(spec, tuple(made), config.harvest, config.seed)
    return (middle - began) / N_SHAPED, (time.process_time() - middle) / N_SHAPED


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subjects", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4], help="with 4 heads each")
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 2, 4, 8], help="with 2 layers")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_shape(1, 1)  # the first call of everything is slower
    by_layers = curve("layers", options.layers, [of_shape(n, 4) for n in options.layers])
    by_heads = curve("heads", options.heads, [of_shape(2, n) for n in options.heads])
    builds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in options.subjects:
            builds[str(n)] = measured_build(Path(folder), n, options.workers)
            sys.stderr.write(f"{n} subjects: {json.dumps(builds[str(n)])}\n")
    largest = builds[str(max(options.subjects))]
    print(
        json.dumps(
            {
                "seconds_per_subject": {n: round(b["seconds"] / int(n), 4) for n, b in builds.items()},
                "cpu_seconds_per_subject": {
                    n: round(b["cpu_seconds"] / int(n), 4) for n, b in builds.items()
                },
                "peak_memory_mib": {n: round(b["peak_memory_mib"]) for n, b in builds.items()},
                "bytes_per_subject": round(largest["bytes"] / largest["accepted"]),
                "bytes_per_subject_by_zoo": {n: round(b["bytes"] / b["accepted"]) for n, b in builds.items()},
                "accepted": {n: b["accepted"] for n, b in builds.items()},
                **{
                    f"{name}_milliseconds_per_subject": {
                        n: round(1000 * b[f"{name}_seconds"] / int(n), 3) for n, b in builds.items()
                    }
                    for name in ("open", "check", "finish")
                },
                "seconds_per_subject_by_layers": by_layers,
                "seconds_per_subject_by_heads": by_heads,
            }
        )
    )


def curve(what: str, values: Sequence[int], found: Sequence[tuple[float, float]]) -> dict[str, float]:
    sys.stderr.write(f"{what}, (training, harvest) in seconds: {dict(zip(values, found, strict=True))}\n")
    return {str(value): round(sum(seconds), 4) for value, seconds in zip(values, found, strict=True)}


if __name__ == "__main__":
    main()
