"""Our forward against TransformerLens: logits and every tap of a bridge that holds the same weights."""

import math
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor, nn

from metamodel.subjects import Subject, SubjectConfig, forward, weight_shapes
from metamodel.subjects.forward import destinations, layer_norm, sites

with warnings.catch_warnings():  # TransformerLens's own imports warn
    warnings.simplefilter("ignore")
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.native import boot as boot_native
    from transformer_lens.model_bridge.sources.transformers import boot as boot_transformers
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

TOLERANCE = 1e-5
SIZES = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 5, "d_vocab": 11, "n_ctx": 9}
NATIVE = [
    pytest.param(norm, act_fn, direction, id=f"{norm}-{act_fn or 'attention-only'}-{direction}")
    for norm in ("LN", "LNPre", None)
    for act_fn in ("relu", "gelu", "gelu_new", None)
    for direction in ("causal", "bidirectional")
]


def tokens() -> Tensor:
    return torch.randint(0, SIZES["d_vocab"], (4, 7), generator=torch.Generator().manual_seed(1))


def fill_randomly(module: nn.Module, seed: int = 0) -> None:
    """Every parameter, biases and gains too, so that none of them can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * drawn if gain else 0.3 * drawn)


def native_bridge(norm: str | None, act_fn: str | None, direction: str) -> TransformerBridge:
    cfg = TransformerBridgeConfig(
        **SIZES,
        d_mlp=20,
        act_fn=act_fn or "relu",
        attn_only=act_fn is None,
        normalization_type=norm,
        attention_dir=direction,
        eps=1e-4,
    )
    bridge = boot_native(cfg)
    fill_randomly(bridge.original_model)
    with torch.no_grad():  # b_U, which a native bridge holds as a buffer
        bridge.unembed.original_component.bias.copy_(torch.arange(SIZES["d_vocab"]) / 7)
    return bridge


def gpt2(**changes: object) -> GPT2LMHeadModel:
    settings = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20}
    config = GPT2Config(**(settings | {"bos_token_id": None, "eos_token_id": None} | changes))
    module = GPT2LMHeadModel(config).eval()
    fill_randomly(module)
    return module


def gpt2_bridge(**changes: object) -> TransformerBridge:
    module = gpt2(**changes)
    return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config)


def random_subject(**changes: object) -> Subject:
    config = SubjectConfig(**({**SIZES, "d_mlp": 20} | changes))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in weight_shapes(config).items():
        drawn = torch.randn(shape, generator=generator)
        weights[key] = 1 + 0.3 * drawn if key.endswith(".w") else 0.3 * drawn
    return Subject(config=config, weights=weights, name="random")


def from_hooks(
    cache: dict[str, Tensor], bridge: TransformerBridge, config: SubjectConfig
) -> dict[str, Tensor]:
    """Every site of ours, from the bridge's own hooks. It lacks or misfills three of them."""
    found = {}
    for name in sites(config):
        block, _, leaf = name.rpartition(".attn.")
        if leaf == "hook_result":
            w_o = bridge.tl_parameters()[f"{block}.attn.W_O"]
            found[name] = torch.einsum("bphd,hdm->bphm", cache[f"{block}.attn.hook_z"], w_o)
        elif leaf == "hook_attn_scores":  # a native bridge puts the pattern under this name
            q, k = cache[f"{block}.attn.hook_q"], cache[f"{block}.attn.hook_k"]
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(config.d_head)
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            found[name] = (
                scores.masked_fill(future, -torch.inf) if config.attention_dir == "causal" else scores
            )
        elif name.endswith("hook_resid_mid") and not config.has_mlp:
            found[name] = cache[name.replace("resid_mid", "resid_post")]
        else:
            found[name] = cache[name]
    return found


def assert_same_computation(subject: Subject, bridge: TransformerBridge) -> None:
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(tokens())
        run = subject.run(tokens(), taps=sites(subject.config))
        expected = from_hooks(cache, bridge, subject.config)
    torch.testing.assert_close(run.logits[0], logits, atol=TOLERANCE, rtol=0)
    assert run.taps.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            run.taps[name][0], value, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("norm", "act_fn", "direction"), NATIVE)
def test_logits_and_taps_equal_a_native_bridge(norm: str | None, act_fn: str | None, direction: str):
    bridge = native_bridge(norm, act_fn, direction)
    assert_same_computation(Subject.from_bridge(bridge), bridge)


