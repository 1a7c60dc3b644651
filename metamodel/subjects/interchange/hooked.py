"""A TransformerBridge of any pre-norm architecture, run through hooks on the graph of components.

`Subject.from_bridge` reads weights, and so knows two architectures. Hooks know what a head or an MLP writes
and reads whatever is inside: gated MLPs and experts, RMSNorm, grouped queries (`ungrouped`), rotary positions
(there the position embedding writes nothing), blocks whose MLP runs beside attention (there it reads no head
of its own block), through a norm of its own or attention's.
"""

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.interchange.agreement import ADD_UP
from metamodel.subjects.interchange.flags import OTHER, has_forks
from metamodel.subjects.interchange.forks import has_projections
from metamodel.subjects.interchange.hooked_bridge import HookedBridge
from metamodel.subjects.interchange.native import is_native
from metamodel.subjects.interchange.ungrouped import Ungrouped


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
    require(
        hasattr(bridge, "blocks") and hasattr(bridge, "ln_final"),
        name,
        expected="a decoder of blocks with a norm at its end",
        got=repr(cfg.architecture),
        do=ADD_UP,
    )
    for layer, block in enumerate(bridge.blocks):
        inside = set(block.submodules)
        for extra in ("ln1_post", "ln2_post"):
            require(
                extra not in inside,
                f"{name}.blocks.{layer}.{extra}",
                expected="no norm behind attention or MLP (pre-norm blocks)",
                got="one",
                do=ADD_UP,
            )
        require(
            "attn" in inside,
            f"{name}.blocks.{layer}",
            expected="a block with attention",
            got=f"one with {', '.join(sorted(inside))}",
            do=ADD_UP,
        )
    with_mlp = sum("mlp" in block.submodules for block in bridge.blocks)
    require(
        with_mlp in (0, cfg.n_layers),
        f"{name}.blocks",
        expected="MLPs in all blocks, or in none",
        got=f"MLPs in {with_mlp} of {cfg.n_layers}",
        do=ADD_UP,
    )
    has_mlp = with_mlp > 0
    causal = getattr(cfg, "attention_dir", "causal") == "causal"
    config = SubjectConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=_d_mlp(bridge) if has_mlp else 0,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        normalization_type="none" if bridge.ln_final.uses_rms_norm else "LN",
        attention_dir="causal" if causal else "bidirectional",
    )
    ungrouped = Ungrouped.of(bridge, name=name)
    ways = [True] if has_forks(bridge) else []
    ways += [False] if has_projections(bridge) and not ungrouped.grouped else []
    require(
        len(ways) > 0,
        f"{name}.architecture",
        expected="one with hooks at single heads, or at projections of queries, keys, values and outputs",
        got=repr(cfg.architecture),
        do=OTHER,
    )
    refusals = []
    for forks in ways:  # TransformerLens's own hooks first, if they say what is so
        found = HookedBridge(
            bridge=bridge,
            name=name,
            config=config,
            parallel=bool(cfg.parallel_attn_mlp),
            shared_norm=has_mlp and not any("ln2" in block.submodules for block in bridge.blocks),
            ungrouped=ungrouped,
            forks=forks,
        )
        try:
            found.record(torch.arange(2, device=next(bridge.parameters()).device).unsqueeze(0))
        except InputError as refusal:
            refusals.append(refusal)
        else:
            return found
    raise refusals[0]


def _d_mlp(bridge: TransformerBridge) -> int:
    """Neurons of an MLP; not every configuration says how many."""
    matrix = getattr(bridge.blocks[0].mlp, "W_out", None)
    return len(matrix) if isinstance(matrix, Tensor) else int(bridge.cfg.d_mlp or 4 * bridge.cfg.d_model)
