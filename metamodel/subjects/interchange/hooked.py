"""A TransformerBridge of any pre-norm architecture, run through hooks on the graph of components.

`Subject.from_bridge` reads weights, and so knows two architectures. Hooks know what a head or an MLP writes
and reads whatever is inside: gated MLPs and experts, RMSNorm, grouped queries (`ungrouped`), rotary positions
(there the position embedding writes nothing), blocks whose MLP runs beside attention (there it reads no head
of its own block), through a norm of its own or attention's.

What hooks claim is checked on the prompts: embeddings, heads and MLPs must add up to the residual stream, and
readers must read it. A norm behind attention or a scaled residual fails that, and is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.interchange.native import is_native
from metamodel.subjects.interchange.norms import Scales, frozen, norms, scale_of
from metamodel.subjects.interchange.ungrouped import Ungrouped

Change = Callable[[Tensor], Tensor]
_DO = "Choose a network whose blocks add what heads and MLPs write to the residual stream as it is."
_OTHER = "Choose another, such as GPT-2, GPT-NeoX, Llama, Mistral or Qwen."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HookedRun:
    """What a run through hooks found."""

    logits: Float[Tensor, "batch pos d_vocab"]
    outputs: Float[Tensor, "source batch pos d_model"] | None
    """What each source wrote, in the order of `components`; None where it was not asked for."""
    scales: Scales | None
    """What each norm divided by; None likewise."""
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    """Stage -> the residual stream: 0 before the first block, 2l + 1 behind attention l, 2l + 2 behind its
    MLP; empty likewise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HookedBridge:
    """A bridge, and its graph. Make one by `hooked`; flags and weights of the bridge change in runs only."""

    bridge: TransformerBridge
    name: str
    config: SubjectConfig
    """Sizes, from which the graph follows, and whether norms hide the mean over d_model, as LayerNorm does
    and RMSNorm does not. Activations and positions are the bridge's own business, not described here."""
    parallel: bool
    """Whether the MLP of a block runs beside its attention."""
    shared_norm: bool
    """Whether it then reads through attention's norm, as in Falcon and Phi."""
    ungrouped: Ungrouped

    @property
    def writes(self) -> tuple[tuple[str, int | None], ...]:
        """Hook at which each source writes, in the order of `components`, and which head it is there."""
        found: list[tuple[str, int | None]] = [("hook_embed", None), ("hook_pos_embed", None)]
        for layer in range(self.config.n_layers):
            found += [(f"blocks.{layer}.attn.hook_result", head) for head in range(self.config.n_heads)]
            found += [(f"blocks.{layer}.hook_mlp_out", None)] if self.config.has_mlp else []
        return tuple(found)

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        changes: Mapping[str, Change] | None = None,
        *,
        record: bool = False,
        scales: Scales | None = None,
    ) -> HookedRun:
        """A forward.

        Args:
            changes: name of a source's hook, or site of a destination -> function of its value.
            record: whether to return what sources write and norms divide by. Raises: InputError if sources
                do not add up.
            scales: what norms divide by in place of their own, with as many rows as tokens have.
        """
        taken: dict[str, Tensor] = {}
        hooks = []
        for site, change in (changes or {}).items():
            if site.endswith("hook_mlp_in") and self.shared_norm:
                hooks += self._through_shared_norm(int(site.split(".")[1]), change)
            else:
                hooks.append((self._hook_name(site), _changing(change)))
        if record:
            hooks += [(name, _taking(taken, name)) for name in self._names()]
        bridge = self.bridge
        with _flags(bridge), self.ungrouped.applied(), bridge.hooks(fwd_hooks=hooks), frozen(bridge, scales):
            logits = bridge(tokens)
        assert isinstance(logits, Tensor)
        if not record:
            return HookedRun(logits=logits, outputs=None, scales=None, streams={})
        if self.ungrouped.repeated:
            _require_equal("logits", logits, self.bridge(tokens), expected="those of grouped attention")
        outputs = self._checked_outputs(taken)
        read = {name: taken[self._hook_name(self._read_by(name))] for name in norms(bridge)}
        found = {name: scale_of(norm, read[name]) for name, norm in norms(bridge).items()}
        return HookedRun(logits=logits, outputs=outputs, scales=found, streams=self._streams(taken))

    def _streams(self, taken: Mapping[str, Tensor]) -> dict[int, Tensor]:
        found = {0: taken["blocks.0.hook_resid_pre"]}
        for layer in range(self.config.n_layers):
            block = f"blocks.{layer}"
            found[2 * layer + 1] = taken[f"{block}.hook_resid_pre"] + taken[f"{block}.hook_attn_out"]
            found[2 * layer + 2] = taken[f"{block}.hook_resid_post"]
        return found

    def activations(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Float[Tensor, "batch pos d_mlp"]:
        """Of an MLP's neurons. Raises: InputError for an MLP that has none, such as experts."""
        self.neurons(layer)
        taken: dict[str, Tensor] = {}
        name = f"blocks.{layer}.mlp.hook_post"
        with self.bridge.hooks(fwd_hooks=[(name, _taking(taken, name))]):
            self.bridge(tokens)
        return taken[name]

    def neurons(self, layer: int) -> tuple[Float[Tensor, "d_mlp d_model"], Float[Tensor, " d_model"]]:
        """What neurons write for each unit of activation, and the MLP's bias. Raises: as `activations`."""
        mlp = self.bridge.blocks[layer].mlp
        found = getattr(mlp, "W_out", None)
        require(
            isinstance(found, Tensor) and found.shape == (self.config.d_mlp, self.config.d_model),
            f"{self.name}.blocks.{layer}.mlp",
            expected="an MLP of neurons, with one matrix behind them",
            got=type(mlp).__name__,
            do="Take the MLP whole.",
        )
        assert isinstance(found, Tensor)
        bias = getattr(mlp.out.original_component, "bias", None)
        return found.detach(), found.new_zeros(found.shape[1]) if bias is None else bias.detach()

    @staticmethod
    def _read_by(norm: str) -> str:
        """Site of what a norm reads."""
        if norm == "ln_final":
            return "hook_unembed_in"
        return norm.replace("ln1", "hook_resid_pre").replace("ln2", "hook_mlp_in")

    @torch.no_grad()
    def constant_outputs(self) -> Float[Tensor, "source d_model"]:
        """What each source writes on every prompt, and need not: moving it elsewhere changes no logit.

        Of heads their value biases, and what the norm's bias adds to them, through `W_O`: they may lie in the
        attention's output bias, which no source owns. Where attention need not sum to one, as with sinks,
        they are the head's own, and 0 here. Of learned positions it is their mean, which may lie in the token
        embedding, and there the reverse.
        """
        hooks, taken = [], {}
        for layer, block in enumerate(self.bridge.blocks):
            attn, repeated = block.attn, self.ungrouped.repeated
            value = repeated[layer]["v"] if repeated else attn.v.original_component
            normed = getattr(block.ln1.original_component, "bias", None)
            if getattr(attn.original_component, "sinks", None) is not None:
                continue
            constant = value(torch.zeros_like(value.weight[0]) if normed is None else normed)
            hooks.append((f"blocks.{layer}.attn.hook_z", _changing(_constant(constant))))
            name = f"blocks.{layer}.attn.hook_result"
            hooks.append((name, _taking(taken, name)))
        c, device = self.config, next(self.bridge.parameters()).device
        with _flags(self.bridge), self.ungrouped.applied(), self.bridge.hooks(fwd_hooks=hooks):
            logits = self.bridge(torch.zeros(1, 1, dtype=torch.int64, device=device))
        found = logits.new_zeros(len(self.writes), c.d_model)
        for i, (site, head) in enumerate(self.writes):
            if site in taken:
                found[i] = taken[site][0, 0, head]
        positions = getattr(getattr(self.bridge, "pos_embed", None), "weight", None)
        if isinstance(positions, Tensor) and "hook_pos_embed" in self.bridge.hook_dict:
            found[1] = positions[: c.n_ctx].mean(0)
            found[0] = -found[1]
        return found

    def _hook_name(self, site: str) -> str:
        if site == "hook_unembed_in":
            return f"blocks.{self.config.n_layers - 1}.hook_resid_post"
        return site.replace("hook_mlp_in", "ln2.hook_in")

    def _through_shared_norm(self, layer: int, change: Change) -> list[tuple[str, Callable[..., Any]]]:
        """Hooks that change the stream which the MLP reads through the norm that it shares with attention."""
        norm, stream = self.bridge.blocks[layer].ln1.original_component, {}
        block = f"blocks.{layer}"

        def read(_: Tensor) -> Tensor:
            return norm(change(stream[block]))

        return [
            (f"{block}.hook_resid_pre", _taking(stream, block, detach=False)),
            (f"{block}.mlp.hook_in", _changing(read)),
        ]

    def _names(self) -> list[str]:
        names = ["hook_embed", "hook_pos_embed"]
        for layer in range(self.config.n_layers):
            block = f"blocks.{layer}"
            names += [f"{block}.hook_resid_pre", f"{block}.hook_resid_post", f"{block}.attn.hook_result"]
            names += [f"{block}.hook_attn_out"]
            names += [f"{block}.hook_{x}_input" for x in "qkv"]
            if self.config.has_mlp:
                read = "mlp.hook_in" if self.shared_norm else "ln2.hook_in"
                names += [f"{block}.{read}", f"{block}.hook_mlp_out"]
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
                read = stream if self.parallel else written
                if self.shared_norm:
                    normed = self.bridge.blocks[layer].ln1.original_component(stream)
                    _require_equal(f"{block}.mlp.hook_in", taken[f"{block}.mlp.hook_in"], normed)
                else:
                    _require_equal(f"{block}.ln2.hook_in", taken[f"{block}.ln2.hook_in"], read)
                found.append(taken[f"{block}.hook_mlp_out"])
                written = written + found[-1]
            post = taken[f"{block}.hook_resid_post"]
            _require_equal(f"{block}.hook_resid_post", post, written)
            stream = post
        return torch.stack(found)


def _require_equal(
    name: str,
    got: Tensor,
    wanted: Tensor,
    *,
    expected: str = "the sum of what embeddings, heads and MLPs write before it (pre-norm blocks)",
) -> None:
    """Up to rounding, and up to biases that no source owns: they are the same everywhere."""
    tolerance = 1e-4 if torch.finfo(got.dtype).bits >= 32 else 3e-2
    got, wanted = got.double(), wanted.double()
    rest = got - wanted
    rest = rest - rest.mean(dim=(0, 1), keepdim=True)
    off = float(rest.norm() / wanted.norm().clamp_min(1e-30))
    require(
        off < tolerance,
        f"bridge.{name}",
        expected=expected,
        got=f"another array, off by {off:.2g} of its norm",
        do=_DO,
    )


def _constant(value: Tensor) -> Change:
    return lambda old: value.reshape(old.shape[2:]).expand_as(old)


def _changing(change: Change) -> Callable[..., Tensor]:
    def hook(value: Tensor, *, hook: object) -> Tensor:
        return change(value)

    return hook


def _taking(taken: dict[str, Tensor], name: str, *, detach: bool = True) -> Callable[..., None]:
    def hook(value: Tensor, *, hook: object) -> None:
        taken[name] = value.detach() if detach else value

    return hook


def hooked(bridge: nn.Module, *, name: str = "bridge") -> HookedBridge:
    """A bridge as a network whose edges can be patched.

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
        not is_native(bridge),
        f"{name}.architecture",
        expected="one with hooks at what heads read and write",
        got=repr(cfg.architecture),
        do="Use Subject.from_bridge.",
    )
    require(
        not any(module.training for module in bridge.modules()),
        f"{name}.training",
        expected="False, since dropout would differ between runs",
        got=True,
        do="Call bridge.eval().",
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
    with _flags(bridge):
        pass  # whether it has them
    has_mlp = all("mlp" in block.submodules for block in bridge.blocks)
    causal = getattr(cfg, "attention_dir", "causal") == "causal"
    config = SubjectConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=int(cfg.d_mlp or 4 * cfg.d_model) if has_mlp else 0,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        normalization_type="none" if bridge.ln_final.uses_rms_norm else "LN",
        attention_dir="causal" if causal else "bidirectional",
    )
    return HookedBridge(
        bridge=bridge,
        name=name,
        config=config,
        parallel=bool(cfg.parallel_attn_mlp),
        shared_norm=has_mlp and not any("ln2" in block.submodules for block in bridge.blocks),
        ungrouped=Ungrouped.of(bridge, name=name),
    )


@contextmanager
def _flags(bridge: TransformerBridge) -> Iterator[None]:
    """Turns on the hooks that are off by default, and afterwards sets all of them as they were."""
    cfg, wanted = bridge.cfg, ("attn_result", "split_qkv_input")
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
