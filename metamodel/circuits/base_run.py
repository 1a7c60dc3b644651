"""The run in which edges are patched, and what a patched edge carries in it.

    noising      clean prompts; an edge carries what its source wrote on the corrupt prompt
    denoising    corrupt prompts; an edge carries what its source wrote on the clean prompt
    zero         clean prompts; an edge carries nothing
    mean         clean prompts; an edge carries its source's mean over clean prompts, position by position

Zero ablation depends on the gauge of raw weights, so that all is done on the folded subject: there all four
are gauge-invariant. Sources are the embeddings, each head's `z W_O` (value biases folded into `b_O`, which no
source owns) and each MLP's output with its bias.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.circuits.metrics import Measure, Metric
from metamodel.circuits.prompts import Prompts, check_prompts
from metamodel.circuits.suffix import Suffix
from metamodel.config.errors import InputError, suggestion
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject

Intervention = Literal["noising", "denoising", "zero", "mean"]
INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseRun:
    """A run of a folded subject, what each source writes in it, and what it would write when patched."""

    subject: Subject
    """Folded."""
    prompts: Prompts
    tokens: Int[Tensor, "batch pos"]
    """Of this run: the clean ones, or under denoising the corrupt ones."""
    suffix: Suffix
    taps: dict[str, Tensor]
    """Sites of the forward without their subject axis."""
    outputs: Float[Tensor, "source batch pos d_model"]
    patch: Float[Tensor, "source batch pos d_model"]
    """What an edge carries when it is patched; under `mean` expanded over prompts."""
    logits: Float[Tensor, "ask d_vocab"]
    """Of this run, where answers are asked."""
    clean_logits: Float[Tensor, "ask d_vocab"]
    n_runs: int
    """Forwards that were needed: 2 where clean and corrupt prompts were run, else 1."""

    @property
    def config(self) -> SubjectConfig:
        return self.subject.config

    @property
    def delta(self) -> Float[Tensor, "source batch pos d_model"]:
        """What patching changes of what each source writes."""
        return self.patch - self.outputs

    def measure(self, metric: Metric) -> Measure:
        """Raises: InputError for an unknown metric, or one that these prompts do not allow."""
        return Measure.of(metric, self.prompts, self.clean_logits)


def source_outputs(
    config: SubjectConfig, taps: dict[str, Tensor]
) -> Float[Tensor, "source batch pos d_model"]:
    """What each source of a run writes, in the order of `components` without the unembedding."""
    found = [taps["hook_embed"].unsqueeze(0), taps["hook_pos_embed"].unsqueeze(0)]
    for layer in range(config.n_layers):
        found.append(taps[f"blocks.{layer}.attn.hook_result"].permute(2, 0, 1, 3))
        if config.has_mlp:
            found.append(taps[f"blocks.{layer}.hook_mlp_out"].unsqueeze(0))
    return torch.cat(found)


def check_intervention(name: str) -> Intervention:
    """The intervention of this name. Raises: InputError for an unknown one."""
    if name not in INTERVENTIONS:
        do = f"Choose one of them.{suggestion(name, INTERVENTIONS)}"
        raise InputError("intervention", expected=" or ".join(INTERVENTIONS), got=repr(name), do=do)
    return name


def base_run(
    subject: Subject, prompts: Prompts, intervention: Intervention, *, freeze_norm: bool = False
) -> BaseRun:
    """Runs clean and corrupt prompts in one batch.

    Args:
        freeze_norm: every LayerNorm of a patched run divides by what it divides by in this run; logits are
            then linear in what MLPs and attention leave alone. By default it is recomputed.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    check_intervention(intervention)
    check_prompts(subject, prompts)
    whole, config, n = folded(subject), subject.config, len(prompts)
    denoising = intervention == "denoising"
    pair = [prompts.corrupt, prompts.clean] if denoising else [prompts.clean, prompts.corrupt]
    two = intervention in ("noising", "denoising")
    run = whole.run(torch.cat(pair) if two else pair[0], taps=_sites(config))
    taps = {name: value[0] for name, value in run.taps.items()}
    outputs, suffix = source_outputs(config, taps), Suffix.of(whole, prompts)
    base_taps = {name: value[:n] for name, value in taps.items()}
    match intervention:
        case "noising" | "denoising":
            patch = outputs[:, n:]
        case "zero":
            patch = torch.zeros_like(outputs)
        case "mean":
            mean = outputs.mean(1, keepdim=True)
            mean[1] = outputs[1, :1]  # positions are the same on all prompts, but for rounding
            patch = mean.expand_as(outputs)
    logits = suffix.at_answer(run.logits[0, :n])
    return BaseRun(
        subject=whole,
        prompts=prompts,
        tokens=pair[0],
        suffix=suffix.frozen(base_taps) if freeze_norm else suffix,
        taps=base_taps,
        outputs=outputs[:, :n],
        patch=patch,
        logits=logits,
        clean_logits=suffix.at_answer(run.logits[0, n:]) if denoising else logits,
        n_runs=2 if two else 1,
    )


def _sites(config: SubjectConfig) -> list[str]:
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_resid_pre", f"{block}.hook_resid_mid", f"{block}.hook_resid_post"]
        names += [f"{block}.attn.hook_{x}" for x in ("q", "k", "v", "pattern", "z", "result")]
        names += [f"{block}.hook_mlp_out"] if config.has_mlp else []
    return names
