"""The baseline `detect_head`: TransformerLens's detector of named heads, calibrated but not trained.

`transformer_lens.head_detector.detect_head` itself, with its own arguments, on prompts that say random tokens
of the subject's vocabulary twice; what researchers reach for first. It looks at attention patterns, from
which the labels that it names are computed: **it sees statistics that no reader may see**, on every track.
Labels that it has no pattern for, and subjects that cannot be run, are answered by the prior.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.baselines.table import Rows, TablePredictor
from metamodel.baselines.token_space import OwnColumn, no_pairs
from metamodel.features.examples import Seen
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject

NAMES = {
    "previous_token": "previous_token_head",
    "duplicate_token": "duplicate_token_head",
    "induction": "induction_head",
}
"""Label of a zoo to the name of the detector's pattern."""
PROMPTS = 8
LONGEST = 24
"""Tokens that a prompt repeats, at most: what fits beside the first token and its own second saying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listened:
    """A subject behind TransformerLens's protocol for its tools: a prompt is token numbers, as words."""

    subject: Subject

    @property
    def cfg(self) -> Any:
        config, like = self.subject.config, self.subject.weights["embed.W_E"]
        return SimpleNamespace(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_ctx=config.n_ctx,
            device=like.device,
            dtype=like.dtype,
        )

    def to_tokens(self, seq: str) -> Int[Tensor, "1 pos"]:
        return torch.tensor([[int(word) for word in seq.split()]], device=self.cfg.device)

    def run_with_cache(self, tokens: Int[Tensor, "1 pos"], *, remove_batch_dim: bool) -> tuple[Tensor, Any]:
        """Logits, and of all that TransformerLens would cache the patterns of attention."""
        assert remove_batch_dim, "only the detector calls this"
        layers = range(self.subject.config.n_layers)
        run = self.subject.run(tokens, taps=[f"blocks.{layer}.attn.hook_pattern" for layer in layers])
        patterns = {layer: run.taps[f"blocks.{layer}.attn.hook_pattern"][0, 0] for layer in layers}
        return run.logits[0], {("pattern", layer, "attn"): value for layer, value in patterns.items()}

    def run_with_hooks(self, *_: Any) -> None:
        raise AssertionError("the detector does not run with hooks")


def said_twice(subject: Subject, *, seed: int = 0) -> tuple[str, ...]:
    """Prompts: token 0, then random tokens, then the same again, one token shorter than the context."""
    config = subject.config
    half = min((config.n_ctx - 2) // 2, LONGEST)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(PROMPTS if half > 0 and config.d_vocab > 1 else 0):
        drawn = 1 + rng.choice(config.d_vocab - 1, half, replace=config.d_vocab - 1 < half)
        found.append(" ".join(map(str, [0, *drawn, *drawn])))
    return tuple(found)


@torch.no_grad()
def detected(subject: Subject, pattern: str, *, exclude_bos: bool) -> Float[Tensor, "layer head"] | None:
    """The detector's score of every head, in mean over the prompts; None where it cannot be run."""
    prompts = said_twice(subject) if subject.config.norm_position == "pre" else ()
    if not prompts:
        return None
    from transformer_lens.head_detector import detect_head as detector  # takes seconds to import

    scores = [
        detector(Listened(subject=subject), prompt, pattern, exclude_bos=exclude_bos)  # pyright: ignore[reportArgumentType]
        for prompt in prompts
    ]
    return torch.stack(scores).mean(0)


def detection_columns(*, exclude_bos: bool) -> Callable[[Seen], Rows]:
    """A column a label, NaN where the detector says nothing."""

    def columns(seen: Seen) -> Rows:
        inputs = seen.baseline_inputs
        assert inputs is not None, f"{seen.id}: examples for baselines carry baseline_inputs"
        nodes = components(seen.config)
        heads = [i for i, node in enumerate(nodes) if node.kind == "head"]
        found = np.full((len(nodes), len(inputs.labels)), np.nan)
        for at, label in enumerate(inputs.labels):
            if label in NAMES:
                score = detected(inputs.subject, NAMES[label], exclude_bos=exclude_bos)
                if score is not None:
                    found[heads, at] = score.flatten().double().cpu().numpy()
        return found

    return columns


def detect_head() -> TablePredictor:
    return TablePredictor(
        "detect_head",
        nodes=detection_columns(exclude_bos=False),
        edges=no_pairs,
        learner=OwnColumn(),
    )
