"""Small bridges of architectures that subjects cannot express, with large random weights everywhere."""

import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import nn

with warnings.catch_warnings():  # TransformerLens's own imports warn
    warnings.simplefilter("ignore")
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

SIZES = {
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 9,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}


def drawn(module: nn.Module) -> nn.Module:
    """With large random weights everywhere."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if gain else 0.5 * noise)
    return module.eval()


def bridge_of(module: nn.Module) -> TransformerBridge:
    return build_bridge_from_module(drawn(module), type(module).__name__, hf_config=module.config)


def gpt2() -> TransformerBridge:
    sizes = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20}
    return bridge_of(hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **NO_TOKENS)))


def llama(**changes) -> TransformerBridge:
    return bridge_of(hf.LlamaForCausalLM(hf.LlamaConfig(**(SIZES | {"num_key_value_heads": 3} | changes))))


def neox() -> TransformerBridge:
    return bridge_of(hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)))


def falcon() -> TransformerBridge:
    """One key head for all, blocks side by side."""
    sizes = {"vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    return bridge_of(hf.FalconForCausalLM(hf.FalconConfig(**sizes, **NO_TOKENS, multi_query=True)))


OTHERS = {
    "llama": llama,
    "llama-grouped": lambda: llama(num_attention_heads=4, num_key_value_heads=2, hidden_size=16),
    "falcon-one-key-head": falcon,
    "qwen2": lambda: bridge_of(hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES, num_key_value_heads=3))),
    "mistral": lambda: bridge_of(
        hf.MistralForCausalLM(hf.MistralConfig(**SIZES, num_key_value_heads=3, head_dim=4))
    ),
    "gpt-neox": neox,
    "gpt-j": lambda: bridge_of(
        hf.GPTJForCausalLM(
            hf.GPTJConfig(
                vocab_size=11,
                n_positions=9,
                n_embd=12,
                n_layer=2,
                n_head=3,
                n_inner=20,
                rotary_dim=2,
                **NO_TOKENS,
            )
        )
    ),
    "opt": lambda: bridge_of(
        hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=11,
                hidden_size=12,
                ffn_dim=20,
                num_hidden_layers=2,
                num_attention_heads=3,
                max_position_embeddings=9,
                word_embed_proj_dim=12,
            )
        )
    ),
    "bloom": lambda: bridge_of(
        hf.BloomForCausalLM(hf.BloomConfig(vocab_size=11, hidden_size=12, n_layer=2, n_head=3, **NO_TOKENS))
    ),
    "phi": lambda: bridge_of(hf.PhiForCausalLM(hf.PhiConfig(**SIZES))),
    "cohere": lambda: bridge_of(hf.CohereForCausalLM(hf.CohereConfig(**SIZES, logit_scale=1.0))),
    "gemma-one-key-head": lambda: bridge_of(
        hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=4))
    ),
}
