"""The shape of a subject, in TransformerLens's words, and the index of its components."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from metamodel.config.errors import InputError, require, suggestion

Kind = Literal["token_embedding", "position_embedding", "head", "mlp", "unembedding"]
KINDS: tuple[Kind, ...] = ("token_embedding", "position_embedding", "head", "mlp", "unembedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectConfig:
    """Shape of a subject. Sizes are TransformerLens's."""

    n_layers: int
    """Transformer blocks, at least 1."""
    n_heads: int
    """Attention heads in each block."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_mlp: int
    """Neurons of each MLP; 0 for an attention-only subject."""
    d_vocab: int
    """Tokens."""
    n_ctx: int
    """Positions that have an embedding."""
    act_fn: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Activation of the MLP: gelu is the exact one, gelu_new the tanh approximation of GPT-2."""
    normalization_type: Literal["LN", "none"] = "LN"
    """LayerNorm or no normalisation."""
    norm_position: Literal["pre", "post"] = "pre"
    """Where LayerNorm stands. Post-norm subjects can be read (weights track), not run."""
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    """Which positions a query may attend to."""
    eps: float = 1e-5
    """Added to the variance inside LayerNorm."""

    def __post_init__(self):
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx"):
            _check_size(name, getattr(self, name), at_least=1, do="Set a positive size.")
        _check_size("d_mlp", self.d_mlp, at_least=0, do="Set 0 for no MLP.")
        for name in ("act_fn", "normalization_type", "norm_position", "attention_dir"):
            _check_word(name, getattr(self, name))
        ok = type(self.eps) in (int, float) and 0 < self.eps < math.inf
        require(ok, "subject.eps", expected="> 0", got=repr(self.eps), do="TransformerLens uses 1e-5.")

    @property
    def has_mlp(self) -> bool:
        return self.d_mlp > 0

    @property
    def has_norm(self) -> bool:
        return self.normalization_type == "LN"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SubjectConfig":
        """Raises: InputError on an unknown or missing key."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(
                    f"subject.{key}",
                    expected="a known key",
                    got=repr(key),
                    do=f"Remove it.{suggestion(key, known)}",
                )
        needed = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        missing = sorted(needed - set(values))
        require(
            not missing, "subject", expected=f"keys {missing}", got="none of them", do="Give each of them."
        )
        return cls(**values)


_HINTS = get_type_hints(SubjectConfig)


def _check_size(name: str, value: object, *, at_least: int, do: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole, f"subject.{name}", expected="a whole number", got=repr(value), do="Set an int.")
    assert isinstance(value, int)
    require(value >= at_least, f"subject.{name}", expected=f"at least {at_least}", got=value, do=do)


def _check_word(name: str, value: object) -> None:
    """A word that the forward does not know would run as something else, without a word about it."""
    known: tuple[str, ...] = get_args(_HINTS[name])
    if value not in known:
        expected = " or ".join(map(repr, known))
        do = f"Choose one of them.{suggestion(str(value), known)}"
        raise InputError(f"subject.{name}", expected=expected, got=repr(value), do=do)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A node of a subject's computation."""

    kind: Kind
    layer: int = -1
    """Block, from 0; -1 for embeddings and unembedding."""
    head: int = -1
    """Head inside its block, from 0; -1 for whatever is not a head."""

    @property
    def name(self) -> str:
        match self.kind:
            case "head":
                return f"L{self.layer}H{self.head}"
            case "mlp":
                return f"MLP{self.layer}"
            case _:
                return self.kind


def components(config: SubjectConfig) -> tuple[Component, ...]:
    """All components in the order in which they compute.

    Token embedding, position embedding, then for each block its heads and its MLP, then the unembedding.
    Every array with a `node` axis follows this order.
    """
    found = [Component(kind="token_embedding"), Component(kind="position_embedding")]
    for layer in range(config.n_layers):
        found += [Component(kind="head", layer=layer, head=head) for head in range(config.n_heads)]
        if config.has_mlp:
            found.append(Component(kind="mlp", layer=layer))
    found.append(Component(kind="unembedding"))
    return tuple(found)


def kind_indices(config: SubjectConfig) -> list[int]:
    """Of each component, the index of its kind in `KINDS`."""
    return [KINDS.index(node.kind) for node in components(config)]


def depth_fraction(component: Component, config: SubjectConfig) -> float:
    """Depth in [0, 1]: embeddings 0, unembedding 1, blocks in between, MLPs half a block after heads."""
    match component.kind:
        case "token_embedding" | "position_embedding":
            return 0.0
        case "unembedding":
            return 1.0
        case "head":
            return (component.layer + 0.5) / (config.n_layers + 0.5)
        case "mlp":
            return (component.layer + 1.0) / (config.n_layers + 0.5)


def weight_shapes(config: SubjectConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of one subject, under TransformerLens's names."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (c.d_vocab, c.d_model),
        "pos_embed.W_pos": (c.n_ctx, c.d_model),
    }
    for layer in range(c.n_layers):
        block = f"blocks.{layer}"
        if c.has_norm:
            shapes |= {f"{block}.ln1.w": (c.d_model,), f"{block}.ln1.b": (c.d_model,)}
        for name in "QKV":
            shapes[f"{block}.attn.W_{name}"] = (c.n_heads, c.d_model, c.d_head)
            shapes[f"{block}.attn.b_{name}"] = (c.n_heads, c.d_head)
        shapes[f"{block}.attn.W_O"] = (c.n_heads, c.d_head, c.d_model)
        shapes[f"{block}.attn.b_O"] = (c.d_model,)
        if c.has_mlp:
            if c.has_norm:
                shapes |= {f"{block}.ln2.w": (c.d_model,), f"{block}.ln2.b": (c.d_model,)}
            shapes |= {
                f"{block}.mlp.W_in": (c.d_model, c.d_mlp),
                f"{block}.mlp.b_in": (c.d_mlp,),
                f"{block}.mlp.W_out": (c.d_mlp, c.d_model),
                f"{block}.mlp.b_out": (c.d_model,),
            }
    if c.has_norm:
        shapes |= {"ln_final.w": (c.d_model,), "ln_final.b": (c.d_model,)}
    shapes |= {"unembed.W_U": (c.d_model, c.d_vocab), "unembed.b_U": (c.d_vocab,)}
    return shapes
