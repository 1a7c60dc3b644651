"""The end of a subject: what lies behind everything but its last writing matrix and its unembedding.

Methods that change only these run a subject once and then work on vectors at the answer position.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.features.observed import last_writer
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward, unembed
from metamodel.subjects.subject import Subject


def writer_bias(config: SubjectConfig) -> str:
    """Name of the bias beside the last matrix that writes."""
    return last_writer(config).replace(".W_out", ".b_out").replace(".W_O", ".b_O")


def suffix_names(config: SubjectConfig) -> tuple[str, ...]:
    """Weights whose change moves nothing before the suffix."""
    return last_writer(config), writer_bias(config), "unembed.W_U", "unembed.b_U"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suffix:
    """One subject at the answer positions of some inputs."""

    subject: Subject
    hidden: Float[Tensor, "example unit"]
    """What the last writing matrix reads: neurons, or the heads' values."""
    before: Float[Tensor, "example d_model"]
    """The residual stream without what that matrix writes."""
    stream: Float[Tensor, "example d_model"]
    """The residual stream with it."""

    def only(self, among: Tensor) -> "Suffix":
        """That of some examples, chosen by a mask or by index."""
        return Suffix(
            subject=self.subject,
            hidden=self.hidden[among],
            before=self.before[among],
            stream=self.stream[among],
        )

    @property
    def read(self) -> Float[Tensor, "example d_model"]:
        """What the unembedding reads: the stream, normed."""
        return self.normed(self.stream)

    def normed(self, stream: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """A stream after the final norm."""
        config, weights = self.subject.config, self.subject.weights
        if not config.has_norm:
            return stream
        w, b = weights["ln_final.w"], weights["ln_final.b"]
        return torch.nn.functional.layer_norm(stream, stream.shape[-1:], w, b, config.eps)

    def logits(self, change: Tensor | None = None) -> Float[Tensor, "example d_vocab"]:
        """What is said with `change` `[unit, d_model]` added to the last writing matrix."""
        stream = self.stream if change is None else self.stream + self.hidden @ change
        return self.said(stream)

    def said(self, stream: Float[Tensor, "example d_model"]) -> Float[Tensor, "example d_vocab"]:
        """What is said of another stream."""
        return unembed(self.subject.stacked, self.subject.config, stream[None])[0]

    def written(self, change: Float[Tensor, "unit d_model"]) -> dict[str, Tensor]:
        """A change of the last writing matrix, in its own shape."""
        name = last_writer(self.subject.config)
        return {name: change.reshape(self.subject.weights[name].shape)}

    def with_weights(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "setting example d_vocab"]:
        """What is said under other weights `[setting, ...]` of `suffix_names`; others are not looked at."""
        config = self.subject.config
        matrix = weights[last_writer(config)].flatten(1, -2)
        written = self.hidden @ matrix + weights[writer_bias(config)][:, None]
        return unembed(weights, config, self.before + written)


@torch.no_grad()
def suffix(subject: Subject, tokens: Int[Tensor, "example pos"], position: Int[Tensor, " example"]) -> Suffix:
    """Runs a subject once."""
    config = subject.config
    block = f"blocks.{config.n_layers - 1}"
    reads = f"{block}.mlp.hook_post" if config.has_mlp else f"{block}.attn.hook_z"
    before = f"{block}.hook_resid_mid" if config.has_mlp else f"{block}.hook_resid_pre"
    after = f"{block}.hook_resid_post"
    run = forward(subject.stacked, config, tokens, taps=[reads, before, after])
    rows = torch.arange(len(tokens)), position
    return Suffix(
        subject=subject,
        hidden=run.taps[reads][0].flatten(2)[rows],
        before=run.taps[before][0][rows],
        stream=run.taps[after][0][rows],
    )
