"""Exact score of edges resolved by spans of positions: between which positions an edge carries what matters.

An edge into q, k or v of a head has an entry for each pair (query span, key span), into an MLP or the logits
one for each span. Patched alone is

    q        the query at positions of the query span, in attention scores with keys of the key span
    k        keys of the key span, in scores of queries of the query span
    v        values of the key span, as mixed into outputs at positions of the query span
    in       what the MLP reads at positions of the span
    logits   what the unembedding reads there

and everything behind is recomputed. With one span over all positions an entry is the edge's own score.
Entries do not sum to it: softmax and what follows are not linear. An entry whose two spans differ is a
crossing: only those move information between positions. All is suffix only, many edges and pairs at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, base_run, check_intervention
from metamodel.circuits.exact import Exact
from metamodel.circuits.graph import Edge, component_edges
from metamodel.circuits.metrics import Metric, check_metric
from metamodel.circuits.network import Network, subject_of
from metamodel.circuits.prompts import Prompts, check_answers_differ
from metamodel.circuits.scores import standard_error
from metamodel.circuits.spans import Spans, check_spans
from metamodel.circuits.stream import Stream
from metamodel.config.errors import require
from metamodel.subjects.subject import Subject

if TYPE_CHECKING:
    import pandas

LIMIT = 100_000
"""Edges times squared spans, above which `span_scores` wants to be told which edges, or `refine` is used."""
_CHUNK = 1_000_000
"""Numbers in the widest array of one chunk of edges."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpanScores:
    """A number for each entry: an edge, and a pair of spans. Signed: metric(patched) - metric(unpatched)."""

    edges: tuple[Edge, ...]
    spans: Spans
    intervention: Intervention
    metric: Metric
    edge: Int[Tensor, " entry"]
    """Index into `edges`."""
    query_span: Int[Tensor, " entry"]
    """Where information arrives; for an MLP or the logits the span itself."""
    key_span: Int[Tensor, " entry"]
    """Where it comes from; for an MLP or the logits the span itself."""
    value: Float[Tensor, " entry"]
    """Mean over prompts; exactly 0 where no query of the one span sees any key of the other."""
    se: Float[Tensor, " entry"]
    """Standard error of that mean over prompts; NaN for one prompt."""
    base: float
    """Mean metric of the run in which edges are patched."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def crossing(self) -> Bool[Tensor, " entry"]:
        """Whether an entry moves information from one span to another."""
        return self.query_span != self.key_span

    def ranking(self) -> Int[Tensor, " entry"]:
        """Indices of entries, largest effect first."""
        return self.value.abs().argsort(descending=True, stable=True)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row an entry, largest effect first: ends, channel, query_span, key_span, crossing, value, se."""
        import pandas

        rows = []
        for i in self.ranking().tolist():
            edge = self.edges[int(self.edge[i])]
            rows.append(
                {
                    "source": edge.source.name,
                    "destination": edge.destination.component.name,
                    "channel": edge.destination.channel,
                    "query_span": self.spans.names[int(self.query_span[i])],
                    "key_span": self.spans.names[int(self.key_span[i])],
                    "crossing": bool(self.crossing[i]),
                    "value": float(self.value[i]),
                    "se": float(self.se[i]),
                }
            )
        return pandas.DataFrame(rows)


