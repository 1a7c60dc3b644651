"""Bridges of other architectures through hooks: against our own sweep, and against hooks set by hand."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from metamodel.circuits import (
    ACDC,
    EAP,
    EAPIG,
    METHODS,
    Exact,
    RandomSubsets,
    component_edges,
    discover,
    principal_directions,
    score,
)
from metamodel.circuits.base_run import INTERVENTIONS
from metamodel.config import InputError
from metamodel.subjects import Subject
from metamodel.subjects.interchange import hooked
from tests.reference.bridges import NO_TOKENS, OTHERS, SIZES, bridge_of, drawn, gpt2, llama

with warnings.catch_warnings():  # TransformerLens's own imports warn
    warnings.simplefilter("ignore")
    import transformers as hf
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.native import boot as boot_native

PLAIN = {name: OTHERS[name] for name in ("llama", "qwen2", "mistral", "gpt-neox")}
"""Each head has keys and values of its own, and the MLP a norm of its own."""


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"weight_norm"}))
def test_hooks_give_a_gpt2_bridge_the_scores_of_its_subject(method, intervention, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(1, subject.config, n_pos=8, targets=intervention == "mean")
    metric = "kl" if intervention == "denoising" else "margin"
    ours = score(subject, prompts, metric, intervention, method=method)
    theirs = score(hooked(bridge), prompts, metric, intervention, method=method)
    assert theirs.edges.edges == ours.edges.edges
    torch.testing.assert_close(theirs.value, ours.value, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.se, ours.se, atol=1e-4, rtol=0, equal_nan=True)
    assert theirs.base == pytest.approx(ours.base, abs=1e-4)
    assert (ours.value.abs() > 1e-2).float().mean() > 0.1


@pytest.mark.parametrize("method", [Exact, EAP, EAPIG, ACDC, RandomSubsets])
def test_frozen_norms_of_a_gpt2_bridge_are_those_of_its_subject(method, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(1, subject.config, n_pos=8)
    before = bridge(prompts.clean)
    ours, theirs = (score(x, prompts, method=method(freeze_norm=True)) for x in (subject, hooked(bridge)))
    torch.testing.assert_close(theirs.value, ours.value, atol=1e-4, rtol=0)
    assert (score(subject, prompts, method=method()).value - ours.value).abs().max() > 1e-2
    assert torch.equal(before, bridge(prompts.clean)), "no hook stays behind"


@pytest.mark.parametrize("freeze_norm", [False, True])
def test_heads_that_are_forked_here_are_those_that_transformer_lens_forks(freeze_norm, make_prompts):
    theirs = hooked(gpt2())
    ours = dataclasses.replace(theirs, forks=False)
    assert theirs.forks
    prompts = make_prompts(15, theirs.config, n_pos=8)
    for intervention in INTERVENTIONS:
        for method in (Exact, EAPIG, RandomSubsets):
            chosen = method(freeze_norm=freeze_norm)
            mine, other = (
                score(x, prompts, intervention=intervention, method=chosen) for x in (ours, theirs)
            )
            torch.testing.assert_close(mine.value, other.value, atol=1e-4, rtol=0)


WITHOUT_FORKS = {
    "gpt-j": OTHERS["gpt-j"],
    "opt": OTHERS["opt"],
    "bloom": OTHERS["bloom"],
    "gpt-neo": lambda: bridge_of(
        hf.GPTNeoForCausalLM(
            hf.GPTNeoConfig(
                vocab_size=11,
                max_position_embeddings=9,
                hidden_size=12,
                num_layers=2,
                num_heads=3,
                intermediate_size=20,
                attention_types=[[["global", "local"], 1]],
                **NO_TOKENS,
            )
        )
    ),
    "mpt": lambda: bridge_of(
        hf.MptForCausalLM(
            hf.MptConfig(vocab_size=11, d_model=12, n_layers=2, n_heads=3, max_seq_len=9, expansion_ratio=2)
        )
    ),
    "codegen": lambda: bridge_of(
        hf.CodeGenForCausalLM(
            hf.CodeGenConfig(
                vocab_size=11, n_positions=9, n_embd=16, n_layer=2, n_head=4, rotary_dim=2, **NO_TOKENS
            )
        )
    ),
}


@pytest.mark.parametrize("make", WITHOUT_FORKS.values(), ids=WITHOUT_FORKS)
def test_heads_are_forked_here_where_transformer_lens_does_not(make):
    assert not hooked(make()).forks


def test_a_bridge_is_a_subject_where_it_can_be(make_prompts):
    bridge = gpt2()
    prompts = make_prompts(1, Subject.from_bridge(bridge).config, n_pos=8)
    assert score(bridge, prompts).forwards == score(Subject.from_bridge(bridge), prompts).forwards
    assert score(hooked(bridge), prompts).forwards > score(bridge, prompts).forwards


@pytest.mark.parametrize("intervention", ["noising", "zero"])
def test_hooks_find_the_circuit_that_the_subject_has(intervention, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(3, subject.config, n_pos=8)
    ours, theirs = (
        discover(x, prompts, metric="kl", intervention=intervention) for x in (subject, hooked(bridge))
    )
    assert torch.equal(ours.kept, theirs.kept)
    assert 1 < len(ours) < len(ours.scores)
    assert theirs.curve.sizes == ours.curve.sizes
    for name in ("recovered", "complement", "kl_median", "kl_high"):
        mine, other = getattr(ours.curve, name), getattr(theirs.curve, name)
        torch.testing.assert_close(other, mine, atol=1e-3, rtol=1e-3)
    assert torch.equal(theirs.redundancy.edge, ours.redundancy.edge)


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_an_edge_is_patched_where_a_hook_set_by_hand_would(make, make_prompts):
    """One edge of each kind: added to what that one head, MLP or unembedding reads."""
    bridge = make()
    whole = hooked(bridge)
    config, parallel = whole.config, whole.parallel
    prompts = make_prompts(2, config, n_pos=8)
    clean, corrupt = (whole.record(tokens).outputs.detach() for tokens in (prompts.clean, prompts.corrupt))
    edges, rows = component_edges(config), torch.arange(len(prompts))
    scores = score(bridge, prompts, "logit_difference")
    change = corrupt - clean

    def by_hand(hook_name: str, source: int, head: int | None) -> float:
        def patch(value, hook):
            value = value.clone()
            if head is None:
                value += change[source]
            else:
                value[:, :, head] += change[source]
            return value

        def difference(logits: torch.Tensor) -> torch.Tensor:
            answered = logits[rows, prompts.position]
            return answered[rows, prompts.answer] - answered[rows, prompts.corrupt_answer]

        for flag in ("attn_result", "split_qkv_input", "hook_mlp_in"):
            getattr(bridge, f"set_use_{flag}")(True)
        with torch.no_grad(), bridge.hooks(fwd_hooks=[(hook_name, patch)]):
            patched = difference(bridge(prompts.clean))
        return float((patched - difference(bridge(prompts.clean).detach())).mean())

    names = [edge.name for edge in edges.edges]
    expected = {
        "token_embedding->L0H1.v": ("blocks.0.attn.hook_v_input", 0, 1),
        "L0H2->L1H0.q": ("blocks.1.attn.hook_q_input", 4, 0),
        "MLP0->L1H2.k": ("blocks.1.attn.hook_k_input", 5, 2),
        "L0H0->MLP1": ("blocks.1.hook_mlp_in", 2, None),
        "L0H0->MLP0": ("blocks.0.hook_mlp_in", 2, None),
        "L1H1->unembedding": ("blocks.1.hook_resid_post", 7, None),
    }
    for name, place in expected.items():
        value = 0.0 if parallel and name == "L0H0->MLP0" else by_hand(*place)
        assert float(scores.value[names.index(name)]) == pytest.approx(value, abs=1e-5), name
        assert value == 0.0 or abs(value) > 1e-4
    silent = torch.tensor([edge.source.kind == "position_embedding" for edge in edges.edges])
    assert (scores.value[silent] == 0).all()


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_patching_all_that_leaves_the_embeddings_gives_the_corrupt_run(make, make_prompts):
    """The direct paths of every destination at once, sources recomputed: nothing of the clean run is left."""
    bridge = make()
    whole = hooked(bridge)
    with torch.no_grad():
        prompts = make_prompts(3, whole.config, n_pos=8)
        clean = whole.record(prompts.clean)
        corrupt = whole.record(prompts.corrupt)
        change = corrupt.outputs[0] - clean.outputs[0]
        changes = {}
        for destination in component_edges(whole.config).destinations:
            heads = destination.component.kind == "head"
            changes[destination.site] = lambda x, heads=heads: x + (change.unsqueeze(2) if heads else change)
        patched = whole.run(prompts.clean, changes)
        torch.testing.assert_close(patched, corrupt.logits, atol=1e-4, rtol=0)
        del changes["hook_unembed_in"]
        assert (whole.run(prompts.clean, changes) - corrupt.logits).abs().max() > 1e-2


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_integrated_gradients_of_other_architectures_are_complete(make, make_prompts):
    bridge = make()
    prompts = make_prompts(4, hooked(bridge).config, n=3, n_pos=8)
    rows = torch.arange(len(prompts))
    # Rotary networks have no other embedding: the patched run is the corrupt one, asked for the clean answer.
    logits = bridge(prompts.corrupt).detach()[rows, prompts.position]
    patched = (logits[rows, prompts.answer] - logits[rows, prompts.corrupt_answer]).mean()
    scores = score(bridge, prompts, "logit_difference", method=EAPIG(steps=4000))
    source = torch.tensor(scores.edges.source_node)
    truth = float(patched) - scores.base
    assert float(scores.value[source == 0].sum()) == pytest.approx(truth, abs=1e-2 * abs(truth))
    plain = score(bridge, prompts, "logit_difference", method="eap").value[source == 0].sum()
    assert abs(float(plain) - truth) > 0.05 * abs(truth)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_frozen_norms_of_any_architecture_are_linear(make, make_prompts):
    """With every norm at the scale of the run, twice the change of what it reads is twice what it says."""
    bridge = make()
    whole = hooked(bridge)
    tokens = make_prompts(10, whole.config, n_pos=8).clean
    scales = whole.record(tokens).scales
    change = torch.randn(whole.config.d_model, generator=torch.Generator().manual_seed(1))
    sites = {"hook_mlp_in": "blocks.1.mlp.in.hook_in", "hook_v_input": "blocks.1.attn.o.hook_in"}
    said = {}

    def noting(value, hook):
        said["here"] = value.detach()

    def at(site: str, size: float, frozen: dict | None) -> torch.Tensor:
        with torch.no_grad(), bridge.hooks(fwd_hooks=[(sites[site], noting)]):
            whole.run(tokens, {f"blocks.1.{site}": lambda x: x + size * change}, scales=frozen)
        return said["here"]

    for site in sites:
        for frozen, linear in ((scales, True), (None, False)):
            none, once, twice = (at(site, size, frozen) for size in (0.0, 1.0, 2.0))
            off = float((twice - 2 * once + none).norm() / (once - none).norm())
            assert (off < 1e-4) == linear, (site, off)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_zero_ablation_does_not_see_where_a_value_bias_lies(make, make_prompts):
    """Moved from a head's values into the attention's output bias, it changes no logit and no score."""
    bridge = make()
    attn, config = bridge.blocks[1].attn, hooked(bridge).config
    value, out = attn.v.original_component, attn.o.original_component
    if value.bias is None or out.bias is None:
        pytest.skip("no bias to move")
    prompts = make_prompts(11, config, n_pos=8)
    before, logits = score(bridge, prompts, intervention="zero").value, bridge(prompts.clean)
    with torch.no_grad():
        by_head = value.bias.unflatten(0, (-1, config.d_head))
        by_query = by_head.repeat_interleave(config.n_heads // len(by_head), 0).flatten()
        out.bias += out.weight @ by_query
        value.bias.zero_()
    torch.testing.assert_close(bridge(prompts.clean), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(score(bridge, prompts, intervention="zero").value, before, atol=1e-4, rtol=0)
    assert before.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llama-grouped", "phi"])
def test_a_bridge_in_bfloat16_is_scored_in_float32(name, make_prompts):
    bridge = OTHERS[name]()
    whole = hooked(bridge)
    prompts = make_prompts(12, whole.config, n_pos=8)
    exact = score(bridge, prompts, "logit_difference").value
    bridge.to(torch.bfloat16)
    rounded = score(whole, prompts, "logit_difference")
    assert rounded.value.dtype == rounded.se.dtype == torch.float32
    assert torch.corrcoef(torch.stack([rounded.value, exact]))[0, 1] > 0.98
    assert len(discover(whole, prompts, metric="kl", n_edges=5)) >= 5
    principal_directions(whole, component_edges(whole.config).sources[2], prompts, 2)


def test_edges_that_an_architecture_lacks_are_in_no_circuit(make_prompts):
    bridge = OTHERS["gpt-neox"]()
    prompts = make_prompts(13, hooked(bridge).config, n_pos=8)
    beside = [f"L{layer}H{head}->MLP{layer}" for layer in range(2) for head in range(3)]
    scores = score(bridge, prompts, method="subsets")
    names = [edge.name for edge in scores.edges.edges]
    assert all(float(scores.value[names.index(name)]) == 0 for name in beside)
    everything = discover(bridge, prompts, metric="kl", n_edges=len(names))
    assert not {edge.name for edge in everything.members} & set(beside)
    assert len(everything) > 60


def test_what_fails_inside_a_run_leaves_the_bridge_as_it_was(make_prompts):
    bridge = OTHERS["llama-grouped"]()
    whole = hooked(bridge)
    prompts = make_prompts(14, whole.config, n_pos=8)
    before = bridge(prompts.clean)

    def broken(value: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    scales = whole.record(prompts.clean).scales
    with pytest.raises(RuntimeError, match="broken"):
        whole.run(prompts.clean, {"blocks.1.hook_q_input": broken}, scales=scales)
    assert torch.equal(bridge(prompts.clean), before)
    assert bridge.cfg.n_key_value_heads == 2
    assert not bridge.cfg.use_split_qkv_input


def test_flags_come_back_as_they_were(make_prompts):
    bridge = gpt2()
    bridge.set_use_attn_in(True)
    prompts = make_prompts(5, Subject.from_bridge(bridge).config)
    score(hooked(bridge), prompts, method="eap")
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in")
    assert [getattr(bridge.cfg, flag) for flag in flags] == [False, False, False, True]
    assert all(parameter.grad is None for parameter in bridge.parameters())


def test_query_heads_of_one_group_read_keys_and_values_of_their_own(make_prompts):
    """Against the same network with the shared matrices written out, which has no groups."""
    sizes = SIZES | {"num_attention_heads": 4, "hidden_size": 16}
    grouped, written_out = (
        hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_key_value_heads=n)).eval() for n in (2, 4)
    )
    state = dict(drawn(grouped).state_dict())
    for key, value in state.items():
        if "k_proj" in key or "v_proj" in key:
            state[key] = value.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    written_out.load_state_dict(state)
    grouped, whole = (
        build_bridge_from_module(x, "LlamaForCausalLM", hf_config=x.config) for x in (grouped, written_out)
    )
    prompts = make_prompts(9, hooked(whole).config, n_pos=8)
    for intervention in INTERVENTIONS:
        ours, theirs = (score(x, prompts, intervention=intervention) for x in (grouped, whole))
        torch.testing.assert_close(ours.value, theirs.value, atol=1e-5, rtol=0)
    names = [edge.name for edge in ours.edges.edges]
    one, two = (float(ours.value[names.index(f"token_embedding->L1H{head}.v")]) for head in (0, 1))
    assert abs(one - two) > 1e-3, "heads of one group differ"
    shapes = [block.attn.k.original_component.weight.shape for block in grouped.blocks]
    assert shapes == [(8, 16)] * 2, "the bridge is as it was"
    assert grouped.cfg.n_key_value_heads == 2


def gemma2() -> TransformerBridge:
    config = hf.Gemma2Config(**SIZES, num_key_value_heads=3, head_dim=4)
    return bridge_of(hf.Gemma2ForCausalLM(config))


def t5() -> TransformerBridge:
    config = hf.T5Config(vocab_size=11, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    return bridge_of(hf.T5ForConditionalGeneration(config))


def native() -> TransformerBridge:
    return boot_native(
        TransformerBridgeConfig(
            n_layers=1, n_heads=2, d_model=4, d_head=2, d_vocab=9, n_ctx=9, act_fn="relu", seed=0
        )
    )


_ADD = "Choose a network whose blocks add what heads and MLPs write to the residual stream as it is."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: bridge_of(hf.OlmoeForCausalLM(hf.OlmoeConfig(**SIZES, num_key_value_heads=1))),
            "bridge.blocks.0.attn.k_norm: expected a norm of each key head by itself, with one gain for all, "
            "got one across heads, or with a gain for each head. Choose a network without grouped-query "
            "attention.",
        ),
        (
            gemma2,
            "bridge.blocks.0.ln1_post: expected no norm behind attention or MLP (pre-norm blocks), got one. "
            + _ADD,
        ),
        (
            native,
            "bridge.architecture: expected one with hooks at what heads read and write, got "
            "'TransformerLensNative'. Use Subject.from_bridge.",
        ),
        (
            lambda: llama().train(),
            "bridge.training: expected False, since dropout would differ between runs, got True. "
            "Call bridge.eval().",
        ),
        (
            t5,
            "bridge: expected a decoder of blocks with a norm at its end, got 'T5ForConditionalGeneration'. "
            + _ADD,
        ),
        (
            lambda: nn.Linear(2, 2),
            "bridge: expected a TransformerBridge, got Linear. Use TransformerBridge.boot_transformers, or "
            "build_bridge_from_module.",
        ),
    ],
    ids=["norm across key heads", "post-norm", "native", "training", "two stacks", "no bridge"],
)
def test_a_bridge_that_hooks_cannot_express_is_refused_by_the_name_of_the_setting(make, message):
    with pytest.raises(InputError) as caught:
        hooked(make())
    assert str(caught.value) == message


def test_a_stream_that_is_not_the_sum_of_what_is_written_is_refused(make_prompts):
    """A norm that no name betrays: here the first block's output is normalised by a hook."""
    bridge = gpt2()
    prompts = make_prompts(7, Subject.from_bridge(bridge).config)
    scaled = [("blocks.0.hook_resid_post", lambda x, hook: x / x.norm(dim=-1, keepdim=True))]
    with bridge.hooks(fwd_hooks=scaled), pytest.raises(InputError) as caught:
        score(hooked(bridge), prompts)
    assert str(caught.value).startswith(
        "bridge.blocks.0.hook_resid_post: expected the sum of what embeddings, heads and MLPs write before it"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "weight_norm"},
            "method: expected one that runs the network, for a bridge whose weights are not a subject's, got "
            "'weight_norm'. Choose another method.",
        ),
        (
            {"method": "eap", "metric": "kl"},
            "metric: expected one whose gradient is not zero in the clean run, for eap under noising, got "
            "'kl', which is at its minimum there. Use another metric, denoising, or EAP-IG.",
        ),
        (
            {"method": "eap", "metric": "accuracy"},
            "metric: expected one that has a gradient, for eap, got 'accuracy'. Use margin, which is "
            "positive where the answer is right, or the exact sweep.",
        ),
    ],
)
def test_what_hooks_cannot_score_is_refused(arguments, message, make_prompts):
    bridge = gpt2()
    with pytest.raises(InputError) as caught:
        score(hooked(bridge), make_prompts(8, Subject.from_bridge(bridge).config), **arguments)
    assert str(caught.value) == message
