"""A TransformerBridge of any pre-norm architecture, run through hooks on the graph of components.

`Subject.from_bridge` reads weights, and so knows two architectures. Hooks know what a head or an MLP writes
and reads whatever is inside: gated MLPs, RMSNorm, rotary positions (there the position embedding writes
nothing), blocks whose MLP runs beside attention (there it reads no head of its own block).

What hooks claim is checked on the prompts: embeddings, heads and MLPs must add up to the residual stream, and
readers must read it. A norm behind attention or a scaled residual fails that, and is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.interchange.native import NATIVE

Change = Callable[[Tensor], Tensor]
_DO = "Choose a network whose blocks add what heads and MLPs write to the residual stream as it is."
_OTHER = "Choose another, such as GPT-2, GPT-NeoX, Llama, Mistral or Qwen."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HookedRun:
    """What a run through hooks found."""

    logits: Float[Tensor, "batch pos d_vocab"]
    outputs: Float[Tensor, "source batch pos d_model"] | None
    """What each source wrote, in the order of `components`; None where it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HookedBridge:
    """A bridge, and its graph. Make one by `hooked`; its flags are set while that block lasts."""

    bridge: TransformerBridge
    config: SubjectConfig
    """Sizes, from which the graph follows. Norm, activation and positions are the bridge's own business, and
    are not described here."""
    parallel: bool
    """Whether the MLP of a block runs beside its attention."""

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        changes: Mapping[str, Change] | None = None,
        *,
        record: bool = False,
    ) -> HookedRun:
        """A forward.

        Args:
            changes: name of a source's hook, or site of a destination -> function of its value.
            record: whether to return what sources write. Raises: InputError if that does not add up.
        """
        taken: dict[str, Tensor] = {}
        hooks = [(self._hook_name(site), _changing(change)) for site, change in (changes or {}).items()]
        if record:
            hooks += [(name, _taking(taken, name)) for name in self._names()]
        with self.bridge.hooks(fwd_hooks=hooks):
            logits = self.bridge(tokens)
        assert isinstance(logits, Tensor)
        outputs = self._checked_outputs(taken) if record else None
        return HookedRun(logits=logits, outputs=outputs)

    def _hook_name(self, site: str) -> str:
        last = f"blocks.{self.config.n_layers - 1}.hook_resid_post"
        return last if site == "hook_unembed_in" else site

    def _names(self) -> list[str]:
        names = ["hook_embed", "hook_pos_embed"]
        for layer in range(self.config.n_layers):
            block = f"blocks.{layer}"
            names += [f"{block}.hook_resid_pre", f"{block}.hook_resid_post", f"{block}.attn.hook_result"]
            names += [f"{block}.hook_{x}_input" for x in "qkv"]
            if self.config.has_mlp:
                names += [f"{block}.hook_mlp_in", f"{block}.hook_mlp_out"]
        return [name for name in names if name in self.bridge.hook_dict]

    def _checked_outputs(self, taken: Mapping[str, Tensor]) -> Float[Tensor, "source batch pos d_model"]:
        embedded = taken["hook_embed"]
        position = taken.get("hook_pos_embed", torch.zeros_like(embedded)).expand_as(embedded)
        found = [embedded, position]
        stream = embedded + position
        for layer in range(self.config.n_layers):
            block = f"blocks.{layer}"
            missing = [name for name in self._names() if name.startswith(f"{block}.") and name not in taken]
            require(
                not missing,
                f"bridge.{block}",
                expected="an architecture for which TransformerLens has hooks at all inputs and outputs",
                got=f"none at {', '.join(missing)}",
                do=_OTHER,
            )
            _require_equal(f"{block}.hook_resid_pre", taken[f"{block}.hook_resid_pre"], stream)
            stream = taken[f"{block}.hook_resid_pre"]
            for x in "qkv":
                name = f"{block}.hook_{x}_input"
                _require_equal(name, taken[name], stream.unsqueeze(2).expand_as(taken[name]))
            heads = taken[f"{block}.attn.hook_result"]
            found += list(heads.unbind(2))
            written = stream + heads.sum(2)
            if self.config.has_mlp:
                read = taken[f"{block}.hook_mlp_in"]
                _require_equal(f"{block}.hook_mlp_in", read, stream if self.parallel else written)
                found.append(taken[f"{block}.hook_mlp_out"])
                written = written + found[-1]
            post = taken[f"{block}.hook_resid_post"]
            _require_equal(f"{block}.hook_resid_post", post, written)
            stream = post
        return torch.stack(found)