@pytest.mark.parametrize("act_fn", ["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_taps_equal_a_gpt2_bridge(act_fn: str, tied: bool):
    bridge = gpt2_bridge(activation_function=act_fn, tie_word_embeddings=tied, layer_norm_epsilon=1e-4)
    subject = Subject.from_bridge(bridge)
    assert_same_computation(subject, bridge)
    tie = torch.equal(subject.weights["unembed.W_U"], subject.weights["embed.W_E"].T)
    assert tie is tied


def test_the_scores_that_a_gpt2_bridge_reports_equal_ours_where_a_query_may_look():
    bridge = gpt2_bridge()
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens())
    name = "blocks.1.attn.hook_attn_scores"
    ours = Subject.from_bridge(bridge).run(tokens(), [name]).taps[name][0]
    seen = ours > -torch.inf
    assert seen.any()
    torch.testing.assert_close(ours[seen], cache[name][seen], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("norm", ["LN", "none"])
@pytest.mark.parametrize("d_mlp", [0, 20])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_subject_comes_back_from_a_bridge_bit_by_bit(norm: str, d_mlp: int, direction: str):
    subject = random_subject(normalization_type=norm, d_mlp=d_mlp, attention_dir=direction, eps=1e-4)
    bridge = subject.to_bridge()
    assert_same_computation(subject, bridge)
    back = Subject.from_bridge(bridge, name="random")
    assert back.config == subject.config
    assert back.fingerprint() == subject.fingerprint()


def test_a_bridge_keeps_double_precision_and_owns_its_weights():
    subject = random_subject().double()
    bridge = subject.to_bridge()
    logits = subject.run(tokens()).logits[0]
    torch.testing.assert_close(bridge(tokens()).detach(), logits, atol=1e-12, rtol=0)
    before = subject.fingerprint()
    with torch.no_grad():
        for parameter in bridge.original_model.parameters():
            parameter.add_(1.0)
    assert subject.fingerprint() == before
    back = Subject.from_bridge(bridge)
    assert back.fingerprint() != before
    with torch.no_grad():
        bridge.embed.weight.zero_()
    assert bool(back.weights["embed.W_E"].any())


@pytest.mark.parametrize("d_mlp", [0, 20])
@pytest.mark.parametrize("act_fn", ["relu", "gelu", "gelu_new"])
def test_a_gpt2_folder_opens_in_transformers_and_in_transformer_lens(tmp_path, d_mlp: int, act_fn: str):
    changes = {"d_mlp": d_mlp, "act_fn": act_fn if d_mlp else "relu", "d_head": 4, "eps": 1e-4}
    subject = random_subject(**changes)
    delta = torch.randn(12, generator=torch.Generator().manual_seed(4))
    absorbed = delta @ subject.weights["unembed.W_U"]  # a b_U that the last LayerNorm's bias can stand for
    subject = subject.with_weights({**subject.weights, "unembed.b_U": absorbed})
    folder = subject.to_transformers(tmp_path / "gpt2")
    expected = subject.run(tokens()).logits[0]
    module = AutoModelForCausalLM.from_pretrained(folder)
    assert module.config.tie_word_embeddings is False
    with torch.no_grad():
        torch.testing.assert_close(module(tokens()).logits, expected, atol=TOLERANCE, rtol=0)
        bridge = boot_transformers(str(folder), device="cpu")
        torch.testing.assert_close(bridge(tokens()), expected, atol=TOLERANCE, rtol=0)
    for back in (Subject.from_bridge(bridge), Subject.from_pretrained(folder)):
        assert back.config == subject.config
        torch.testing.assert_close(back.run(tokens()).logits[0], expected, atol=TOLERANCE, rtol=0)


def test_folding_and_centring_of_a_bridge_are_refused_since_subjects_are_stored_raw():
    bridge = native_bridge("LN", "gelu", "causal")
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="expected raw weights") as caught:
        Subject.from_bridge(bridge, name="folded")
    assert str(caught.value) == (
        "folded: expected raw weights, got weights that compatibility mode has folded and centred. "
        "Boot the bridge again without enable_compatibility_mode(); subjects are stored raw."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalization_type": "RMS"}, "normalization_type: expected 'LN' or 'LNPRE' or None, got 'RMS'."),
        ({"final_rms": True}, "final_rms: expected False, got True."),
        (
            {"positional_embedding_type": "rotary"},
            "positional_embedding_type: expected 'standard', got 'rotary'.",
        ),
        ({"gated_mlp": True}, "gated_mlp: expected False, got True."),
        ({"n_key_value_heads": 2}, "n_key_value_heads: expected 4, got 2."),
        ({"act_fn": "solu_ln"}, "act_fn: expected 'relu' or 'gelu' or 'gelu_new', got 'solu_ln'."),
        ({"d_vocab_out": 5}, "d_vocab_out: expected 11, got 5."),
        ({"output_logits_soft_cap": 30.0}, "output_logits_soft_cap: expected no soft cap, got 30.0."),
        ({"attn_scores_soft_cap": 50.0}, "attn_scores_soft_cap: expected no soft cap, got 50.0."),
        ({"attn_scale": 3.0}, "attn_scale: expected the square root of d_head, got 3.0."),
    ],
)
def test_a_bridge_that_a_subject_cannot_express_is_refused_by_the_name_of_the_setting(changes, said: str):
    bridge = boot_native(
        TransformerBridgeConfig(**(SIZES | {"n_heads": 4, "d_head": 4, "d_mlp": 20} | changes), seed=0)
    )
    with pytest.raises(ValueError, match="expected") as caught:
        Subject.from_bridge(bridge, name="it")
    assert str(caught.value).startswith(f"it.{said} ")
    assert "\n" not in str(caught.value)


