"""Edges resolved by spans: against full forwards with replaced sites, whole edges, and a subject by hand."""

import dataclasses
import math

import pytest
import torch

from metamodel.circuits import (
    Edge,
    Exact,
    Prompts,
    Spans,
    component_edges,
    refine,
    span_effects,
    span_scores,
    spans_at,
    spans_per_position,
    stream,
)
from metamodel.circuits.base_run import base_run
from metamodel.config import InputError
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject
from tests.reference import slow
from tests.reference.hand import hand_prompts, hand_subject

CASES = [
    ("noising", {}, False),
    ("denoising", {"n_layers": 1}, True),
    ("zero", {"normalization_type": "none", "act_fn": "gelu", "attention_dir": "bidirectional"}, True),
    ("zero", {"normalization_type": "none", "n_heads": 1, "n_layers": 3}, False),
    ("mean", {"d_mlp": 0}, True),
]
"""Intervention, shape of the subject, whether answers are asked at many positions."""


def random_subject(seed: int, **shape) -> Subject:
    return slow.random_subject(seed, **shape).double()


def random_prompts(seed: int, config: SubjectConfig, *, n: int = 4, many: bool = False) -> Prompts:
    prompts = slow.random_prompts(seed, config, n=n, n_pos=5)
    if not many:
        return prompts
    generator = torch.Generator().manual_seed(seed + 1000)
    targets = torch.randint(-1, config.d_vocab, prompts.clean.shape, generator=generator)
    return dataclasses.replace(prompts, targets=targets)


def random_spans(seed: int, prompts: Prompts) -> Spans:
    """Other spans on every prompt, in any order, with positions that belong to none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 3, prompts.clean.shape, generator=generator)
    return Spans(labels=labels, names=("a", "b", "c"))


def naive_entry(whole: Subject, prompts: Prompts, run, edge: Edge, queries, keys) -> torch.Tensor:
    """One full forward for an entry: what an edge's patch makes of scores or values, between spans alone."""
    config, reader = whole.config, edge.destination
    delta = run.delta[component_edges(config).sources.index(edge.source)]
    block, head = f"blocks.{reader.component.layer}", reader.component.head
    pairs = queries[:, :, None] & keys[:, None, :]
    if reader.channel in ("in", "logits"):
        addends = {reader.site: (delta * queries[..., None])[None]}
        logits = forward(whole.stacked, config, run.tokens, addends=addends).logits
    else:
        addend = delta.new_zeros(1, *delta.shape[:2], config.n_heads, config.d_model)
        addend[0, :, :, head] = delta
        told = forward(
            whole.stacked,
            config,
            run.tokens,
            addends={reader.site: addend},
            taps=[f"{block}.attn.hook_attn_scores", f"{block}.attn.hook_v"],
        ).taps
        replace = {}
        if reader.channel == "v":
            taps = whole.run(run.tokens, taps=[f"{block}.attn.hook_pattern", f"{block}.attn.hook_v"]).taps
            pattern = taps[f"{block}.attn.hook_pattern"] * pairs[None, :, None]
            change = told[f"{block}.attn.hook_v"] - taps[f"{block}.attn.hook_v"]
            extra = torch.einsum("sbhqk,sbkhd->sbqhd", pattern, change)
            replace[f"{block}.attn.hook_z"] = lambda z: z + extra
        else:
            other = told[f"{block}.attn.hook_attn_scores"]
            replace[f"{block}.attn.hook_attn_scores"] = lambda scores: torch.where(
                pairs[None, :, None], other, scores
            )
        logits = forward(whole.stacked, config, run.tokens, replace=replace).logits
    return run.suffix.at_answer(logits[0])


def check_against_full_forwards(subject: Subject, prompts: Prompts, spans: Spans, intervention: str):
    scores = span_scores(subject, prompts, spans, None, "margin", intervention)
    run = base_run(subject, prompts, intervention)
    measure, whole = run.measure("margin"), folded(subject)
    reference = measure(run.suffix.at_answer(whole.run(run.tokens).logits[0]))
    wanted = []
    for i in range(len(scores)):
        edge = scores.edges[int(scores.edge[i])]
        queries, keys = (spans.labels == int(x) for x in (scores.query_span[i], scores.key_span[i]))
        logits = naive_entry(whole, prompts, run, edge, queries, keys)
        wanted.append((measure(logits) - reference).mean())
    torch.testing.assert_close(scores.value, torch.stack(wanted), atol=1e-10, rtol=0)
    return scores