def _require_equal(name: str, got: Tensor, expected: Tensor) -> None:
    """Up to rounding, and up to biases that no source owns: they are the same everywhere."""
    tolerance = 1e-4 if torch.finfo(got.dtype).bits >= 32 else 3e-2
    got, expected = got.double(), expected.double()
    rest = got - expected
    rest = rest - rest.mean(dim=(0, 1), keepdim=True)
    off = float(rest.norm() / expected.norm().clamp_min(1e-30))
    require(
        off < tolerance,
        f"bridge.{name}",
        expected="the sum of what embeddings, heads and MLPs write before it (pre-norm blocks)",
        got=f"another array, off by {off:.2g} of its norm",
        do=_DO,
    )


def _changing(change: Change) -> Callable[..., Tensor]:
    def hook(value: Tensor, *, hook: object) -> Tensor:
        return change(value)

    return hook


def _taking(taken: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(value: Tensor, *, hook: object) -> None:
        taken[name] = value.detach()

    return hook


@contextmanager
def hooked(bridge: nn.Module, *, name: str = "bridge") -> Iterator[HookedBridge]:
    """The bridge with its hooks at the inputs of heads and MLPs on; the caller's flags come back after.

    Raises: InputError, naming the setting that stands in the way.
    """
    if not isinstance(bridge, TransformerBridge):
        raise InputError(
            name,
            expected="a TransformerBridge",
            got=type(bridge).__name__,
            do="Use TransformerBridge.boot_transformers, or build_bridge_from_module.",
        )
    cfg = bridge.cfg
    require(
        cfg.architecture != NATIVE,
        f"{name}.architecture",
        expected="one with hooks at what heads read and write",
        got=repr(NATIVE),
        do="Use Subject.from_bridge, and metamodel.circuits.score on the subject.",
    )
    require(
        not any(module.training for module in bridge.modules()),
        f"{name}.training",
        expected="False, since dropout would differ between runs",
        got=True,
        do="Call bridge.eval().",
    )
    per_layer = set(getattr(cfg, "per_layer_num_key_value_heads", None) or ())
    for kv in sorted({cfg.n_key_value_heads or cfg.n_heads} | per_layer):
        require(
            kv == cfg.n_heads,
            f"{name}.n_key_value_heads",
            expected=f"{cfg.n_heads}, as many as heads, so that each head reads keys and values of its own",
            got=kv,
            do="Choose a network without grouped-query attention.",
        )
    for layer, block in enumerate(bridge.blocks):
        inside = set(block.submodules)
        for extra in ("ln1_post", "ln2_post"):
            require(
                extra not in inside,
                f"{name}.blocks.{layer}.{extra}",
                expected="no norm behind attention or MLP (pre-norm blocks)",
                got="one",
                do=_DO,
            )
        require(
            "attn" in inside,
            f"{name}.blocks.{layer}",
            expected="a block with attention",
            got=f"one with {', '.join(sorted(inside))}",
            do=_DO,
        )
    has_mlp = all("mlp" in block.submodules for block in bridge.blocks)
    config = SubjectConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=int(cfg.d_mlp or 4 * cfg.d_model) if has_mlp else 0,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
    )
    with _flags(bridge):
        yield HookedBridge(bridge=bridge, config=config, parallel=bool(cfg.parallel_attn_mlp))


@contextmanager
def _flags(bridge: TransformerBridge) -> Iterator[None]:
    """Turns on the hooks that are off by default, and afterwards sets all of them as they were."""
    cfg, wanted = bridge.cfg, ("attn_result", "split_qkv_input", "hook_mlp_in")
    before = {flag: bool(getattr(cfg, f"use_{flag}", False)) for flag in (*wanted, "attn_in")}
    switch = {flag: getattr(bridge, f"set_use_{flag}") for flag in before}
    try:
        switch["attn_in"](False)  # it excludes the split inputs
        for flag in wanted:
            try:
                switch[flag](True)
            except NotImplementedError:
                raise InputError(
                    f"bridge.use_{flag}",
                    expected="an architecture for which TransformerLens has these hooks",
                    got=repr(cfg.architecture),
                    do=_OTHER,
                ) from None
        yield
    finally:
        for flag in wanted:
            switch[flag](before[flag])
        switch["attn_in"](before["attn_in"])
