"""Changes of what one head attends to or one component writes, run through the rest of a subject.

All interventions of a layer run as one batch (case x prompt) that starts behind that layer's attention; in
the last layer only the answer position is computed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.entries import row_chance
from data_gen.labels.registry import KEPT_SHARE
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts, check_prompts
from metamodel.circuits.suffix import Suffix
from metamodel.subjects.subject import Subject

_CHUNK = 500_000
"""Numbers in the widest array of one chunk of cases: what a core's cache holds."""
_NO_MASS = 1e-12
"""Mass below which the rest of a row says nothing of where else the head would look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanRun:
    """What twins reuse of the run on clean prompts."""

    suffix: Suffix
    prompts: Prompts
    taps: dict[str, Tensor]
    """Sites of the forward, of the canonical subject, without their subject axis."""
    logits: Float[Tensor, "batch d_vocab"]
    """At the answer position."""
    margin: Float[Tensor, " batch"]

    @property
    def layers(self) -> range:
        return range(self.suffix.config.n_layers)


def clean_run(subject: Subject, prompts: Prompts) -> CleanRun:
    """`subject` is in canonical form.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    check_prompts(subject, prompts)
    config = subject.config
    names = [f"blocks.{i}.attn.hook_{x}" for i in range(config.n_layers) for x in "qkvz"]
    names += [f"blocks.{i}.attn.hook_pattern" for i in range(config.n_layers)]
    names += [f"blocks.{i}.hook_resid_{x}" for i in range(config.n_layers) for x in ("pre", "mid", "post")]
    if config.has_mlp:
        names += [f"blocks.{i}.{x}" for i in range(config.n_layers) for x in ("mlp.hook_pre", "hook_mlp_out")]
    run, suffix = subject.run(prompts.clean, taps=names), Suffix.of(subject, prompts)
    logits = suffix.at_answer(run.logits[0])
    return CleanRun(
        suffix=suffix,
        prompts=prompts,
        taps={name: value[0] for name, value in run.taps.items()},
        logits=logits,
        margin=margin(logits, prompts.answer),
    )


def cut_and_control(
    pattern: Float[Tensor, "*rest query key"], entries: Bool[Tensor, "*rest query key"], attention_dir: str
) -> tuple[Float[Tensor, "*rest query key"], Float[Tensor, "*rest query key"]]:
    """The pattern without `entries`, and the pattern without equal mass elsewhere in the same rows.

    Cut: entries become zero, the rest of the row is renormalised (uniform over the rest, where that has no
    mass). Control: with m the entries' mass and r = 1 - m, the other entries lose min(m, r) in proportion,
    then the row is renormalised. Rows whose every visible entry would be cut stay as they are in both.
    """
    seen = row_chance(pattern.shape[-1], attention_dir, pattern.device) > 0
    others = seen & ~entries
    held, rest = pattern * entries, pattern * others
    mass, left = held.sum(-1, keepdim=True), rest.sum(-1, keepdim=True)
    uniform = others / others.sum(-1, keepdim=True).clamp_min(1)
    cut = torch.where(left > _NO_MASS, rest / left.clamp_min(_NO_MASS), uniform)
    taken = torch.minimum(mass, left)
    control = (held + rest * (1 - taken / left.clamp_min(_NO_MASS))) / (mass + left - taken).clamp_min(
        _NO_MASS
    )
    touched = (entries & seen).any(-1, keepdim=True) & others.any(-1, keepdim=True)
    return torch.where(touched, cut, pattern), torch.where(touched, control, pattern)


def intervened_logits(
    run: CleanRun, layer: int, head: Int[Tensor, " case"], pattern: Float[Tensor, "case batch query key"]
) -> Float[Tensor, "case batch d_vocab"]:
    """Answer logits when, case by case, one head of `layer` attends by another pattern."""
    config = run.suffix.config
    widest = max(config.d_model, config.d_mlp, config.n_heads * config.d_head)
    size = max(1, _CHUNK // (pattern[0, ..., 0].numel() * widest))
    parts = zip(head.split(size), pattern.split(size), strict=True)
    return torch.cat([_intervened(run, layer, *part) for part in parts])


def _intervened(
    run: CleanRun, layer: int, head: Tensor, pattern: Tensor
) -> Float[Tensor, "case batch d_vocab"]:
    change = pattern - run.taps[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)[head]
    if run.suffix.is_last(layer):
        change = run.suffix.at_answer(change).unsqueeze(2)
    moved = change @ run.taps[f"blocks.{layer}.attn.hook_v"].permute(2, 0, 1, 3)[head]
    return logits_of_change(run, layer, head, moved)


def logits_of_change(
    run: CleanRun, layer: int, head: Int[Tensor, " case"], moved: Float[Tensor, "case batch pos d_head"]
) -> Float[Tensor, "case batch d_vocab"]:
    """Answer logits when one head's `hook_z` is changed by so much; in the last layer at the answer alone."""
    suffix = run.suffix
    resid = run.taps[f"blocks.{layer}.hook_resid_mid"]
    if suffix.is_last(layer):
        resid = suffix.at_answer(resid).unsqueeze(1)
    resid = resid + moved @ suffix.weights[f"blocks.{layer}.attn.W_O"][head].unsqueeze(1)
    if suffix.config.has_mlp:
        resid = resid + suffix.mlp(layer, resid)
    return logits_behind(run, layer, resid)


def logits_behind(
    run: CleanRun, layer: int, resid: Float[Tensor, "case batch pos d_model"]
) -> Float[Tensor, "case batch d_vocab"]:
    """Answer logits from the residual stream behind `layer`; behind the last one, at the answer alone."""
    if run.suffix.is_last(layer):
        return run.suffix.unembed(resid.squeeze(2))
    return run.suffix.logits_after(layer, resid)


def beyond(
    loss: Float[Tensor, "*rest batch"], control: Float[Tensor, "*rest batch"]
) -> Float[Tensor, "*rest batch"]:
    """What an intervention loses beyond its control, if that loses anything on average."""
    return torch.where(control.mean(-1, keepdim=True) > 0, loss - control, loss)


def needs_no_more(without: Float[Tensor, "*rest batch"], kept: Float[Tensor, "*rest batch"]) -> Tensor:
    """Loss without what a label says that matters, beyond the loss with nothing but that, as the latter may
    be no more than a share of the former."""
    return beyond(without, kept / KEPT_SHARE)
