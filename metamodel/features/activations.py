"""Activation features of heads and MLPs, from task-free probes: random tokens, which any subject has.

Variance shares are of what a component *writes*, never of where it attends: mean attention at offsets,
stripes, sinks and the like define function labels, so no feature may carry them. `eta²` is bias-corrected
(Kelley's epsilon², 1935), so that chance level is zero whatever the number of groups.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.features.view import View

ALPHABETS = 4
ALPHABET = 10
PROMPTS = 24
"""Prompts of one alphabet."""
LENGTH = 20
OFFSETS = (0, 1, 2, 3, 4)
Columns = dict[str, Tensor]


def probes(v: View, *, seed: int) -> Int[Tensor, "alphabet batch pos"]:
    """Random tokens, few different ones a prompt so that they repeat; every other prompt starts with token 0.

    The last quarter of each alphabet's prompts says its first half twice.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    length = min(LENGTH, v.config.n_ctx)
    found = []
    for _ in range(ALPHABETS):
        some = v.tokens.cpu()[torch.randperm(len(v.tokens), generator=generator)[:ALPHABET]]
        drawn = some[torch.randint(len(some), (PROMPTS, length), generator=generator)]
        half = length // 2
        if half:
            drawn[-PROMPTS // 4 :, half : 2 * half] = drawn[-PROMPTS // 4 :, :half]
        drawn[::2, 0] = 0
        found.append(drawn)
    return torch.stack(found).to(v.E.device)


def activation_features(v: View, *, seed: int) -> tuple[Columns, Columns]:
    """Features `[layer, head]` of heads, and `[layer]` of MLPs."""
    tokens = probes(v, seed=seed)
    config = v.config
    groups = _groups(tokens)
    heads, mlps = [], []
    for part in range(ALPHABETS):
        sites = [
            f"blocks.{layer}.{site}" for layer in range(config.n_layers) for site in _sites(config.has_mlp)
        ]
        taps = v.subject.run(tokens[part], taps=sites).taps
        mine = {name: value[part] for name, value in groups.items()}
        heads.append([_heads_of(v, taps, layer, mine) for layer in range(config.n_layers)])
        if config.has_mlp:
            mlps.append([_mlp_of(v, taps, layer, mine) for layer in range(config.n_layers)])
    return _averaged(heads), _averaged(mlps)


def _sites(has_mlp: bool) -> tuple[str, ...]:
    own = ("hook_resid_pre", "attn.hook_z", "attn.hook_pattern")
    return (*own, "hook_resid_mid", "hook_mlp_out", "mlp.hook_pre") if has_mlp else own


def _averaged(parts: list[list[Columns]]) -> Columns:
    if not parts:
        return {}
    names = parts[0][0]
    return {n: torch.stack([torch.stack([row[n] for row in part]) for part in parts]).mean(0) for n in names}


def _groups(tokens: Int[Tensor, "alphabet batch pos"]) -> dict[str, Int[Tensor, "alphabet batch pos"]]:
    """Group of every position under each explanation; -1 where it does not apply."""
    n_pos = tokens.shape[-1]
    at = torch.arange(n_pos, device=tokens.device)
    nowhere = torch.full_like(tokens, -1)
    groups = {}
    for k in OFFSETS:
        shifted = nowhere.clone()
        if k < n_pos:
            shifted[..., k:] = tokens[..., : n_pos - k]
        groups[f"token_at_{k}"] = shifted
    groups["position"] = at.expand_as(tokens).contiguous()
    groups["first_token"] = torch.where(at > 0, tokens[..., :1], nowhere)
    same = (tokens[..., :, None] == tokens[..., None, :]) & (at[None, :] < at[:, None])
    previous = torch.where(same, at, -1).amax(-1)
    after = tokens.gather(-1, (previous + 1).clamp(0, n_pos - 1))
    groups["after_previous"] = torch.where(previous >= 0, after, nowhere)
    before = tokens.gather(-1, (previous - 1).clamp(0, n_pos - 1))
    groups["before_previous"] = torch.where(previous >= 1, before, nowhere)
    groups["seen_before"] = torch.where(at > 0, (previous >= 0).long(), nowhere)
    return groups


def explained(
    x: Float[Tensor, "sample *unit d_model"], group: Int[Tensor, " sample"]
) -> Float[Tensor, "*unit"]:
    """Share of the variance of `x` that its groups explain, corrected for their number; about 0 by chance."""
    keep = group >= 0
    x, group = x[keep], group[keep]
    if x.shape[0] < 3:
        return x.new_zeros(x.shape[1:-1])
    members, index = group.unique(return_inverse=True)
    one_hot = torch.nn.functional.one_hot(index, len(members)).to(x)
    count = one_hot.sum(0)
    x = x - x.mean(0)
    total = x.pow(2).sum((0, -1))
    means = (one_hot.T @ x.flatten(1)).view(len(members), *x.shape[1:]) / count.view(
        -1, *([1] * (x.ndim - 1))
    )
    between = (means.pow(2) * count.view(-1, *([1] * (x.ndim - 1)))).sum((0, -1))
    free, groups = x.shape[0] - len(members), len(members) - 1
    if free <= 0 or groups <= 0:
        return torch.zeros_like(total)
    within = (total - between) / free
    return ((between - groups * within) / total.clamp_min(1e-15)).clamp(-1, 1)


def _written(out: Float[Tensor, "batch pos *unit d_model"], groups: dict[str, Tensor]) -> Columns:
    """Features of what a component writes."""
    flat = out.flatten(0, 1)
    columns = {f"writes_by_{name}": explained(flat, group.flatten()) for name, group in groups.items()}
    centred = flat - flat.mean(0)
    square = centred.pow(2).sum(-1)
    columns["varying_share"] = square.mean(0) / flat.pow(2).sum(-1).mean(0).clamp_min(1e-15)
    first = groups["position"].flatten() == 0
    columns["first_position_size"] = (
        square[first].mean(0).clamp_min(1e-12) / square.mean(0).clamp_min(1e-12)
    ).log()
    half = out.shape[1] // 2
    n = out.shape[0] // 4
    by_half = square.unflatten(0, out.shape[:2])
    said_twice = by_half[-n:, half : 2 * half].mean((0, 1)) if half else by_half.mean((0, 1))
    otherwise = by_half[:-n, half : 2 * half].mean((0, 1)) if half else by_half.mean((0, 1))
    columns["repetition_response"] = (said_twice.clamp_min(1e-12) / otherwise.clamp_min(1e-12)).log()
    return columns


def participation(out: Float[Tensor, "sample *unit width"]) -> Float[Tensor, "*unit"]:
    """Log participation ratio of the centred second moment."""
    x = (out - out.mean(0)).movedim(0, -2)
    moment = x.transpose(-1, -2) @ x if x.shape[-1] < x.shape[-2] else x @ x.transpose(-1, -2)
    trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace.pow(2) / moment.pow(2).sum((-1, -2)).clamp_min(1e-30)).clamp(1, 1e6).log()