@pytest.mark.parametrize(("intervention", "shape", "many"), CASES)
def test_every_entry_equals_a_full_forward_with_those_scores_or_values_replaced(intervention, shape, many):
    subject = random_subject(1, **shape)
    prompts = random_prompts(2, subject.config, many=many)
    scores = check_against_full_forwards(subject, prompts, random_spans(3, prompts), intervention)
    edges = component_edges(subject.config).edges
    attention = sum(edge.destination.channel in "qkv" for edge in edges)
    assert len(scores) == 9 * attention + 3 * (len(edges) - attention)
    assert (scores.value.abs() > 1e-5).float().mean() > 0.3, "too few have an effect to compare"
    crossing = scores.value[scores.crossing]
    assert (crossing.abs() > 1e-5).float().mean() > 0.2


@pytest.mark.parametrize("freeze_norm", [False, True])
@pytest.mark.parametrize(("intervention", "shape", "many"), CASES)
def test_one_span_over_all_positions_is_the_whole_edge(intervention, shape, many, freeze_norm):
    subject = random_subject(4, **shape)
    prompts = random_prompts(5, subject.config, many=many)
    whole = spans_at(prompts, {"all": slice(None)})
    for metric in ("margin", "kl"):
        scores = span_scores(subject, prompts, whole, None, metric, intervention, freeze_norm=freeze_norm)
        exact = Exact(freeze_norm=freeze_norm).score(subject, prompts, metric, intervention)
        torch.testing.assert_close(scores.value, exact.value, atol=1e-10, rtol=0)
        torch.testing.assert_close(scores.se, exact.se, atol=1e-10, rtol=0)
        assert scores.base == pytest.approx(exact.base)
        assert not scores.crossing.any()


def test_small_chunks_give_the_same_scores_as_large_ones(monkeypatch):
    subject = random_subject(6)
    for many in (False, True):
        prompts = random_prompts(7, subject.config, many=many)
        spans = random_spans(8, prompts)
        whole = span_scores(subject, prompts, spans).value
        with monkeypatch.context() as patch:
            patch.setattr(span_effects, "_CHUNK", 1)
            patch.setattr(stream, "_CHUNK", 1)
            parts = span_scores(subject, prompts, spans).value
        torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


def test_keys_that_a_causal_query_cannot_see_have_no_effect_and_positions_none_under_noising():
    subject = random_subject(9)
    prompts = random_prompts(10, subject.config)
    scores = span_scores(subject, prompts, spans_per_position(prompts), None, "margin", "zero")
    later = (scores.key_span > scores.query_span) & scores.crossing
    assert later.any()
    assert (scores.value[later] == 0).all()
    assert (scores.value[scores.key_span < scores.query_span].abs() > 1e-5).float().mean() > 0.3
    position = torch.tensor([scores.edges[int(i)].source.kind == "position_embedding" for i in scores.edge])
    assert scores.value[position].abs().max() > 0.01, "zero ablation sees positions"
    for intervention in ("noising", "denoising", "mean"):
        other = span_scores(subject, prompts, spans_per_position(prompts), None, "margin", intervention)
        assert (other.value[position] == 0).all()


def test_a_subject_done_by_hand_gets_the_scores_done_by_hand():
    # Tokens 0 1 against 2 1: clean logits are 3/4 for token 0 and 5/4 for token 1, margin -1/2.
    prompts = hand_prompts()
    spans = spans_per_position(prompts)
    assert spans.names == ("0", "1")
    share = math.sqrt(3) / (1 + math.sqrt(3))  # of the first key, when one of the two scores is 0
    bent = 2 * (share - 0.75)  # margin is 2 share - 2
    expected = {
        "noising": {("token_embedding->L0H0.v", "1", "0"): -0.75, ("L0H0->unembedding", "1", "1"): -0.75},
        "zero": {
            ("token_embedding->L0H0.v", "1", "0"): -0.75,
            ("token_embedding->L0H0.v", "1", "1"): 0.25,
            ("position_embedding->L0H0.q", "1", "0"): bent,
            ("position_embedding->L0H0.q", "1", "1"): bent,
            ("position_embedding->L0H0.k", "1", "0"): bent,
            ("position_embedding->L0H0.k", "1", "1"): bent,
            ("token_embedding->unembedding", "1", "1"): 1.0,
            ("L0H0->unembedding", "1", "1"): -0.5,
        },
    }
    for intervention, by_hand in expected.items():
        scores = span_scores(hand_subject(), prompts, spans, None, "margin", intervention)
        names, found = [edge.name for edge in scores.edges], {}
        for i, value in enumerate(scores.value.tolist()):
            ends = (scores.query_span[i], scores.key_span[i])
            found[names[int(scores.edge[i])], *(spans.names[int(x)] for x in ends)] = value
        assert {key for key, value in found.items() if abs(value) > 1e-12} == set(by_hand)
        for key, value in by_hand.items():
            assert found[key] == pytest.approx(value), key
        assert scores.se.abs().max() < 1e-12


