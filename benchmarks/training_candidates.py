"""What was tried to train stacks faster: half precision, a compiler, the allocator, other group sizes.

    python benchmarks/training_candidates.py [--skip-compiled]

One thread. Each candidate takes turns with `stacked`, the training step of the zoo, on the same tokens.
Figures are medians of the ratio candidate / stacked, so below 1 is faster. `compile_seconds` is what the
first step of a compiled candidate takes. `allocator` runs `stacked` in fresh processes with and without the
settings that workers get. Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from stacked_training import CONFIG, LEARNING_RATE, PROMPTS, WEIGHT_DECAY
from torch import Tensor

from data_gen.stacked_training import StackedTrainer, clip, supervised_rows
from data_gen.tasks.base import UNSUPERVISED
from data_gen.workers import MEMORY_VARIABLES
from metamodel.subjects import initial_weights
from metamodel.subjects.forward import logits_at

ROUNDS = 15
Step = Callable[[], object]


def trainer(n: int) -> StackedTrainer:
    generators = [torch.Generator().manual_seed(seed) for seed in range(n)]
    weights = initial_weights(CONFIG, generators)
    return StackedTrainer(CONFIG, weights, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def data(n: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, CONFIG.d_vocab, (n, PROMPTS, CONFIG.n_ctx))
    targets = tokens.roll(-1, dims=-1)
    targets[..., -1] = UNSUPERVISED
    return tokens, targets


def stacked(n: int) -> Step:
    one, (tokens, targets) = trainer(n), data(n)
    return lambda: one.step(tokens, targets)


def candidate(n: int, *, half: bool, compiled: bool) -> Step:
    """The same step, with bfloat16 from the embeddings to the logits (weights stay float32), or compiled."""
    one, (tokens, targets) = trainer(n), data(n)

    def loss_of(matrices: Tensor, vectors: Tensor, rows: Tensor, asked: Tensor) -> Tensor:
        one.buffers = [matrices, vectors]
        views = {key: value.bfloat16() if half else value for key, value in one.views().items()}
        logits = logits_at(views, CONFIG, tokens, rows).float()
        each = F.cross_entropy(
            logits.flatten(0, 1), asked.flatten(), ignore_index=UNSUPERVISED, reduction="none"
        )
        return each.view_as(asked).sum(1) / (asked != UNSUPERVISED).sum(1).clamp(min=1)

    function = torch.compile(loss_of, fullgraph=True, dynamic=False) if compiled else loss_of
    buffers = list(one.buffers)

    def step() -> None:
        rows, asked = supervised_rows(targets.flatten(1))
        loss = function(buffers[0], buffers[1], rows, asked)
        one.buffers = buffers
        one.optimizer.zero_grad()
        loss.sum().backward()
        clip([b.grad for b in buffers if b.grad is not None], one.grad_clip)
        one.optimizer.step()

    return step


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def ratio(step: Step, reference: Step) -> float:
    """Median over rounds, in turns."""
    for one in (step, reference):
        one()
    return statistics.median(seconds(step) / seconds(reference) for _ in range(ROUNDS))


def alone(environment: dict[str, str]) -> float:
    """Median seconds of a step of `stacked` in a fresh process."""
    words = [sys.executable, __file__, "--one"]
    ended = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=True)
    return float(ended.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--skip-compiled", action="store_true", help="leaves out what needs a C++ compiler")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = options.subjects
    if options.one:
        step = stacked(n)
        step()
        sys.stdout.write(f"{statistics.median(seconds(step) for _ in range(ROUNDS))}\n")
        return
    reference = stacked(n)
    found: dict[str, object] = {}
    for half in (False, True):
        for compiled in (False, True):
            name = "_".join(["compiled"] * compiled + ["bfloat16"] * half)
            if not name or (compiled and options.skip_compiled):
                continue
            step = candidate(n, half=half, compiled=compiled)
            first = seconds(step)
            found[name] = {"ratio_to_stacked": round(ratio(step, reference), 3)}
            if compiled:
                found[name] = {**found[name], "compile_seconds": round(first, 1)}  # pyright: ignore
            sys.stderr.write(f"{name}: {found[name]}\n")
    for size in (1, 2, 4, 16, 32):
        per_subject = ratio(stacked(size), reference) * n / size
        found[f"groups_of_{size}"] = {"ratio_to_stacked": round(per_subject, 3)}
        sys.stderr.write(f"groups of {size}: {per_subject:.3f}\n")
    pairs = [(alone(dict(MEMORY_VARIABLES)), alone({})) for _ in range(5)]
    found["allocator"] = {"ratio_to_stacked": round(statistics.median(a / b for a, b in pairs), 3)}
    sys.stdout.write(json.dumps({"subjects": n, "candidates": found}) + "\n")


if __name__ == "__main__":
    main()
