"""A subject: one network that is read, edited or matched. Stacks of subjects are plain weight mappings."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor, nn

from metamodel.config.errors import InputError, require
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import Run, Weights, forward

if TYPE_CHECKING:
    import transformer_lens.model_bridge


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """One network: its shape and its raw weights, under TransformerLens's names and shapes.

    Raises: InputError if a weight is missing, unknown, misshapen or not finite.
    """

    config: SubjectConfig
    weights: Weights
    name: str = "subject"
    """For messages and tables."""
    notes: tuple[str, ...] = field(default=())
    """What a reader must know of how this subject came here, such as an unembedding that it lacks."""

    def __post_init__(self):
        shapes = weight_shapes(self.config)
        for key in sorted(shapes.keys() | self.weights.keys()):
            where = f"{self.name}: {key}"
            if key not in self.weights:
                raise InputError(where, expected=f"shape {shapes[key]}", got="no tensor", do="Add it.")
            if key not in shapes:
                raise InputError(where, expected="no such tensor", got="one", do="Remove it.")
            got = tuple(self.weights[key].shape)
            require(
                got == shapes[key],
                where,
                expected=f"shape {shapes[key]}",
                got=got,
                do="Check that the configuration belongs to these weights.",
            )
            require(
                bool(torch.isfinite(self.weights[key]).all()),
                where,
                expected="finite weights",
                got="nan or inf",
                do="Retrain or drop this subject.",
            )

    @property
    def stacked(self) -> dict[str, Tensor]:
        """The weights with a leading `subject` axis of length one, for the functional forward."""
        return {key: value.unsqueeze(0) for key, value in self.weights.items()}

    def run(self, tokens: Int[Tensor, "batch pos"], taps: Collection[str] = ()) -> Run:
        """Logits and taps, each with a leading `subject` axis of length one.

        Raises: InputError for tokens or positions that the subject does not embed, an unknown tap, or a
        post-norm subject.
        """
        check_tokens(self.config, tokens, where="tokens", who=self.name)
        return forward(self.stacked, self.config, tokens, taps=taps)

    def with_weights(self, weights: Weights, *, config: SubjectConfig | None = None) -> "Subject":
        return replace(self, weights=weights, config=config or self.config)

    def named(self, name: str) -> "Subject":
        return replace(self, name=name)

    def double(self) -> "Subject":
        """The same subject in float64, for laws and spectra."""
        return self.with_weights({key: value.double() for key, value in self.weights.items()})

    def to(self, device: torch.device | str) -> "Subject":
        """The same subject on another device."""
        return self.with_weights({key: value.to(device) for key, value in self.weights.items()})

    @classmethod
    def from_bridge(cls, bridge: nn.Module, *, name: str = "bridge") -> "Subject":
        """The subject that a TransformerBridge computes. Raises: InputError for what it cannot express."""
        from metamodel.subjects import interchange

        return interchange.from_bridge(bridge, name=name)

    @classmethod
    def from_transformers(cls, module: nn.Module, *, name: str = "transformers") -> "Subject":
        """The subject of a `GPT2LMHeadModel`, or of a `BertModel` for reading. Raises: InputError."""
        from metamodel.subjects import interchange

        return interchange.from_transformers(module, name=name)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "Subject":
        """A subject from a folder in transformers' format or a hub name: GPT-2, or BERT for reading."""
        from metamodel.subjects import interchange

        return interchange.from_pretrained(name_or_folder)

    def to_bridge(self) -> "transformer_lens.model_bridge.TransformerBridge":
        """A native TransformerBridge with these weights."""
        from metamodel.subjects import interchange

        return interchange.to_bridge(self)

    def to_transformers(self, folder: str | Path) -> Path:
        """Writes a GPT-2 folder that `AutoModelForCausalLM` opens. Raises: InputError where none exists."""
        from metamodel.subjects import interchange

        return interchange.to_transformers(self, folder)

    def fingerprint(self) -> str:
        """Hash of shape and weights: the identity of this subject's lineage end point."""
        digest = hashlib.sha256(repr(sorted(self.config.to_dict().items())).encode())
        for key in sorted(self.weights):
            digest.update(self.weights[key].detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def stack(subjects: Sequence[Subject]) -> dict[str, Tensor]:
    """Weights `[subject, ...]` of subjects of one shape."""
    first = subjects[0].config
    for subject in subjects:
        require(
            subject.config == first,
            f"stack: {subject.name}",
            expected=f"the shape of {subjects[0].name}",
            got="another",
            do="Group subjects by shape before stacking them.",
        )
    return {key: torch.stack([s.weights[key] for s in subjects]) for key in subjects[0].weights}


def unstack(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Weights of one subject of a stack, as copies that own their memory."""
    return {key: value[index].detach().clone() for key, value in weights.items()}


def initial_weights(
    config: SubjectConfig, generators: Sequence[torch.Generator], *, init_std: float | None = None
) -> dict[str, Tensor]:
    """Freshly initialised weights `[subject, ...]`, one generator a subject.

    Matrices are normal with standard deviation `init_std`, by default 0.8/sqrt(d_model); output matrices are
    divided by sqrt(2·n_layers) as in GPT-2. Embeddings have standard deviation 1 at any width: tokens and
    positions then stay apart while training, and induction heads grow in half the steps (smaller embeddings
    leave subjects with MLPs on the plateau before it). Biases are zero and LayerNorm gains one.
    """
    std = 0.8 / config.d_model**0.5 if init_std is None else init_std
    shapes = weight_shapes(config)

    def one(generator: torch.Generator) -> dict[str, Tensor]:
        made = {}
        for key, shape in shapes.items():
            leaf = key.rsplit(".", 1)[1]
            if leaf == "w":
                made[key] = torch.ones(shape)
            elif leaf.startswith("b"):
                made[key] = torch.zeros(shape)
            else:
                scale = std / (2 * config.n_layers) ** 0.5 if leaf in ("W_O", "W_out") else std
                scale = 1.0 if leaf in ("W_E", "W_pos") else scale
                made[key] = torch.randn(shape, generator=generator) * scale
        return made

    drawn = [one(generator) for generator in generators]
    return {key: torch.stack([weights[key] for weights in drawn]) for key in shapes}
