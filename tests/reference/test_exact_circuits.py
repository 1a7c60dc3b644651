"""The fast exact sweep against the naive loop, a forward an edge, and against a subject done by hand."""

import itertools

import pytest
import torch

from metamodel.circuits.exact import edge_scores, source_outputs
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import kl, margin
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, unstack


def random_subject(seed: int, **shape) -> Subject:
    """Large random weights everywhere, biases and gains too, so that no path is negligible."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 3, "d_mlp": 12, "d_vocab": 9, "n_ctx": 7}
    config = SubjectConfig(**(sizes | shape))
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.5), 0)
    for key in weights:
        if key.rsplit(".", 1)[1][0] in "bw":
            weights[key] = weights[key] + 0.3 * torch.randn(weights[key].shape, generator=generator)
    return Subject(config=config, weights=weights)


def random_prompts(seed: int, config: SubjectConfig, *, n: int = 5, n_pos: int = 6) -> Prompts:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    return Prompts(
        clean=draw(config.d_vocab, n, n_pos),
        corrupt=draw(config.d_vocab, n, n_pos),
        position=draw(n_pos, n),
        answer=draw(config.d_vocab, n),
        corrupt_answer=draw(config.d_vocab, n),
        slice=torch.zeros(n, dtype=torch.int64),
        slice_names=("all",),
    )


def naive_scores(subject: Subject, prompts: Prompts, intervention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One full forward an edge: the source's change is added at that destination alone."""
    whole, config = folded(subject), subject.config
    taps = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        taps += [f"blocks.{layer}.attn.hook_result"]
        taps += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []

    def outputs(tokens):
        run = whole.run(tokens, taps=taps)
        return run.logits[0], source_outputs(config, {name: run.taps[name][0] for name in taps})

    rows = torch.arange(len(prompts))
    logits, clean = outputs(prompts.clean)
    logits = logits[rows, prompts.position]
    delta = -clean if intervention == "zero" else outputs(prompts.corrupt)[1] - clean
    margins, kls = [], []
    edges = component_edges(config)
    for edge in edges.edges:
        change = delta[edges.sources.index(edge.source)]
        reader = edge.destination
        if reader.component.kind == "head":
            addend = change.new_zeros(*change.shape[:2], config.n_heads, config.d_model)
            addend[:, :, reader.component.head] = change
        else:
            addend = change
        patched = forward(whole.stacked, config, prompts.clean, addends={reader.site: addend[None]})
        patched = patched.logits[0][rows, prompts.position]
        margins.append((margin(patched, prompts.answer) - margin(logits, prompts.answer)).mean())
        kls.append(kl(logits, patched).mean())
    return torch.stack(margins), torch.stack(kls)


@pytest.mark.parametrize("intervention", ["noising", "zero"])
@pytest.mark.parametrize(
    ("normalization_type", "d_mlp", "attention_dir", "n_layers", "act_fn"),
    [
        (*shape, n_layers, act_fn)
        for shape, (n_layers, act_fn) in zip(
            itertools.product(["LN", "none"], [12, 0], ["causal", "bidirectional"]),
            [
                (2, "relu"),
                (3, "gelu"),
                (2, "relu"),
                (3, "relu"),
                (3, "gelu_new"),
                (1, "relu"),
                (1, "relu"),
                (3, "relu"),
            ],
            strict=True,
        )
    ],
)
def test_the_sweep_equals_a_full_forward_for_each_edge(
    normalization_type, d_mlp, attention_dir, n_layers, act_fn, intervention
):
    subject = random_subject(
        1,
        normalization_type=normalization_type,
        d_mlp=d_mlp,
        attention_dir=attention_dir,
        n_layers=n_layers,
        act_fn=act_fn,
    ).double()
    prompts = random_prompts(2, subject.config)
    scores = edge_scores(subject, prompts, intervention)
    margins, kls = naive_scores(subject, prompts, intervention)
    torch.testing.assert_close(scores.margin, margins, atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.kl, kls, atol=1e-10, rtol=0)
    assert (kls > 1e-6).float().mean() > 0.5, "too few edges have any effect for this to compare anything"
