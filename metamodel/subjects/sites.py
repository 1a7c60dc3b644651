"""The named places of a subject's computation that can be recorded, replaced or given an input of their own.

Sites, all with a leading `subject` axis:

    hook_embed, hook_pos_embed                       batch pos d_model
    blocks.{l}.hook_resid_pre / _mid / _post         batch pos d_model
    blocks.{l}.attn.hook_q / hook_k / hook_v         batch pos head d_head
    blocks.{l}.attn.hook_attn_scores / hook_pattern  batch head query key
    blocks.{l}.attn.hook_z                           batch pos head d_head
    blocks.{l}.attn.hook_result                      batch pos head d_model     (without b_O)
    blocks.{l}.hook_attn_out, hook_mlp_out           batch pos d_model
    blocks.{l}.mlp.hook_pre / hook_post              batch pos d_mlp
    ln_final.hook_out                                batch pos d_model

Destinations, for `addends`; each is added to the residual stream that this destination alone reads:

    blocks.{l}.hook_q_input / hook_k_input / hook_v_input   batch pos head d_model
    blocks.{l}.hook_mlp_in                                  batch pos d_model
    hook_unembed_in                                         batch pos d_model
"""

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from metamodel.subjects.config import SubjectConfig

Replacement = Callable[[Tensor], Tensor]


def sites(config: SubjectConfig) -> tuple[str, ...]:
    """Every name that `taps` and `replace` accept."""
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_resid_pre"]
        attn = ("q", "k", "v", "attn_scores", "pattern", "z", "result")
        names += [f"{block}.attn.hook_{site}" for site in attn]
        names += [f"{block}.hook_attn_out", f"{block}.hook_resid_mid"]
        if config.has_mlp:
            names += [f"{block}.mlp.hook_pre", f"{block}.mlp.hook_post", f"{block}.hook_mlp_out"]
        names += [f"{block}.hook_resid_post"]
    return (*names, "ln_final.hook_out")


def destinations(config: SubjectConfig) -> tuple[str, ...]:
    """Every name that `addends` accepts."""
    names = []
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.hook_{x}_input" for x in "qkv"]
        if config.has_mlp:
            names += [f"blocks.{layer}.hook_mlp_in"]
    return (*names, "hook_unembed_in")


class Sites:
    """Records and replaces named sites while a forward runs."""

    def __init__(self, taps: Collection[str], replace: Mapping[str, Replacement]):
        self.wanted, self.replace, self.recorded = frozenset(taps), replace, {}

    def __contains__(self, name: str) -> bool:
        return name in self.wanted or name in self.replace

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.replace:
            value = self.replace[name](value)
        if name in self.wanted:
            self.recorded[name] = value
        return value
