"""The last MLP of a subject and what lies behind it: all that changes of its two matrices move."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import activation, layer_norm, unembed
from metamodel.subjects.subject import Subject


def last_mlp_names(config: SubjectConfig) -> tuple[str, str]:
    """Names of the last MLP's matrices, the one that reads first."""
    mlp = f"blocks.{config.n_layers - 1}.mlp"
    return f"{mlp}.W_in", f"{mlp}.W_out"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LastMlp:
    """At the answer position of some inputs."""

    subject: Subject
    middle: Float[Tensor, "example d_model"]
    """The residual stream before it."""
    read: Float[Tensor, "example d_model"]
    """The same, normed."""

    def said(self, into: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, and what W_in writes, W_out reads and W_out writes, under changes of both."""
        config, weights = self.subject.config, self.subject.weights
        mlp = f"blocks.{config.n_layers - 1}.mlp"
        before = self.read @ (weights[f"{mlp}.W_in"] + into) + weights[f"{mlp}.b_in"]
        hidden = activation(before, config.act_fn)
        written = hidden @ (weights[f"{mlp}.W_out"] + out) + weights[f"{mlp}.b_out"]
        logits = unembed(self.subject.stacked, config, (self.middle + written)[None])[0]
        return logits, before, hidden, written

    def only(self, among: Tensor) -> "LastMlp":
        """That of some examples, chosen by a mask or by index."""
        return LastMlp(subject=self.subject, middle=self.middle[among], read=self.read[among])


def last_mlp_behind(subject: Subject, middle: Float[Tensor, "example d_model"]) -> LastMlp:
    """That of a subject whose residual stream before its last MLP is known."""
    config, block = subject.config, f"blocks.{subject.config.n_layers - 1}"
    read = middle
    if config.has_norm:
        gain, bias = subject.weights[f"{block}.ln2.w"], subject.weights[f"{block}.ln2.b"]
        read = layer_norm(middle[None], gain[None], bias[None], config.eps)[0]
    return LastMlp(subject=subject, middle=middle, read=read)