@torch.no_grad()
def span_scores(
    network: Network | nn.Module,
    prompts: Prompts,
    spans: Spans,
    edges: Sequence[Edge] | None = None,
    metric: str = "margin",
    intervention: str = "noising",
    *,
    freeze_norm: bool = False,
) -> SpanScores:
    """Scores of edges between spans.

    Args:
        edges: some of `component_edges(subject.config).edges`; by default all.
        metric: one of `metrics.METRICS`.
        intervention: one of `base_run.INTERVENTIONS`.
        freeze_norm: whether LayerNorms keep the scales of the unpatched run.

    Raises: InputError if prompts, spans or edges do not fit the subject, edges times squared spans exceed
    `LIMIT`, clean and corrupt answers agree, or the subject is post-norm.
    """
    measured, how = check_metric(metric), check_intervention(intervention)
    check_spans(prompts, spans)
    subject = subject_of(network, "position-resolved edges")
    whole = component_edges(subject.config)
    chosen = whole.edges if edges is None else tuple(edges)
    _check_edges(subject, chosen)
    n_entries = len(chosen) * len(spans) ** 2
    require(
        n_entries <= LIMIT,
        "edges",
        expected=f"at most {LIMIT} edges times squared spans",
        got=n_entries,
        do="Score edges first and resolve the largest by refine(...), or use fewer spans.",
    )
    run = base_run(subject, prompts, how, freeze_norm=freeze_norm)
    check_answers_differ(prompts)
    resolver = _Resolver(stream=Stream.of(run, measured), delta=run.delta, members=spans.members)
    index = {source: i for i, source in enumerate(whole.sources)}
    by_reader: dict[tuple[int, str], list[int]] = {}
    for i, edge in enumerate(chosen):
        by_reader.setdefault((edge.destination.component.layer, edge.destination.channel), []).append(i)
    entries: dict[tuple[int, int, int], Tensor] = {}
    for (layer, channel), group in by_reader.items():
        source = torch.tensor([index[chosen[i].source] for i in group], device=run.outputs.device)
        if channel in ("q", "k", "v"):
            head = torch.tensor([chosen[i].destination.component.head for i in group], device=source.device)
            effect = resolver.heads(layer, channel, source, head)
            pairs = [(a, b) for a in range(len(spans)) for b in range(len(spans))]
        else:
            effect = resolver.rows(layer, channel, source)
            pairs = [(a, a) for a in range(len(spans))]
        for i, of_edge in zip(group, effect, strict=True):
            entries |= {(i, *pair): value for pair, value in zip(pairs, of_edge, strict=True)}
    keys = sorted(entries)
    effect = torch.stack([entries[key] for key in keys])
    return SpanScores(
        edges=chosen,
        spans=spans,
        intervention=how,
        metric=measured,
        edge=torch.tensor([key[0] for key in keys]),
        query_span=torch.tensor([key[1] for key in keys]),
        key_span=torch.tensor([key[2] for key in keys]),
        value=effect.mean(-1),
        se=standard_error(effect),
        base=resolver.stream.base(),
    )


def refine(
    network: Network | nn.Module,
    prompts: Prompts,
    spans: Spans,
    top: int = 20,
    metric: str = "margin",
    intervention: str = "noising",
    *,
    freeze_norm: bool = False,
) -> SpanScores:
    """Spans of the `top` edges only: exact scores of all edges first, then the largest are resolved.

    An edge whose spans cancel has a small score of its own and is missed; `span_scores` of all finds it.

    Raises: InputError as `span_scores`, or for fewer than one edge.
    """
    require(top >= 1, "top", expected="at least 1", got=top, do="Ask for 20 or so.")
    subject = subject_of(network, "position-resolved edges")
    scores = Exact(freeze_norm=freeze_norm).score(subject, prompts, metric, intervention)
    largest = [scores.edges.edges[i] for i in scores.ranking()[:top].tolist()]
    return span_scores(subject, prompts, spans, largest, metric, intervention, freeze_norm=freeze_norm)