def _heads_of(v: View, taps: dict[str, Tensor], layer: int, groups: dict[str, Tensor]) -> Columns:
    attn = f"blocks.{layer}.attn"
    z, pattern = taps[f"{attn}.hook_z"][0], taps[f"{attn}.hook_pattern"][0]
    # z times the root of W_O W_Oᵀ has the second moments of the result at a fraction of its width
    narrow = torch.linalg.qr(v.W_O[layer].transpose(-1, -2)).R.transpose(-1, -2)
    out = torch.einsum("bphd,hde->bphe", z.to(narrow), narrow)
    columns = _written(out, groups)
    flat = out.flatten(0, 1)
    columns["participation"] = participation(flat)
    resid = taps[f"blocks.{layer}.hook_resid_pre"].to(narrow)
    columns["relative_size"] = relative(flat, resid, centred=v.config.has_norm)
    n_pos = pattern.shape[-1]
    rows = slice(min(1, n_pos - 1), None)
    entropy = -(pattern * pattern.clamp_min(1e-12).log()).sum(-1)[..., rows]
    n_keys = torch.arange(1, n_pos + 1, device=pattern.device)[rows].to(pattern)
    if v.config.attention_dir == "bidirectional":
        n_keys = torch.full_like(n_keys, n_pos)
    share = entropy / n_keys.log().clamp_min(1e-9)
    columns["attention_entropy"] = share.mean((0, 2)).to(flat)
    columns["attention_entropy_spread"] = share.std((0, 2), correction=0).to(flat)
    return columns


def relative(flat: Tensor, resid: Tensor, *, centred: bool) -> Tensor:
    """Log size of what varies in the output, over the size of the residual stream that is read."""
    own = (flat - flat.mean(0)).pow(2).sum(-1).mean(0).clamp_min(1e-15)
    resid = resid - resid.mean(-1, keepdim=True) if centred else resid
    whole = resid.pow(2).sum(-1).mean().clamp_min(1e-15)
    return ((own / whole).log() / 2).clamp(-9, 9)


def _mlp_of(v: View, taps: dict[str, Tensor], layer: int, groups: dict[str, Tensor]) -> Columns:
    block = f"blocks.{layer}"
    out = taps[f"{block}.hook_mlp_out"][0]
    columns = _written(out, groups)
    flat = out.flatten(0, 1)
    columns["participation"] = participation(flat)
    columns["relative_size"] = relative(flat, taps[f"{block}.hook_resid_mid"], centred=v.config.has_norm)
    active = (taps[f"{block}.mlp.hook_pre"][0] > 0).flatten(0, 1).to(flat).mean(0)
    columns["active_share"] = active.mean()
    columns["active_spread"] = active.std(correction=0)
    return columns
