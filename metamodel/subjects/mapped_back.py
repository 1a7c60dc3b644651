"""Carries a change that was made in canonical form back to the weights as they are stored.

An editor works on the canonical form, so that no gauge of a subject moves the effect of an edit; what it
returns must be added to the raw weights. For every change ΔW of the canonical form this finds the change of
the raw weights that does the same to the logits, from the maps between the two forms.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.canonical import canonical, folded, whitening
from metamodel.subjects.subject import Subject

EDITABLE = ("W_E", "W_pos", "W_O", "W_in", "W_out", "W_U", "b_O", "b_in", "b_out", "b_U")
"""Leaves that can be carried back."""
SMALLEST_GAIN = 1e-4
"""Of a LayerNorm in front of a matrix that is changed: below it nothing that is written is read."""


def mapped_back(
    subject: Subject, changes: Mapping[str, Tensor], *, form: Subject | None = None
) -> dict[str, Tensor]:
    """Changes of the raw weights that do what `changes` do to the canonical form.

    Args:
        subject: as it is stored, pre-norm.
        changes: by weight name, in the shapes of the weights; leaves of `EDITABLE`.
        form: the form of which they are changes, if it is another one in the canonical form's basis of the
            residual stream: the editing form.

    Returns: changes in the dtype of the weights; those of `W_O` come with one of `b_O`, since values have
        biases in the raw form only.

    Raises: InputError if a gain is too near zero for what its reader is to read.
    """
    raw, whole = subject.double(), folded(subject.double())
    form = canonical(raw) if form is None else form
    weights, config = raw.weights, raw.config
    eye = torch.eye(config.d_model, dtype=torch.float64, device=weights["embed.W_E"].device)
    write, read = (eye, eye) if config.has_norm else whitening(whole)[:2]
    found: dict[str, Tensor] = {}
    for key, value in changes.items():
        block, leaf = key.rsplit(".", 1)
        assert leaf in EDITABLE, f"a change of {key} cannot be carried back"
        change = value.double()
        if leaf in ("W_E", "W_pos", "b_O", "b_out"):
            _add(found, key, change @ read)
        elif leaf == "W_out":
            scale = _neuron_scale(whole, form, block)
            _add(found, key, scale[:, None] * change @ read)
        elif leaf in ("W_in", "b_in"):
            scale = _neuron_scale(whole, form, block)
            gain = _gain(raw, f"{block.removesuffix('.mlp')}.ln2")
            _add(found, key, change / scale if leaf == "b_in" else write @ (change / scale) / gain)
            if leaf == "W_in" and config.has_norm:
                offset = weights[f"{block.removesuffix('.mlp')}.ln2.b"]
                _add(found, f"{block}.b_in", -(offset / gain[:, 0]) @ (write @ (change / scale)))
        elif leaf == "W_O":
            carried = _head_maps(whole, form, block, read) @ change @ read
            _add(found, key, carried)
            bias = _value_bias(raw, block)
            _add(found, f"{block}.b_O", -torch.einsum("hd,hdm->m", bias, carried))
        elif leaf == "W_U":
            gain = _gain(raw, "ln_final")
            _add(found, key, write @ change / gain)
            if config.has_norm:
                _add(
                    found,
                    "unembed.b_U",
                    -(weights["ln_final.b"] / gain[:, 0]) @ (write @ change),
                )
        else:
            _add(found, key, change)
    return {key: value.to(subject.weights[key].dtype) for key, value in found.items()}


def carries_back_w_in(subject: Subject) -> bool:
    """Whether a change of the last MLP's W_in can be carried back: its norm hides no direction from it."""
    config, norm = subject.config, f"blocks.{subject.config.n_layers - 1}.ln2.w"
    if not (config.has_mlp and config.has_norm):
        return config.has_mlp
    return float(subject.weights[norm].abs().min()) > SMALLEST_GAIN


def _add(found: dict[str, Tensor], key: str, change: Tensor) -> None:
    found[key] = found[key] + change if key in found else change


def _gain(raw: Subject, norm: str) -> Tensor:
    """Gain of a LayerNorm as a column; ones where there is none."""
    if not raw.config.has_norm:
        return raw.weights["embed.W_E"].new_ones(raw.config.d_model, 1)
    gain = raw.weights[f"{norm}.w"]
    smallest = float(gain.abs().min())
    require(
        smallest > SMALLEST_GAIN,
        f"{raw.name}: {norm}.w",
        expected=f"gains above {SMALLEST_GAIN} in front of a matrix that is edited",
        got=f"{smallest:.1e}",
        do="Leave this matrix out of the edit.",
    )
    return gain[:, None]


def _neuron_scale(whole: Subject, form: Subject, mlp: str) -> Tensor:
    """What a neuron of the canonical form says for each unit that the raw one says."""
    before = torch.cat([whole.weights[f"{mlp}.W_in"], whole.weights[f"{mlp}.b_in"][None]])
    after = form.weights[f"{mlp}.W_in"], form.weights[f"{mlp}.b_in"][None]
    if form.config.act_fn != "relu":
        return torch.ones_like(before[0])
    if not form.config.has_norm:
        read = whitening(whole)[1]
        before = torch.cat([read @ whole.weights[f"{mlp}.W_in"], before[-1:]])
    norm = before.norm(dim=0)
    return torch.where(norm > 0, torch.cat(after).norm(dim=0) / norm.clamp_min(1e-30), 1.0)


def _head_maps(whole: Subject, form: Subject, attn: str, read: Tensor) -> Tensor:
    """Maps of each head's values `[head, d_head, d_head]` from the raw to the canonical form."""
    values = whole.weights[f"{attn}.W_V"]
    values = values if form.config.has_norm else read @ values
    return torch.linalg.pinv(values) @ form.weights[f"{attn}.W_V"]


def _value_bias(raw: Subject, attn: str) -> Tensor:
    """What values are where the normed stream is zero: their bias, and what the norm's bias adds."""
    bias = raw.weights[f"{attn}.b_V"]
    if not raw.config.has_norm:
        return bias
    offset = raw.weights[f"{attn.removesuffix('.attn')}.ln1.b"]
    return bias + torch.einsum("m,hmd->hd", offset, raw.weights[f"{attn}.W_V"])
