"""Which component is to blame: every head and every MLP is changed alone, until what is known comes right.

A damaged component is small beside what pairs and inputs to keep say together: the change of one head's
`W_O` that makes all of them come right makes inputs come right that were not shown, too. So each component
gets a change of its own, fitted to the known examples, and the network sees how well each fit went. Inputs to
keep want what the subject answers, for certain: damage makes it unsure even where it is right.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Told
from metamodel.networks.editing.descent import TINY, Aim, Said, descended, divergence
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward, run_from_heads

N_STEPS = 24
RIDGE = 0.01
"""Ridge of the preconditioner, relative to the mean moment."""
DECAY = 0.005
"""Weight of a change's size: square norm relative to the mean of all components."""
N_LOOKS = 11
"""Numbers that describe a fit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fits:
    """A change of each component, in the order in which they compute, heads before the MLP of their layer."""

    changes: Mapping[str, Tensor]
    """`[subject, head, ...]` or `[subject, ...]`: by weight, each head's fit at its own place."""
    loss: Float[Tensor, "subject site"]
    """Divergence of what is said from what is wanted, with the price of the change."""
    looks: Float[Tensor, "subject site look"]
    """How well each fit went."""
    said: Float[Tensor, "subject site example answer"]
    """What the subject says of all examples with each fit alone, as distributions over answers."""


def n_components(config: SubjectConfig) -> int:
    """Heads and MLPs."""
    return config.n_layers * (config.n_heads + config.has_mlp)


@torch.no_grad()
def fits(
    told: Told,
    wanted: Float[Tensor, "subject known d_vocab"],
    weight: Float[Tensor, "subject known"],
    before: Float[Tensor, "subject example answer"],
) -> Fits:
    """Fits every component of each subject.

    Args:
        wanted: distributions over tokens, of the first examples.
        weight: of these examples; zero for padding.
        before: what is said of all examples, as distributions over answers.
    """
    config, n = told.config, wanted.shape[1]
    writers = [f"blocks.{layer}.{part}" for layer in range(config.n_layers) for part in _parts(config)]
    size = torch.stack([told.weights[name].square().flatten(1).sum(1) for name in writers]).sum(0)
    aim = Aim(
        wanted=wanted,
        weight=weight / weight.sum(1, keepdim=True).clamp_min(TINY),
        decay=DECAY,
        scale=size / n_components(config),
    )
    names = [f"blocks.{layer}.{at}" for layer in range(config.n_layers) for at in _taps(config)]
    run = forward(told.weights, config, told.tokens, taps=names)
    changes, losses, looks, said = {}, [], [], []
    for layer in range(config.n_layers):
        tail = _Tail.of(told, run.taps, layer)
        for name in (f"blocks.{layer}.{part}" for part in _parts(config)):
            change, known = tail.first(n).fit(name, aim)
            changes[name] = change if name.endswith("W_O") else change[:, 0]
            price = change.square().sum((2, 3)) / aim.scale[:, None]
            each = divergence(known, aim.wanted)
            losses.append((each * aim.weight[:, None]).sum(-1) + aim.decay * price)
            said.append(_among(tail.said(name, change.shape[1])(change), told))
            right = (known.argmax(-1) == aim.wanted.argmax(-1)[:, None]).to(each.dtype)
            like = torch.ones_like(price)
            parts = [
                part
                for one in (PAIR, KEEP)
                for part in _of(told.role[:, :n] == one, each.clamp(max=5), right)
            ]
            parts += [price.log1p(), like * name.endswith("W_O"), like * (layer + 1) / config.n_layers]
            parts += [like * n_components(config) / 10, *_confidence(said[-1], before, told)]
            looks.append(torch.stack(parts, dim=-1))
    return Fits(
        changes=changes,
        loss=torch.cat(losses, dim=1),
        looks=torch.cat(looks, dim=1),
        said=torch.cat(said, dim=1),
    )


