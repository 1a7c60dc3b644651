"""BERT-type encoders as subjects that can be read, not run: post-norm, bidirectional, without unembedding.

    attention.self.query / key / value   W_Q, W_K, W_V and biases, one slice a head
    attention.output.dense               W_O, b_O
    attention.output.LayerNorm           ln1: stands AFTER attention's output is added to its input
    intermediate.dense / output.dense    W_in, b_in / W_out, b_out
    output.LayerNorm                     ln2: stands AFTER the MLP's output is added to its input
    (none)                               ln_final: gain one, bias zero
    (none)                               W_U = W_E transposed, b_U = 0

The embeddings need a choice. The encoder computes `LN(word[t] + position[p] + type[0])`; a subject has only
`W_E[t] + W_pos[p]`. Token type 0 goes into `W_pos`. Of the LayerNorm, its centring, gain and bias are linear
in the two and are put into them; its division by the standard deviation of each (t, p) is replaced by one
constant, the root mean square of that deviation over all tokens and positions.
"""

from jaxtyping import Float
from torch import Tensor
from transformers import BertConfig, BertModel

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.interchange.setting import ACTIVATIONS, head_width, owned, require_setting
from metamodel.subjects.subject import Subject

NOTES = (
    "A post-norm encoder without unembedding lies outside of what function readers are trained on.",
    "Weights track only, unfolded: gains of a post-norm encoder cannot be folded, and it cannot be run here.",
    "W_U is the transpose of W_E, which the encoder itself does not have; ln_final is the identity.",
    "Token type 0 is added to W_pos. Centring, gain and bias of the embedding LayerNorm are put into W_E and "
    "W_pos; its division by each input's own standard deviation is replaced by one constant. The pooler is "
    "dropped.",
)
"""What a reader must know of every subject that comes from an encoder."""


def encoder_config(config: BertConfig, name: str) -> SubjectConfig:
    """The shape of an encoder. Raises: InputError for a variant that a subject cannot express."""
    require_setting(f"{name}.is_decoder", config.is_decoder, (False,))
    require_setting(f"{name}.hidden_act", config.hidden_act, ACTIVATIONS)
    return SubjectConfig(
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        d_model=config.hidden_size,
        d_head=head_width(f"{name}.num_attention_heads", config.hidden_size, config.num_attention_heads),
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        act_fn=ACTIVATIONS[config.hidden_act],  # pyright: ignore[reportArgumentType]
        norm_position="post",
        attention_dir="bidirectional",
        eps=config.layer_norm_eps,
    )


def from_encoder(module: BertModel, *, name: str) -> Subject:
    """The readable subject of an encoder, with `NOTES`; weights are copied."""
    config = encoder_config(module.config, name)
    state = {key: owned(value) for key, value in module.state_dict().items()}
    token, position = _linear_embeddings(
        state["embeddings.word_embeddings.weight"],
        state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0],
        state["embeddings.LayerNorm.weight"],
        state["embeddings.LayerNorm.bias"],
        config.eps,
    )
    weights = {
        "embed.W_E": token,
        "pos_embed.W_pos": position,
        "ln_final.w": token.new_ones(config.d_model),
        "ln_final.b": token.new_zeros(config.d_model),
        "unembed.W_U": token.T.contiguous(),
        "unembed.b_U": token.new_zeros(config.d_vocab),
    }
    head = (config.n_heads, config.d_head)
    for layer in range(config.n_layers):
        theirs, ours = f"encoder.layer.{layer}", f"blocks.{layer}"
        for x, word in (("Q", "query"), ("K", "key"), ("V", "value")):
            matrix = state[f"{theirs}.attention.self.{word}.weight"]  # [out, in]
            weights[f"{ours}.attn.W_{x}"] = matrix.unflatten(0, head).transpose(1, 2).contiguous()
            weights[f"{ours}.attn.b_{x}"] = state[f"{theirs}.attention.self.{word}.bias"].unflatten(0, head)
        output = state[f"{theirs}.attention.output.dense.weight"]
        weights[f"{ours}.attn.W_O"] = output.T.unflatten(0, head).contiguous()
        weights[f"{ours}.attn.b_O"] = state[f"{theirs}.attention.output.dense.bias"]
        weights[f"{ours}.ln1.w"] = state[f"{theirs}.attention.output.LayerNorm.weight"]
        weights[f"{ours}.ln1.b"] = state[f"{theirs}.attention.output.LayerNorm.bias"]
        weights[f"{ours}.mlp.W_in"] = state[f"{theirs}.intermediate.dense.weight"].T.contiguous()
        weights[f"{ours}.mlp.b_in"] = state[f"{theirs}.intermediate.dense.bias"]
        weights[f"{ours}.mlp.W_out"] = state[f"{theirs}.output.dense.weight"].T.contiguous()
        weights[f"{ours}.mlp.b_out"] = state[f"{theirs}.output.dense.bias"]
        weights[f"{ours}.ln2.w"] = state[f"{theirs}.output.LayerNorm.weight"]
        weights[f"{ours}.ln2.b"] = state[f"{theirs}.output.LayerNorm.bias"]
    return Subject(config=config, weights=weights, name=name, notes=NOTES)


def _linear_embeddings(
    token: Float[Tensor, "d_vocab d_model"],
    position: Float[Tensor, "n_ctx d_model"],
    gain: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
    eps: float,
) -> tuple[Float[Tensor, "d_vocab d_model"], Float[Tensor, "n_ctx d_model"]]:
    """What of `LN(token[t] + position[p])` is a sum over t and p; the deviation is one constant.

    The mean over t and p of the variance of the sum is `mean |t|² + mean |p|² + 2 (mean t)·(mean p)`, over
    d_model, once both are centred.
    """
    token = token - token.mean(1, keepdim=True)
    position = position - position.mean(1, keepdim=True)
    squares = token.square().mean() + position.square().mean() + 2 * (token.mean(0) * position.mean(0)).mean()
    scale = gain / (squares + eps).sqrt()
    return token * scale, position * scale + bias
