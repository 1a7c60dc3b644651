"""How fast subjects train: stacked, against a loop over bridges, a loop over modules, and vmap.

    python benchmarks/stacked_training.py

Every method trains subjects of the same shape on the same tokens with AdamW, its step included, in the same
processes with the same threads: all of them run at once in `--processes` processes of `--threads` threads, in
turn inside every round, so that a noisy machine disturbs them alike. Figures are medians over rounds, in
milliseconds of wall time per subject and training step, with all processes counted. `ratio_to_arithmetic` is
`stacked` over the time that the matrix products alone would take at the rate of one batched product.
On a GPU: `--device cuda --processes 1 --subjects 512 --loop-subjects 8`. Progress goes to stderr; the last
line of stdout is one JSON object.
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_gen.stacked_training import StackedTrainer
from data_gen.workers import MEMORY_VARIABLES
from metamodel.subjects import SubjectConfig, initial_weights

CONFIG = SubjectConfig(n_layers=2, n_heads=4, d_model=32, d_head=8, d_mlp=128, d_vocab=64, n_ctx=16)
PROMPTS = 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
Step = Callable[[], None]


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[..., :-1, :].flatten(0, -2), tokens[..., 1:].flatten())


class PlainBlock(nn.Module):
    """One pre-norm block, written as anybody would."""

    def __init__(self, c: SubjectConfig):
        super().__init__()
        self.n_heads = c.n_heads
        self.ln1, self.ln2 = nn.LayerNorm(c.d_model), nn.LayerNorm(c.d_model)
        self.qkv = nn.Linear(c.d_model, 3 * c.n_heads * c.d_head)
        self.out = nn.Linear(c.n_heads * c.d_head, c.d_model)
        self.up, self.down = nn.Linear(c.d_model, c.d_mlp), nn.Linear(c.d_mlp, c.d_model)
        self.register_buffer("future", torch.ones(c.n_ctx, c.n_ctx, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln1(x)).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)
        q, k, v = (y.transpose(-3, -2) for y in (q, k, v))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(self.future, -torch.inf)
        z = (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)
        x = x + self.out(z)
        return x + self.down(F.relu(self.up(self.ln2(x))))


class PlainTransformer(nn.Module):
    """The subject's architecture as one ordinary module."""

    def __init__(self, c: SubjectConfig):
        super().__init__()
        self.embed, self.pos = nn.Embedding(c.d_vocab, c.d_model), nn.Embedding(c.n_ctx, c.d_model)
        self.blocks = nn.ModuleList(PlainBlock(c) for _ in range(c.n_layers))
        self.ln, self.unembed = nn.LayerNorm(c.d_model), nn.Linear(c.d_model, c.d_vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.pos.weight[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln(x))


def loop_steps(modules: list[nn.Module], tokens: Tensor) -> Step:
    """One subject after the other, an optimiser each."""
    optimisers = [
        torch.optim.AdamW(m.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        for m in modules
    ]

    def step():
        for module, optimiser, own in zip(modules, optimisers, tokens, strict=True):
            optimiser.zero_grad()
            next_token_loss(module(own), own).backward()
            optimiser.step()

    return step


def bridge_loop(tokens: Tensor, c: SubjectConfig = CONFIG) -> Step:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    device = tokens.device
    bridges = [
        TransformerBridge.boot_native(  # pyright: ignore[reportAttributeAccessIssue]
            TransformerBridgeConfig(
                n_layers=c.n_layers, n_heads=c.n_heads, d_model=c.d_model, d_head=c.d_head, d_mlp=c.d_mlp,
                d_vocab=c.d_vocab, n_ctx=c.n_ctx, act_fn=c.act_fn, normalization_type="LN", seed=seed,
            )
        ).to(device)
        for seed in range(len(tokens))
    ]  # fmt: skip
    return loop_steps(bridges, tokens)


def module_loop(tokens: Tensor) -> Step:
    return loop_steps([PlainTransformer(CONFIG).to(tokens.device) for _ in tokens], tokens)


def vmap(tokens: Tensor) -> Step:
    """`torch.func` over stacked plain modules."""
    modules = [PlainTransformer(CONFIG).to(tokens.device) for _ in tokens]
    parameters, buffers = torch.func.stack_module_state(modules)
    skeleton = PlainTransformer(CONFIG).to(tokens.device)
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )

    def loss_of(parameters: dict, buffers: dict, own: Tensor) -> Tensor:
        return next_token_loss(torch.func.functional_call(skeleton, (parameters, buffers), (own,)), own)

    gradients = torch.func.vmap(torch.func.grad(loss_of))

    def step():
        for name, gradient in gradients(parameters, buffers, tokens).items():
            parameters[name].grad = gradient
        optimiser.step()

    return step


def stacked(tokens: Tensor) -> Step:
    """What the zoo's training does, gradient clipping included."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(tokens))]
    weights = {key: value.to(tokens.device) for key, value in initial_weights(CONFIG, generators).items()}
    trainer = StackedTrainer(CONFIG, weights, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    targets = tokens.roll(-1, dims=-1)
    targets[..., -1] = -100

    def step() -> None:
        trainer.step(tokens, targets)

    return step


METHODS = {"bridge_loop": bridge_loop, "module_loop": module_loop, "vmap": vmap, "stacked": stacked}


def products(c: SubjectConfig) -> list[tuple[int, int, int, int]]:
    """(count, rows, inner, columns) of the matrix products in one forward of one subject."""
    rows, width = PROMPTS * c.n_ctx, c.n_heads * c.d_head
    per_head = PROMPTS * c.n_heads
    block = [
        (1, rows, c.d_model, 3 * width),
        (per_head, c.n_ctx, c.d_head, c.n_ctx),
        (per_head, c.n_ctx, c.n_ctx, c.d_head),
        (1, rows, width, c.d_model),
        (1, rows, c.d_model, c.d_mlp),
        (1, rows, c.d_mlp, c.d_model),
    ]
    return block * c.n_layers + [(1, rows, c.d_model, c.d_vocab)]


def arithmetic_ms(subjects: int, device: torch.device) -> float:
    """Milliseconds for the products of a forward and backward at the rate of one batched product."""
    rows = PROMPTS * CONFIG.n_ctx
    a = torch.randn(subjects, rows, CONFIG.d_model, device=device)
    b = torch.randn(subjects, CONFIG.d_model, CONFIG.d_mlp, device=device)
    out = a @ b
    times = []
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        torch.bmm(a, b, out=out)
        wait(device)
        times.append(time.perf_counter() - start)
    rate = 2 * subjects * rows * CONFIG.d_model * CONFIG.d_mlp / statistics.median(times)
    flops = 3 * sum(2 * n * i * j * k for n, i, j, k in products(CONFIG))
    return flops / rate * 1e3


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def work(rank: int, barrier, queue, arguments: argparse.Namespace) -> None:
    """One process: every method in turn, each round, together with the other processes."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(rank)
    device = torch.device(arguments.device)
    tokens = torch.randint(0, CONFIG.d_vocab, (arguments.subjects, PROMPTS, CONFIG.n_ctx)).to(device)
    loops = tokens[: arguments.loop_subjects or len(tokens)]
    steps = {name: make(loops if "loop" in name else tokens) for name, make in METHODS.items()}
    for step in steps.values():
        step()
    for round_index in range(arguments.rounds):
        for name, step in steps.items():
            wait(device)
            barrier.wait()
            start = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            wait(device)
            queue.put((round_index, name, time.perf_counter() - start))
        barrier.wait()
        queue.put((round_index, "arithmetic", arithmetic_ms(arguments.subjects, device)))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds per subject and step of every method, and of the arithmetic."""
    os.environ.update(MEMORY_VARIABLES)  # as workers have it, here for every method
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(arguments.processes), context.Queue()
    workers = [
        context.Process(target=work, args=(rank, barrier, queue, arguments), daemon=True)
        for rank in range(arguments.processes)
    ]
    for worker in workers:
        worker.start()
    found: dict[str, dict[int, list[float]]] = {}
    expected = arguments.processes * arguments.rounds * (len(METHODS) + 1)
    for i in range(expected):
        round_index, name, value = queue.get(timeout=600)
        found.setdefault(name, {}).setdefault(round_index, []).append(value)
        print(f"\r{i + 1}/{expected} measurements", end="", file=sys.stderr)
    print(file=sys.stderr)
    for worker in workers:
        worker.join()
    subject_steps = arguments.processes * arguments.steps

    def trained(name: str) -> int:
        return arguments.loop_subjects or arguments.subjects if "loop" in name else arguments.subjects

    medians = {
        name: statistics.median(map(max, found[name].values())) * 1e3 / subject_steps / trained(name)
        for name in METHODS
    }
    arithmetic = statistics.median(max(values) for values in found["arithmetic"].values())
    return medians | {"arithmetic": arithmetic / arguments.processes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument(
        "--device", default="cpu", help="cpu, or cuda with one process and hundreds of subjects"
    )
    parser.add_argument("--subjects", type=int, default=8, help="subjects of each process")
    parser.add_argument("--loop-subjects", type=int, default=0, help="fewer subjects for loops; 0 for all")
    parser.add_argument("--steps", type=int, default=5, help="training steps per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    ms = measure(arguments)
    result = {
        "ms_per_subject_step": {name: round(ms[name], 3) for name in METHODS},
        "ratio_to_bridge_loop": round(ms["bridge_loop"] / ms["stacked"], 2),
        "ratio_to_vmap": round(ms["vmap"] / ms["stacked"], 2),
        "ratio_to_arithmetic": round(ms["stacked"] / ms["arithmetic"], 2),
        "arithmetic_ms": round(ms["arithmetic"], 3),
        "setting": vars(arguments) | {"prompts": PROMPTS, "subject": CONFIG.to_dict()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
