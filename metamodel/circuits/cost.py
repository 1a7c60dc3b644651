"""What circuit methods cost by arithmetic, in forwards: multiply-adds relative to one run of the subject.

The unit is a forward on all prompts with logits at all positions, so that figures do not depend on how many
prompts there are. LayerNorms, activations and softmax are elementwise and left out.
"""

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.graph import component_edges, reading_stage
from metamodel.subjects.config import SubjectConfig

BACKWARD = 2.0
"""Forwards that a backward counts as: it makes two products of each."""


def block_products(config: SubjectConfig, n_pos: int) -> int:
    """Multiply-adds of one block on one prompt."""
    c, width = config, config.n_heads * config.d_head
    return n_pos * (4 * c.d_model * width + 2 * n_pos * width + 2 * c.d_model * c.d_mlp)


def forward_products(config: SubjectConfig, n_pos: int) -> int:
    """Multiply-adds of one forward on one prompt, logits at all positions."""
    return config.n_layers * block_products(config, n_pos) + n_pos * config.d_model * config.d_vocab


def _last_block_products(config: SubjectConfig, n_pos: int) -> int:
    """The last block where one answer is asked: scores and mixture on the residual stream itself."""
    c, width = config, config.n_heads * config.d_head
    return 4 * c.d_model * width + 2 * n_pos * c.d_model * c.n_heads + 2 * c.d_model * c.d_mlp


def _suffix_products(config: SubjectConfig, layer: int, n_pos: int, everywhere: bool) -> int:
    """From the residual stream after block `layer` to the logits."""
    later = config.n_layers - 1 - layer
    answers = n_pos if everywhere else 1
    unembed = answers * config.d_model * config.d_vocab
    if everywhere or later == 0:
        return later * block_products(config, n_pos) + unembed
    return (later - 1) * block_products(config, n_pos) + _last_block_products(config, n_pos) + unembed


def sweep_forwards(run: BaseRun) -> float:
    """Cost of the exact sweep over all edges, the base run included."""
    c, n_pos, everywhere = run.config, run.outputs.shape[2], run.suffix.everywhere
    changed = run.delta.flatten(1).any(1)
    width, total, n_before = c.n_heads * c.d_head, 0, 2
    for layer in range(c.n_layers):
        n, last = int(changed[:n_before].sum()), run.suffix.is_last(layer)
        rows = 1 if last else n_pos
        if last:
            probes = 2 * c.d_model * width + 3 * 2 * n_pos * c.d_model * c.n_heads
            total += n * (probes + 3 * c.d_model * width)
        else:
            total += n * (3 * n_pos * c.d_model * width + 5 * n_pos * n_pos * width)
        patch = rows * c.d_head * c.d_model + 2 * rows * c.d_model * c.d_mlp
        total += 3 * c.n_heads * n * (patch + _suffix_products(c, layer, n_pos, everywhere))
        n_before += c.n_heads
        if c.has_mlp:
            n = int(changed[:n_before].sum())
            mlp = 2 * rows * c.d_model * c.d_mlp
            total += n * (mlp + _suffix_products(c, layer, n_pos, everywhere))
            n_before += 1
    n_answers = n_pos if everywhere else 1
    total += int(changed.sum()) * n_answers * c.d_model * c.d_vocab
    return run.n_runs + total / forward_products(c, n_pos)


def masked_forwards(run: BaseRun, n_masks: int, stage: int = 0) -> float:
    """Cost of runs of `n_masks` circuits from `stage` on: the blocks, and what mixes each reader's input."""
    c, n_pos = run.config, run.outputs.shape[2]
    blocks = c.n_layers - (stage + 1) // 2
    mlp = (stage % 2) * 2 * n_pos * c.d_model * c.d_mlp
    read = sum(reading_stage(edge.destination, c) >= stage for edge in component_edges(c).edges)
    products = blocks * block_products(c, n_pos) + mlp + n_pos * c.d_model * (c.d_vocab + read)
    return n_masks * products / forward_products(c, n_pos)
