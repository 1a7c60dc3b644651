"""Our EAP against TransformerLens's edge attribution, on every edge of a GPT-2 bridge of the same weights.

TransformerLens takes gradients in the corrupt run and points to the clean one, which is denoising here. Its
graph has no source for positions, whose edges score 0 in ours, and keeps positions apart, which ours sums.
Folding moves constants between sources and projects out the all-ones vector: neither is in a difference of
two prompts, or seen by a LayerNorm, so that no edge may deviate.
"""

import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from metamodel.circuits import EAP, component_edges
from metamodel.subjects import Subject

with warnings.catch_warnings():  # TransformerLens's own imports warn
    warnings.simplefilter("ignore")
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        Node,
        attribution_patch,
    )
    from transformers import GPT2Config, GPT2LMHeadModel

CHANNELS = {"q_input": "q", "k_input": "k", "v_input": "v", "mlp_in": "in", "logits": "logits"}


def gpt2_bridge(n_layer: int) -> TransformerBridge:
    """Random weights everywhere, large enough for scores of order one, and gains and biases that matter."""
    settings = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_head": 3, "n_inner": 20}
    config = GPT2Config(**settings, n_layer=n_layer, bos_token_id=None, eos_token_id=None)
    module = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(n_layer)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * drawn if gain else 0.6 * drawn)
    return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config)


def name_of(writer: Node, reader: Node) -> tuple[str, str]:
    source = {
        "embed": "token_embedding",
        "attn_head_out": f"L{writer.layer}H{writer.head}",
        "mlp_out": f"MLP{writer.layer}",
    }[writer.kind]
    channel = CHANNELS[reader.kind]
    if channel in ("q", "k", "v"):
        return source, f"L{reader.layer}H{reader.head}.{channel}"
    return source, f"MLP{reader.layer}" if channel == "in" else "unembedding"


@pytest.mark.parametrize("n_layer", [1, 3])
def test_eap_equals_transformer_lens_on_every_edge(n_layer: int, make_prompts):
    bridge = gpt2_bridge(n_layer)
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(1, subject.config, n=1, n_pos=8)
    theirs: dict[tuple[str, str], list[float]] = {}
    n_prompts = 4
    total = torch.zeros(len(component_edges(subject.config)))
    for seed in range(n_prompts):  # their metric knows no prompt's own position and answers
        prompts = make_prompts(seed, subject.config, n=1, n_pos=8)
        position, right, wrong = (int(x) for x in (prompts.position, prompts.answer, prompts.corrupt_answer))

        def difference(logits: torch.Tensor, at: int = position, a: int = right, b: int = wrong):
            return logits[0, at, a] - logits[0, at, b]

        result = attribution_patch(
            bridge,
            prompts.clean,
            prompts.corrupt,
            difference,
            config=EdgeAttributionConfig(granularity="edge"),
        )
        for (writer, reader), value in result.edge_scores.items():
            theirs.setdefault(name_of(writer, reader), []).append(value)
        total += EAP().score(subject, prompts, "logit_difference", "denoising").value
    compared = 0
    for i, edge in enumerate(component_edges(subject.config).edges):
        if edge.source.kind == "position_embedding":
            assert total[i] == 0
            assert (edge.source.name, edge.destination.name) not in theirs
            continue
        expected = sum(theirs.pop((edge.source.name, edge.destination.name)))
        assert float(total[i]) == pytest.approx(expected, abs=1e-4), edge.name
        compared += abs(expected) > 1e-2
    assert not theirs, "edges of theirs that our graph lacks"
    assert compared > 0.8 * len(total) * 0.7, "too few edges have any score for this to compare anything"
