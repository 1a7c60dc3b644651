"""Components of one subject put in the place of those of another: what every causal transplant is made of.

One orthogonal map R of residual streams is fitted for the two subjects, on other prompts than those that
count: a map for each pair of components would transplant anything. Then what i writes in the first subject on
a source prompt is carried by R into the second in place of what j writes there, and the answer is compared
with the one under the second's own interchange (j writes what it writes on the source prompt), among places
where that changes the answer (Geiger et al. 2021; across models, Model Alignment Search, arXiv 2501.06164).
Both subjects are taken in their canonical form, so that no change of basis moves a score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.procrustes import evenly, procrustes, ratio
from metamodel.circuits.weight_gradients import writing_sites, written
from metamodel.config.errors import require
from metamodel.subjects.canonical import canonical
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.config import Component, SubjectConfig, components, depth_fraction
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
class Shares:
    """How well components stand in for others, as shares of the places in [0, 1]; NaN for too few places."""

    n_places: int
    """Prompts whose answer the second's own interchange changes."""
    match: float
    """Share of these where the transplant gives the answer of the interchange."""
    null: float
    """The same, median over other components in their place; NaN where there are none."""
    within: float
    """The same, of the second's own writes, passed through what R can reach of its stream: 1 where the first
    subject is as wide as the second."""

    @property
    def ratio(self) -> float:
        """TR = (match − null) / (within − null): 1 where they do all of the work, 0 where no more than random
        ones; NaN where there is next to no room between null and within."""
        room = self.within - self.null
        return (self.match - self.null) / room if room >= LEAST_ROOM else float("nan")


class Exchange:
    """What both subjects write, and the map between their streams, ready to be exchanged."""

    @torch.no_grad()
    def __init__(
        self,
        first: Subject,
        second: Subject,
        prompts: Int[Tensor, "batch pos"],
        sources: Int[Tensor, "batch pos"],
        position: Int[Tensor, " batch"],
        *,
        probes: Int[Tensor, "probe pos"],
        stream_map: StreamMap | None = None,
    ):
        """Args:
            prompts: on which the second subject runs.
            sources: the prompt from which each takes what is exchanged.
            position: where the answer of each prompt is read.
            probes: prompts that both embed, on which R is fitted; none of `prompts` or `sources`.
            stream_map: fitted before, for canonical forms.

        Raises: InputError for tokens that a subject does not embed.
        """
        for subject in (first, second):
            for name, tokens in {"prompts": prompts, "sources": sources, "probes": probes}.items():
                check_tokens(subject.config, tokens, where=name, who=subject.name)
        self._first, self._second = canonical(first), canonical(second)
        self.names, self.theirs = components(first.config), components(second.config)
        self._map = fitted(self._first, self._second, probes) if stream_map is None else stream_map
        self._prompts, self._position = prompts, position
        self._mine, self._mean = (_writes(self._first, tokens) for tokens in (sources, probes))
        self._own, self._own_mean = (_writes(self._second, tokens) for tokens in (sources, probes))
        self._mean, self._own_mean = self._mean.mean((1, 2)), self._own_mean.mean((1, 2))
        self._base = _answers(self._second, prompts, position, {})

    def check(self, pairs: Int[Tensor, "item 2"]) -> None:
        """Raises: InputError for pairs of embeddings, or of components of two kinds."""
        for i, j in pairs.tolist():
            kinds = (self.names[i].kind, self.theirs[j].kind)
            require(
                kinds[0] == kinds[1] and kinds[0] in ("head", "mlp"),
                "pairs",
                expected="two heads, or two MLPs",
                got=f"{self.names[i].name} and {self.theirs[j].name}",
                do="Leave other pairs out.",
            )

    @torch.no_grad()
    def shares(self, pairs: Sequence[tuple[int, int]], others: Sequence[Sequence[int | None]]) -> Shares:
        """Of pairs that are exchanged all at once.

        Args:
            others: for each draw of the null, the component of the first subject that stands in for each
                pair's own; None for what the second's writes on average.
        """
        readers = [j for _, j in pairs]
        wanted = self._answered({j: self._own[j] for j in readers})
        places = wanted != self._base
        if int(places.sum()) < FEWEST_PLACES:
            return Shares(n_places=int(places.sum()), match=torch.nan, null=torch.nan, within=torch.nan)

        def share(writes: Sequence[Tensor]) -> float:
            held = {self.theirs[j]: write[places] for j, write in zip(readers, writes, strict=True)}
            got = _answers(self._second, self._prompts[places], self._position[places], held)
            return float((got == wanted[places]).float().mean())

        def of(ours: Sequence[int | None]) -> float:
            return share([self._stand_in(i, j) for i, j in zip(ours, readers, strict=True)])

        reached = [self._own_mean[j] + self._map.reached(self._own[j] - self._own_mean[j]) for j in readers]
        return Shares(
            n_places=int(places.sum()),
            match=of([i for i, _ in pairs]),
            null=median(of(drawn) for drawn in others) if others else torch.nan,
            within=share(reached),
        )

    def alike(self, i: int) -> list[int]:
        """Other components of the first subject, of i's kind within its depth band; all others of its kind if
        there are none."""
        depth = [depth_fraction(name, self._first.config) for name in self.names]
        kind = [k for k, name in enumerate(self.names) if k != i and name.kind == self.names[i].kind]
        return [k for k in kind if abs(depth[k] - depth[i]) <= DEPTH_BAND] or kind

    def _stand_in(self, i: int | None, j: int) -> Float[Tensor, "batch pos d_model"]:
        if i is None:
            return self._own_mean[j].expand_as(self._own[j])
        return self._own_mean[j] + self._map.carried(self._mine[i] - self._mean[i])

    def _answered(self, written: Mapping[int, Tensor]) -> Int[Tensor, " batch"]:
        held = {self.theirs[j]: write for j, write in written.items()}
        return _answers(self._second, self._prompts, self._position, held)


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


def stream_sites(config: SubjectConfig) -> list[str]:
    """Sites of the residual stream at depths 0, 1/2 and 1."""
    n = config.n_layers
    ends = [f"blocks.{layer}.hook_resid_post" for layer in ((n - 1) // 2, n - 1)]
    return ["blocks.0.hook_resid_pre", *ends]


def _streams(subject: Subject, probes: Int[Tensor, "probe pos"]) -> list[Float[Tensor, "sample d_model"]]:
    sites = stream_sites(subject.config)
    taps = subject.run(probes, taps=sites).taps
    return [taps[name][0].flatten(0, 1) for name in sites]


def _writes(subject: Subject, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "source batch pos d_model"]:
    """What each component writes, in the order of `components` without the unembedding."""
    taps = subject.run(tokens, taps=writing_sites(subject.config)).taps
    return written(subject.stacked, subject.config, taps)[0]


def _answers(
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
