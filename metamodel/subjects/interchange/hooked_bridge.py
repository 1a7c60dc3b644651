"""Runs of a bridge through hooks: changes of what sources write and readers read, and what was written.

What hooks claim is checked on the prompts: embeddings, heads and MLPs must add up to the residual stream, and
readers must read it. A norm behind attention or a scaled residual fails that, and is refused.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.interchange.additivity import checked_outputs, comparing_inputs
from metamodel.subjects.interchange.agreement import check_equal
from metamodel.subjects.interchange.flags import OTHER, flags_on
from metamodel.subjects.interchange.forks import Change, changed_input, changed_results, results
from metamodel.subjects.interchange.hooks import Hook, changing, constantly, taking
from metamodel.subjects.interchange.norms import Scales, frozen, norms, scale_of
from metamodel.subjects.interchange.ungrouped import Ungrouped


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """What a run through hooks found."""

    logits: Float[Tensor, "batch pos d_vocab"]
    outputs: Float[Tensor, "source batch pos d_model"]
    """What each source wrote, in the order of `components`."""
    scales: Scales
    """What each norm divided by."""
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    """Stage -> the residual stream: 0 before the first block, 2l + 1 behind attention l, 2l + 2 behind its
    MLP."""


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
    forks: bool
    """Whether TransformerLens has hooks at single heads; else `interchange.forks` stands in for them."""

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
        scales: Scales | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits.

        Args:
            changes: name of a source's hook, or site of a destination -> function of its value.
            scales: what norms divide by in place of their own, with as many rows as tokens have.
        """
        hooks: list[tuple[str, Hook]] = []
        for site, change in (changes or {}).items():
            if site.endswith("hook_mlp_in") and self.shared_norm:
                hooks += self._through_shared_norm(int(site.split(".")[1]), change)
            elif not self.forks and (virtual := self._virtual(site, change)):
                hooks += [(name, changing(each)) for name, each in virtual]
            else:
                hooks.append((self._hook_name(site), changing(change)))
        return self._run(tokens, hooks, scales)

    def _virtual(self, site: str, change: Change) -> list[tuple[str, Change]]:
        """Hooks in place of one at single heads, which this architecture does not have."""
        _, layer, *rest = [*site.split("."), "", ""]
        if rest[:2] == ["attn", "hook_result"]:
            return changed_results(self.bridge, int(layer), change)
        if rest[0] in ("hook_q_input", "hook_k_input", "hook_v_input"):
            return changed_input(self.bridge, int(layer), rest[0][5], change)
        return []

    def _run(self, tokens: Tensor, hooks: list[tuple[str, Hook]], scales: Scales | None = None) -> Tensor:
        bridge = self.bridge
        with (
            flags_on(bridge, self.name) if self.forks else nullcontext(),
            self.ungrouped.applied(),
            bridge.hooks(fwd_hooks=hooks),
            frozen(bridge, scales),
        ):
            logits = bridge(tokens)
        assert isinstance(logits, Tensor)
        return logits

    @torch.no_grad()
    def record(self, tokens: Int[Tensor, "batch pos"]) -> Recorded:
        """A run, and all that was written in it: two forwards, one of them without hooks.

        Raises: InputError if hooks change the logits, or what was written does not add up.
        """
        taken: dict[str, Tensor] = {}
        hooks = [(name, taking(taken, name)) for name in self.names()]
        for layer in range(self.config.n_layers):
            hooks += comparing_inputs(self, taken, layer)
        logits = self._run(tokens, hooks)
        plain = self.bridge(tokens)
        check_equal(f"{self.name}.logits", logits, plain, expected="those without hooks", do=OTHER)
        outputs = checked_outputs(self, taken)
        read = {name: taken[self._hook_name(self._read_by(name))] for name in norms(self.bridge)}
        scales = {name: scale_of(norm, read[name]) for name, norm in norms(self.bridge).items()}
        return Recorded(logits=logits, outputs=outputs, scales=scales, streams=self._streams(taken))

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
        with self.bridge.hooks(fwd_hooks=[(name, taking(taken, name))]):
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
            attn, value = block.attn, block.attn.v.original_component
            normed = getattr(block.ln1.original_component, "bias", None)
            if getattr(attn.original_component, "sinks", None) is not None:
                continue
            constant = value(torch.zeros_like(value.weight[0]) if normed is None else normed)
            by_head = constant.unflatten(0, (self.ungrouped.n_kv, -1))
            by_head = by_head.repeat_interleave(self.config.n_heads // self.ungrouped.n_kv, 0)
            name = f"blocks.{layer}.attn.hook_result"
            if not self.forks:
                taken[name] = results(block, by_head[None, None])
                continue
            hooks.append((f"blocks.{layer}.attn.hook_z", changing(constantly(by_head))))
            hooks.append((name, taking(taken, name)))
        c, device = self.config, next(self.bridge.parameters()).device
        logits = self._run(torch.zeros(1, 1, dtype=torch.int64, device=device), hooks)
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

    def _through_shared_norm(self, layer: int, change: Change) -> list[tuple[str, Hook]]:
        """Hooks that change the stream which the MLP reads through the norm that it shares with attention."""
        norm, stream = self.bridge.blocks[layer].ln1.original_component, {}
        block = f"blocks.{layer}"

        def read(_: Tensor) -> Tensor:
            return norm(change(stream[block]))

        return [
            (f"{block}.hook_resid_pre", taking(stream, block, detach=False)),
            (f"{block}.mlp.hook_in", changing(read)),
        ]

    def names(self) -> list[str]:
        """Hooks at which a recorded run takes what passes, those that this architecture has."""
        names = ["hook_embed", "hook_pos_embed"]
        for layer in range(self.config.n_layers):
            block = f"blocks.{layer}"
            names += [f"{block}.hook_resid_pre", f"{block}.hook_resid_post", f"{block}.hook_attn_out"]
            names += [f"{block}.attn.hook_result"] if self.forks else []
            if self.config.has_mlp:
                read = "mlp.hook_in" if self.shared_norm else "ln2.hook_in"
                names += [f"{block}.{read}", f"{block}.hook_mlp_out"]
        return [name for name in names if name in self.bridge.hook_dict]
