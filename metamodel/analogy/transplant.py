"""Causal transplant: whether a component of one subject does the work of its counterpart in another.

One orthogonal map R of residual streams is fitted for the two subjects, on other prompts than those that
count: a map for each pair of components would transplant anything. Then, for i ↔ j, what i writes in the
first subject on a source prompt is carried by R into the second in place of what j writes there, and the
answer is compared with the one under the second's own interchange (j writes what it writes on the source
prompt), among places where that changes the answer (Geiger et al. 2021; across models, Model Alignment
Search, arXiv 2501.06164):

    TR = (IIA_match − IIA_null) / (IIA_within − IIA_null)

`null` is the same with other components of i's kind and depth band in its place; `within` is j's own write,
passed through what R can reach of the second's stream: 1 where the first subject is as wide as the second.
Both subjects are taken in their canonical form, so that no change of basis moves a score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.procrustes import evenly, procrustes, ratio
from metamodel.config.errors import require
from metamodel.subjects.canonical import canonical
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.config import Component, components, depth_fraction
from metamodel.subjects.forward import forward
from metamodel.subjects.sites import Replacement
from metamodel.subjects.subject import Subject

DEPTH_BAND = 0.34
"""Difference of depth fraction within which another component belongs to the null."""
FEWEST_PLACES = 4
"""Prompts whose answer the interchange changes, below which a pair has no score."""
LEAST_ROOM = 0.05
"""Room between null and within, below which a ratio says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamMap:
    """`scale · (x − first_mean) R + second_mean`, from the stream of one subject to that of another."""

    rotation: Float[Tensor, "d_model column"]
    """R: orthogonal, or semi-orthogonal where widths differ."""
    scale: float
    first_mean: Float[Tensor, " d_model"]
    second_mean: Float[Tensor, " column"]

    def carried(self, write: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest column"]:
        """A difference of writes, as one in the other stream."""
        return self.scale * write @ self.rotation

    def reached(self, write: Float[Tensor, "*rest column"]) -> Float[Tensor, "*rest column"]:
        """What is left of a difference of the other stream in the image of R."""
        return write @ self.rotation.mT @ self.rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Transplanted:
    """How well one component stands in for another, as shares of the places in [0, 1]."""

    first: str
    second: str
    n_places: int
    """Prompts whose answer the second's own interchange changes."""
    match: float
    """Share of these where the transplant gives the answer of the interchange. NaN for too few places."""
    null: float
    """The same, median over other components of its kind and depth, for the right one may be among them; NaN
    where there is none."""
    within: float
    """The same, of the second's own write through the map."""

    @property
    def ratio(self) -> float:
        """TR: 1 where it does all of the work, 0 where no more than a random one; NaN where undefined."""
        return ratio_of(self.match, self.null, self.within)


def ratio_of(match: float, null: float, within: float) -> float:
    """`(match − null) / (within − null)`; NaN where there is next to no room between null and within."""
    room = within - null
    return (match - null) / room if room >= LEAST_ROOM else float("nan")


def check_pairs(
    first: Subject,
    second: Subject,
    pairs: Int[Tensor, "item 2"],
    tokens: Mapping[str, Int[Tensor, "batch pos"]],
) -> None:
    """Raises: InputError for tokens that a subject does not embed, pairs of embeddings or of other kinds."""
    for subject in (first, second):
        for name, prompts in tokens.items():
            check_tokens(subject.config, prompts, where=name, who=subject.name)
    names, theirs = components(first.config), components(second.config)
    for i, j in pairs.tolist():
        kinds = (names[i].kind, theirs[j].kind)
        require(
            kinds[0] == kinds[1] and kinds[0] in ("head", "mlp"),
            "pairs",
            expected="two heads, or two MLPs",
            got=f"{names[i].name} and {theirs[j].name}",
            do="Leave other pairs out.",
        )


@torch.no_grad()
def transplant(
    first: Subject,
    second: Subject,
    pairs: Int[Tensor, "item 2"],
    prompts: Int[Tensor, "batch pos"],
    sources: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"],
    *,
    probes: Int[Tensor, "probe pos"],
    stream_map: StreamMap | None = None,
) -> tuple[Transplanted, ...]:
    """The score of each pair of components.

    Args:
        pairs: indices into `components` of the first and of the second subject; heads or MLPs.
        prompts: on which the second subject runs.
        sources: the prompt from which each takes one component.
        position: where the answer of each prompt is read.
        probes: prompts that both embed, on which R is fitted; none of `prompts` or `sources`.
        stream_map: fitted before, for canonical forms.

    Raises: InputError for tokens that a subject does not embed, or pairs of embeddings or of other kinds.
    """
    check_pairs(first, second, pairs, {"prompts": prompts, "sources": sources, "probes": probes})
    one, other = canonical(first), canonical(second)
    names, theirs = components(one.config), components(other.config)
    through = fitted(one, other, probes) if stream_map is None else stream_map
    mine, mean = writes_of(one, sources), writes_of(one, probes).mean((1, 2))
    own, own_mean = writes_of(other, sources), writes_of(other, probes).mean((1, 2))
    base = answers(other, prompts, position, {})
    found = []
    for i, j in pairs.tolist():
        wanted = answers(other, prompts, position, {theirs[j]: own[j]})
        places = wanted != base

        def share(write: Tensor, wanted: Tensor = wanted, places: Tensor = places, j: int = j) -> float:
            got = answers(other, prompts[places], position[places], {theirs[j]: write[places]})
            return float((got == wanted[places]).float().mean())

        def stand_in(k: int, j: int = j) -> Tensor:
            return own_mean[j] + through.carried(mine[k] - mean[k])

        if int(places.sum()) < FEWEST_PLACES:
            match = null = within = float("nan")
        else:
            match = share(stand_in(i))
            rest = alike(one, names, i)
            null = median(share(stand_in(k)) for k in rest) if rest else float("nan")
            within = share(own_mean[j] + through.reached(own[j] - own_mean[j]))
        found.append(
            Transplanted(
                first=names[i].name,
                second=theirs[j].name,
                n_places=int(places.sum()),
                match=match,
                null=null,
                within=within,
            )
        )
    return tuple(found)


def pooled(found: Sequence[Transplanted]) -> float:
    """TR of all pairs together, each counting by its places: one pair's small room weighs little.

    0 where there is no pair with places: nothing was transplanted.
    """
    known = [one for one in found if one.within == one.within and one.null == one.null]
    gained = sum(one.n_places * (one.match - one.null) for one in known)
    room = sum(one.n_places * (one.within - one.null) for one in known)
    places = sum(one.n_places for one in known)
    return gained / room if room >= LEAST_ROOM * places and places else 0.0


@torch.no_grad()
def fitted(first: Subject, second: Subject, probes: Int[Tensor, "probe pos"]) -> StreamMap:
    """The orthogonal map, with one scale, that brings the streams of two subjects nearest (Procrustes).

    Streams before the first block, behind the first half and behind the last of the blocks are stacked, so
    that one map serves all depths, as the residual stream has one basis.
    """
    (x, x_size), (y, y_size) = (evenly(_streams(subject, probes)) for subject in (first, second))
    x_mean, y_mean = x.mean(0), y.mean(0)
    rotation, scale = procrustes(x - x_mean, y - y_mean)
    scale = float(scale * ratio(x_size, y_size))  # writes are carried as they are
    return StreamMap(rotation=rotation, scale=scale, first_mean=x_mean, second_mean=y_mean)


def _streams(subject: Subject, probes: Int[Tensor, "probe pos"]) -> list[Float[Tensor, "sample d_model"]]:
    """Residual streams at depths 0, 1/2 and 1."""
    n = subject.config.n_layers
    names = [
        "blocks.0.hook_resid_pre",
        f"blocks.{(n - 1) // 2}.hook_resid_post",
        f"blocks.{n - 1}.hook_resid_post",
    ]
    taps = subject.run(probes, taps=names).taps
    return [taps[name][0].flatten(0, 1) for name in names]


def writes_of(subject: Subject, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "node batch pos d_model"]:
    """What each component writes; zero for the unembedding."""
    c = subject.config
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(c.n_layers):
        names.append(f"blocks.{layer}.attn.hook_result")
        names += [f"blocks.{layer}.hook_mlp_out"] if c.has_mlp else []
    taps = subject.run(tokens, taps=names).taps
    parts = []
    for name in names:
        value = taps[name][0]
        parts.append(value.permute(2, 0, 1, 3) if name.endswith("hook_result") else value[None])
    return torch.cat([*parts, torch.zeros_like(parts[0])])


def answers(
    subject: Subject,
    tokens: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"],
    written: Mapping[Component, Float[Tensor, "batch pos d_model"]],
) -> Int[Tensor, " batch"]:
    """Likeliest tokens, where some heads and MLPs write something else."""
    heads: dict[str, list[tuple[int, Tensor]]] = {}
    replace: dict[str, Replacement] = {}
    for component, write in written.items():
        if component.kind == "head":
            held = heads.setdefault(f"blocks.{component.layer}.attn.hook_result", [])
            held.append((component.head, write))
        else:
            replace[f"blocks.{component.layer}.hook_mlp_out"] = lambda value, write=write: write[None]

    def patched(name: str) -> Replacement:
        def replaced(value: Tensor) -> Tensor:
            value = value.clone()
            for head, write in heads[name]:
                value[0, :, :, head] = write
            return value

        return replaced

    replace |= {name: patched(name) for name in heads}
    run = forward(subject.stacked, subject.config, tokens, replace=replace)
    return run.logits[0, torch.arange(len(tokens)), position].argmax(-1)


def alike(subject: Subject, names: Sequence[Component], i: int) -> list[int]:
    """Other components of its kind within its depth band; all others of its kind if there are none."""
    depth = [depth_fraction(name, subject.config) for name in names]
    kind = [k for k, name in enumerate(names) if k != i and name.kind == names[i].kind]
    return [k for k in kind if abs(depth[k] - depth[i]) <= DEPTH_BAND] or kind