def test_zero_addends_at_every_destination_change_nothing():
    for norm in ("LN", "none"):
        subject = random_subject(normalization_type=norm)
        config, zeros = subject.config, {}
        for name in destinations(config):
            heads = (config.n_heads,) if name.endswith("_input") else ()
            zeros[name] = torch.zeros(1, *tokens().shape, *heads, config.d_model)
        plain = subject.run(tokens(), sites(config))
        split = forward(subject.stacked, config, tokens(), taps=sites(config), addends=zeros)
        torch.testing.assert_close(split.logits, plain.logits, atol=TOLERANCE, rtol=0)
        for name in sites(config):
            torch.testing.assert_close(split.taps[name], plain.taps[name], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("read", ["q", "k", "v"])
def test_an_addend_at_one_input_of_one_head_moves_that_input_of_that_head_only(read: str):
    subject = random_subject()
    config, w, layer, head = subject.config, subject.weights, 1, 2
    addend = torch.zeros(1, *tokens().shape, config.n_heads, config.d_model)
    addend[:, :, 3, head] = torch.randn(config.d_model, generator=torch.Generator().manual_seed(2))
    plain = subject.run(tokens(), sites(config))
    addends = {f"blocks.{layer}.hook_{read}_input": addend}
    moved = forward(subject.stacked, config, tokens(), taps=sites(config), addends=addends)

    attn = f"blocks.{layer}.attn"
    for other in "qkv":
        change = (moved.taps[f"{attn}.hook_{other}"] - plain.taps[f"{attn}.hook_{other}"]).abs()
        if other == read:
            assert change[:, :, 3, head].max() > 0.1
            change[:, :, 3, head] = 0
        assert change.max() < TOLERANCE
    own = plain.taps[f"blocks.{layer}.hook_resid_pre"][:, :, 3] + addend[:, :, 3, head]
    normed = layer_norm(own, w[f"blocks.{layer}.ln1.w"][None], w[f"blocks.{layer}.ln1.b"][None], config.eps)
    by_hand = normed @ w[f"{attn}.W_{read.upper()}"][head] + w[f"{attn}.b_{read.upper()}"][head]
    torch.testing.assert_close(
        moved.taps[f"{attn}.hook_{read}"][:, :, 3, head], by_hand, atol=TOLERANCE, rtol=0
    )
    change = (moved.taps[f"{attn}.hook_result"] - plain.taps[f"{attn}.hook_result"]).abs()
    assert change[:, :, 3:, head].max() > 1e-3
    change[:, :, 3:, head] = 0  # causal: earlier positions cannot see position 3
    assert change.max() < TOLERANCE
    before = f"blocks.{layer}.hook_resid_pre"
    torch.testing.assert_close(moved.taps[before], plain.taps[before], atol=0, rtol=0)


def test_addends_at_the_mlp_and_at_the_unembedding_are_read_there_alone():
    subject = random_subject()
    config = subject.config
    addend = 0.5 * torch.randn(1, *tokens().shape, config.d_model, generator=torch.Generator().manual_seed(3))
    plain = subject.run(tokens(), sites(config))
    at_mlp = forward(
        subject.stacked, config, tokens(), taps=sites(config), addends={"blocks.1.hook_mlp_in": addend}
    )
    for name in sites(config):
        after = name.startswith(
            ("blocks.1.mlp", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", "ln_final")
        )
        assert ((at_mlp.taps[name] - plain.taps[name]).nan_to_num().abs().max() > 1e-3) == after, name
    moved = at_mlp.taps["blocks.1.hook_resid_post"] - plain.taps["blocks.1.hook_resid_post"]
    written = at_mlp.taps["blocks.1.hook_mlp_out"] - plain.taps["blocks.1.hook_mlp_out"]
    torch.testing.assert_close(moved, written, atol=TOLERANCE, rtol=0)  # the addend itself does not travel on
    at_end = forward(
        subject.stacked, config, tokens(), taps=sites(config), addends={"hook_unembed_in": addend}
    )
    assert (at_end.logits - plain.logits).abs().max() > 1e-3
    for name in sites(config):
        if not name.startswith("ln_final"):
            torch.testing.assert_close(at_end.taps[name], plain.taps[name], atol=0, rtol=0)