def _check_edges(subject: Subject, edges: Sequence[Edge]) -> None:
    require(len(edges) > 0, "edges", expected="at least one edge", got="none", do="Name edges, or leave out.")
    known = frozenset(component_edges(subject.config).edges)
    for i, edge in enumerate(edges):
        require(
            edge in known,
            f"edges[{i}]",
            expected=f"an edge of {subject.name}",
            got=edge.name,
            do="Choose among component_edges(subject.config).edges.",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Resolver:
    """Patches edges between spans."""

    stream: Stream
    delta: Float[Tensor, "source batch pos d_model"]
    members: Bool[Tensor, "span batch pos"]

    def rows(
        self, layer: int, channel: str, source: Int[Tensor, " edge"]
    ) -> Float[Tensor, "edge span batch"]:
        """Edges into an MLP or the logits."""
        stream, config = self.stream, self.stream.run.config
        held = self.members.unsqueeze(-1)
        made = []
        for part in source.split(max(1, stream.chunk() // len(held))):
            delta = (self.delta[part].unsqueeze(1) * held).flatten(0, 1)
            if channel == "in":
                written = stream.read_by_mlp(layer, delta)
                effect = stream.effects(2 * layer + 2, written)
            else:
                effect = stream.effects(2 * config.n_layers, delta)
            made.append(effect.unflatten(0, (len(part), -1)))
        return torch.cat(made)

    def heads(
        self, layer: int, channel: str, source: Int[Tensor, " edge"], head: Int[Tensor, " edge"]
    ) -> Float[Tensor, "edge pair batch"]:
        """Edges into one channel of a block's heads; pairs run by query span, then by key span."""
        stream, run = self.stream, self.stream.run
        _, n_prompts, n_pos, d_model = run.outputs.shape
        seen = self.members[:, None, :, :, None] & self.members[None, :, :, None, :] & run.suffix.visible
        pairs = self._at_queries(layer, seen.flatten(0, 1))
        effect = run.outputs.new_zeros(len(source), len(pairs), n_prompts)
        alive = pairs.flatten(1).any(1).nonzero().squeeze(1)
        # A source that writes the same when patched has entries of exactly zero.
        changing = self.delta[source].flatten(1).any(1).nonzero().squeeze(1)
        if not len(alive):
            return effect
        widest = n_prompts * n_pos * len(alive) * max(n_pos, d_model)
        w_o = run.suffix.weights[f"blocks.{layer}.attn.W_O"]
        for part in changing.split(max(1, _CHUNK // widest)):
            change = self._change_of_z(layer, channel, source[part], head[part], pairs[alive])
            written = torch.bmm(change.flatten(1, -2), w_o[head[part]]).view(*change.shape[:-1], d_model)
            effects = stream.effects(2 * layer + 1, written.flatten(0, 1))
            effect[part.unsqueeze(1), alive] = effects.view(len(part), len(alive), n_prompts)
        return effect

    def _at_queries(
        self, layer: int, x: Float[Tensor, "*rest query column"] | Bool[Tensor, "*rest query column"]
    ) -> Tensor:
        """The queries that matter: all, or the one of each prompt's answer."""
        if not self.stream.answers_only(2 * layer + 1):
            return x
        suffix = self.stream.run.suffix
        return x[..., suffix.row, suffix.position, :].unsqueeze(-2)

    def _change_of_z(
        self,
        layer: int,
        channel: str,
        source: Int[Tensor, " edge"],
        head: Int[Tensor, " edge"],
        pairs: Bool[Tensor, "pair batch query key"],
    ) -> Float[Tensor, "edge pair *places d_head"]:
        """By what each edge's head writes something else, `d_head` before `W_O`, for each pair of spans."""
        run, suffix, block = self.stream.run, self.stream.run.suffix, f"blocks.{layer}"
        q, k, v, z = (run.taps[f"{block}.attn.hook_{x}"].permute(2, 0, 1, 3)[head] for x in "qkvz")
        normed = suffix.norm(run.taps[f"{block}.hook_resid_pre"] + self.delta[source], f"{block}.ln1")
        name = channel.upper()
        weight = suffix.weights[f"{block}.attn.W_{name}"][head]
        bias = suffix.weights[f"{block}.attn.b_{name}"][head]
        flat = torch.baddbmm(bias.unsqueeze(1), normed.flatten(1, 2), weight)
        patched = flat.unflatten(1, normed.shape[1:3])
        scale = run.config.d_head**-0.5
        if channel == "v":
            pattern = run.taps[f"{block}.attn.hook_pattern"].transpose(0, 1)[head]
            pattern = self._at_queries(layer, pattern).unsqueeze(1) * pairs
            change = pattern @ (patched - v).unsqueeze(1)
        else:
            scores = self._at_queries(layer, q) * scale @ k.mT
            visible = self._at_queries(layer, suffix.visible.expand(*z.shape[1:3], -1))
            if channel == "q":
                changed = self._at_queries(layer, patched) * scale @ k.mT
            else:
                changed = self._at_queries(layer, q) * scale @ patched.mT
            mixed = torch.where(pairs, changed.unsqueeze(1), scores.unsqueeze(1))
            pattern = mixed.masked_fill(~visible, -torch.inf).softmax(-1)
            change = pattern @ v.unsqueeze(1) - self._at_queries(layer, z).unsqueeze(1)
        return change.squeeze(-2) if self.stream.answers_only(2 * layer + 1) else change