def test_refine_resolves_the_largest_edges_only():
    subject = random_subject(11)
    prompts = random_prompts(12, subject.config)
    spans = random_spans(13, prompts)
    exact = Exact().score(subject, prompts, "margin", "zero")
    found = refine(subject, prompts, spans, 5, "margin", "zero")
    assert found.edges == tuple(exact.edges.edges[i] for i in exact.ranking()[:5].tolist())
    whole = span_scores(subject, prompts, spans, None, "margin", "zero")
    index = {edge: i for i, edge in enumerate(whole.edges)}
    for i, edge in enumerate(found.edges):
        same = whole.value[whole.edge == index[edge]]
        torch.testing.assert_close(found.value[found.edge == i], same, atol=1e-12, rtol=0)
    table = found.to_pandas()
    assert table["value"].abs().is_monotonic_decreasing
    assert (table["crossing"] == (table["query_span"] != table["key_span"])).all()
    columns = "source destination channel query_span key_span crossing value se"
    assert list(table.columns) == columns.split()


def test_spans_of_slices_follow_them():
    prompts = random_prompts(14, random_subject(15).config)
    spans = spans_at(prompts, {"BOS": slice(0, 1), "query": slice(-2, None)})
    assert spans.labels[0].tolist() == [0, -1, -1, 1, 1]
    assert spans.members.sum((1, 2)).tolist() == [4, 8]


def test_a_single_prompt_has_no_standard_error():
    subject = random_subject(16)
    prompts = random_prompts(17, subject.config, n=1)
    scores = span_scores(subject, prompts, spans_per_position(prompts))
    assert scores.se.isnan().all()
    assert scores.value.isfinite().all()


def test_what_does_not_fit_is_refused_in_one_line(monkeypatch):
    subject = random_subject(18)
    prompts = random_prompts(19, subject.config)
    spans = spans_per_position(prompts)

    def refused(function) -> str:
        with pytest.raises(InputError) as caught:
            function()
        return str(caught.value)

    short = Spans(labels=spans.labels[:, :4], names=spans.names)
    assert refused(lambda: span_scores(subject, prompts, short)) == (
        "spans.labels: expected shape (4, 5), that of the prompts, got (4, 4). "
        "Label each position of each prompt."
    )
    assert refused(lambda: Spans(labels=spans.labels, names=("a", "b"))) == (
        "spans.labels: expected labels from -1 to 1, got 0 to 4. "
        "Give each label a name; -1 is for positions of no span."
    )
    assert refused(lambda: Spans(labels=spans.labels, names=())) == (
        "spans.names: expected at least one name, got none. Name each span."
    )
    assert refused(lambda: spans_at(prompts, {"a": slice(0, 2), "b": slice(1, 3)})) == (
        "spans['b']: expected positions that no other span holds, got slice(1, 3, None). "
        "Let spans follow one another."
    )
    assert refused(lambda: spans_at(prompts, {"a": slice(5, 9)})) == (
        "spans['a']: expected some positions, got none in slice(5, 9, None). Prompts have 5 positions."
    )
    tokens = torch.zeros(4, 17, dtype=torch.int64)
    long = dataclasses.replace(prompts, clean=tokens, corrupt=tokens)
    assert refused(lambda: spans_per_position(long)) == (
        "spans: expected at most 16 positions to make each a span, got 17. Group them by spans_at."
    )
    assert refused(lambda: span_scores(subject, prompts, spans, [])) == (
        "edges: expected at least one edge, got none. Name edges, or leave out."
    )
    foreign = component_edges(random_subject(1, n_layers=3).config).edges[-1]
    assert refused(lambda: span_scores(subject, prompts, spans, [foreign])) == (
        "edges[0]: expected an edge of subject, got MLP2->unembedding. "
        "Choose among component_edges(subject.config).edges."
    )
    assert refused(lambda: span_scores(subject, prompts, spans, None, "margin", "nosing")) == (
        "intervention: expected noising or denoising or zero or mean, got 'nosing'. "
        "Choose one of them. Did you mean 'noising'?"
    )
    assert refused(lambda: refine(subject, prompts, spans, 0)) == (
        "top: expected at least 1, got 0. Ask for 20 or so."
    )
    monkeypatch.setattr(span_effects, "LIMIT", 1000)
    assert refused(lambda: span_scores(subject, prompts, spans)) == (
        "edges: expected at most 1000 edges times squared spans, got 1525. "
        "Score edges first and resolve the largest by refine(...), or use fewer spans."
    )
    assert len(refine(subject, prompts, spans, 3)) > 3
