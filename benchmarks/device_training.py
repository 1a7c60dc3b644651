"""How many subjects a minute train on a device, in stacks of many sizes, against a loop over bridges.

    python benchmarks/device_training.py --device cuda --subjects 64,512,2048

Trains `repeated` subjects (2 layers, 4 heads, width 32) as a zoo does, their data drawn and moved to the
device included, for `--steps` steps; `subjects_per_minute` is for the 900 steps of the recipe `medium`. The
loop trains bridges of the same shape one after the other on the same prompts, their drawing left out. A share
of the time goes into drawing data on the CPU: `drawing_share`. Progress goes to stderr; the last line of
stdout is one JSON object.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import replace

import torch
from stacked_training import bridge_loop, wait

from data_gen.config import RecipeConfig
from data_gen.seeds import generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks import make_task
from metamodel.subjects import SubjectConfig, initial_weights

CONFIG = SubjectConfig(n_layers=2, n_heads=4, d_model=32, d_head=8, d_mlp=128, d_vocab=64, n_ctx=20)
RECIPE = RecipeConfig(steps=900, warmup_steps=0)
N_LOOP = 4
"""Bridges of the loop: its time is a subject's, whatever their number."""


def seconds_of_stack(n: int, steps: int, device: torch.device) -> tuple[float, float]:
    """Wall time of training `n` subjects, and of drawing their data alone."""
    tasks = [make_task("repeated", "base", seed) for seed in range(n)]
    weights = initial_weights(CONFIG, [generator_for(seed, "weights") for seed in range(n)])

    def generators() -> list[torch.Generator]:
        return [generator_for(seed, "data") for seed in range(n)]

    recipe = replace(RECIPE, steps=steps)
    train_stack(CONFIG, replace(recipe, steps=50), weights, tasks, generators(), device=device)  # warm
    start = time.perf_counter()
    train_stack(CONFIG, recipe, weights, tasks, generators(), device=device)
    wait(device)
    whole, start = time.perf_counter() - start, time.perf_counter()
    for task, generator in zip(tasks, generators(), strict=True):
        task.sample(generator, steps * recipe.batch_size)
    return whole, time.perf_counter() - start


def seconds_of_loop(steps: int, device: torch.device) -> float:
    """Wall time of one bridge."""
    tokens = torch.stack(
        [
            make_task("repeated", "base", s).sample(generator_for(s, "data"), RECIPE.batch_size).tokens
            for s in range(N_LOOP)
        ]
    )
    step = bridge_loop(tokens.to(device), CONFIG)
    for _ in range(3):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / N_LOOP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--subjects", default="8,64", help="sizes of stacks, with commas")
    parser.add_argument("--steps", type=int, default=100, help="training steps that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    device, steps = torch.device(arguments.device), arguments.steps
    sizes = [int(n) for n in arguments.subjects.split(",")]
    stacks: dict[int, list[tuple[float, float]]] = {n: [] for n in sizes}
    loops = []
    for i in range(arguments.rounds):
        loops.append(seconds_of_loop(min(steps, 30), device) * RECIPE.steps / min(steps, 30))
        for n in sizes:
            stacks[n].append(seconds_of_stack(n, steps, device))
        print(f"round {i + 1} of {arguments.rounds}", file=sys.stderr)

    def median(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    loop = 60 / median(loops)
    result = {"loop_over_bridges": {"subjects_per_minute": round(loop, 2)}, "stacks": {}}
    for n in sizes:
        whole = median([w for w, _ in stacks[n]])
        rate = 60 * n / (whole * RECIPE.steps / steps)
        result["stacks"][n] = {
            "subjects_per_minute": round(rate, 1),
            "ratio_to_loop": round(rate / loop, 1),
            "drawing_share": round(median([drawn / w for w, drawn in stacks[n]]), 2),
        }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(json.dumps(result | {"device": name, "setting": vars(arguments)}))


if __name__ == "__main__":
    main()