def mixed(found: Fits, share: Float[Tensor, "subject site"], config: SubjectConfig) -> dict[str, Tensor]:
    """The changes of all components, each times its share."""
    parts, at = {}, 0
    for layer in range(config.n_layers):
        name = f"blocks.{layer}.attn.W_O"
        parts[name] = found.changes[name] * share[:, at : at + config.n_heads, None, None]
        at += config.n_heads
        if config.has_mlp:
            name = f"blocks.{layer}.mlp.W_out"
            parts[name] = found.changes[name] * share[:, at, None, None]
            at += 1
    return parts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tail:
    """A subject from the heads of one layer on; of the last layer, at the answer positions alone."""

    config: SubjectConfig
    weights: Weights
    layer: int
    resid: Float[Tensor, "subject example pos d_model"]
    z: Float[Tensor, "subject example pos head d_head"]
    post: Tensor
    """Neurons; nothing where there is no MLP."""
    position: Tensor

    @classmethod
    def of(cls, told: Told, taps: Mapping[str, Tensor], layer: int) -> "_Tail":
        position = told.position
        parts = [taps[f"blocks.{layer}.{at}"] for at in _taps(told.config)]
        if layer == told.config.n_layers - 1:
            parts = [_at(x, position) for x in parts]
            position = torch.zeros_like(position)
        return cls(
            config=told.config,
            weights=told.weights,
            layer=layer,
            resid=parts[0],
            z=parts[1],
            post=parts[2] if told.config.has_mlp else parts[0][..., :0],
            position=position,
        )

    def first(self, n: int) -> "_Tail":
        """The same on the first examples."""
        parts = {name: getattr(self, name)[:, :n] for name in ("resid", "z", "post", "position")}
        return replace(self, **parts)

    def fit(self, name: str, aim: Aim) -> tuple[Tensor, Tensor]:
        """The change of each head, or of the MLP, and what is then said."""
        config = self.config
        if name.endswith("W_O"):
            u = self.z.flatten(1, 2).transpose(1, 2)
            shape = (config.n_heads, config.d_head)
        else:
            u = self.post.flatten(1, 2)[:, None]
            shape = (1, config.d_mlp)
        weight = aim.weight[:, :, None].expand(self.z.shape[:3]).flatten(1, 2)
        moment = (u * weight[:, None, :, None]).mT @ u
        start = moment.new_zeros(len(u), *shape, config.d_model)
        return descended(self.said(name, shape[0]), _solver(moment), start, aim, N_STEPS)

    def said(self, name: str, n_sites: int) -> Said:
        behind = {key: w for key, w in self.weights.items() if self._is_behind(key)}
        stacked = {key: w.repeat_interleave(n_sites, 0) for key, w in behind.items()}
        resid, z = (x.repeat_interleave(n_sites, 0) for x in (self.resid, self.z))
        position = self.position.repeat_interleave(n_sites, 0)
        own = torch.eye(n_sites, dtype=resid.dtype, device=resid.device)

        def said(change: Tensor) -> Tensor:
            if name.endswith("W_O"):  # site k changes head k
                added = torch.einsum("kh,skdm->skhdm", own, change).flatten(0, 1)
            else:
                added = change.flatten(0, 1)
            weights = {**stacked, name: stacked[name] + added}
            logits = run_from_heads(weights, self.config, resid, z, layer=self.layer).logits
            return _at(logits, position)[:, :, 0].unflatten(0, (-1, n_sites))

        return said

    def _is_behind(self, key: str) -> bool:
        return not key.startswith("blocks.") or int(key.split(".")[1]) >= self.layer


def _solver(moment: Float[Tensor, "subject site row column"]):
    scale = moment.diagonal(dim1=2, dim2=3).mean(2)
    # a head that attends to nothing it reads writes nothing, whatever its change
    scale = torch.where(scale > 0, scale, 1.0)
    eye = torch.eye(moment.shape[2], dtype=moment.dtype, device=moment.device)
    solve = torch.linalg.inv(moment + RIDGE * scale[..., None, None] * eye)
    return lambda gradient: solve @ gradient


def _among(logits: Tensor, told: Told) -> Float[Tensor, "subject site example answer"]:
    index = told.answers[:, None, None].expand(*logits.shape[:3], -1)
    hidden = ~told.answer_mask[:, None, None]
    return logits.gather(3, index).masked_fill(hidden, -torch.inf).softmax(-1)


def _of(
    among: Bool[Tensor, "subject known"], *parts: Float[Tensor, "subject site known"]
) -> list[Float[Tensor, "subject site"]]:
    """Means over some of the known examples; zero where there are none."""
    weight = among[:, None].to(parts[0].dtype)
    return [(part * weight).sum(-1) / weight.sum(-1).clamp_min(1) for part in parts]


def _confidence(
    said: Float[Tensor, "subject site example answer"],
    before: Float[Tensor, "subject example answer"],
    told: Told,
) -> list[Float[Tensor, "subject site"]]:
    """How much surer than before a subject is of inputs without an answer; how many of these it answers
    otherwise; and how sure it is of those. A component put right makes it sure of all."""
    other = (told.role == UNLABELLED)[:, None].to(said.dtype)
    n = other.sum(-1).clamp_min(1)
    sure = said.amax(-1)
    moved = (said.argmax(-1) != before.argmax(-1)[:, None]).to(said.dtype) * other
    return [
        ((sure - before.amax(-1)[:, None]) * other).sum(-1) / n,
        moved.sum(-1) / n,
        (sure * moved).sum(-1) / moved.sum(-1).clamp_min(1),
    ]


def _parts(config: SubjectConfig) -> tuple[str, ...]:
    return ("attn.W_O", "mlp.W_out") if config.has_mlp else ("attn.W_O",)


def _taps(config: SubjectConfig) -> tuple[str, ...]:
    names = ("hook_resid_pre", "attn.hook_z")
    return (*names, "mlp.hook_post") if config.has_mlp else names


def _at(x: Tensor, position: Tensor) -> Tensor:
    """One position of each example, kept as an axis of length one."""
    index = position.view(*position.shape, *([1] * (x.ndim - 2))).expand(-1, -1, 1, *x.shape[3:])
    return x.gather(2, index)
