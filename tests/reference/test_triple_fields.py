"""Every field that harvesting stores, recomputed prompt by prompt from the subject and the same prompts.

What patching and ablating do is taken from `edge_scores` and `ablation_effects`, which `test_exact_circuits`
holds against a full forward for each of them; whether the right one is stored is the question here.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from data_gen.config import HarvestConfig
from data_gen.function_labels import function_labels
from data_gen.harvesting import ACTIVATION_PROBES, harvest, task_prompts
from data_gen.labels.batteries import batteries
from data_gen.null import edge_null_threshold, label_null, reinitialised
from data_gen.seeds import generator_for
from data_gen.tasks import make_task
from data_gen.tasks.base import BOS, D_VOCAB, FIRST_SYMBOL
from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights
from metamodel.triples.schema import SubjectInfo, Triple

CONFIG = SubjectConfig(n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=16, d_vocab=D_VOCAB, n_ctx=16)
SETTINGS = HarvestConfig(n_prompts=8, n_behavior_prompts=40, n_probes=6, n_shown=5, n_random=8)
SEED, NAMES = 5, ("first", "second")


def subject(seed: int) -> Subject:
    """Biases and gains are large too, so that raw and canonical weights differ everywhere."""
    generator = torch.Generator().manual_seed(seed)
    weights = {k: v[0] for k, v in initial_weights(CONFIG, [generator], init_std=0.4).items()}
    weights = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
    return Subject(config=CONFIG, weights=weights, name=NAMES[seed])


def info(name: str) -> SubjectInfo:
    return SubjectInfo(
        id=name,
        subject=name,
        family="facts",
        variant="base",
        size="tiny",
        recipe="none",
        seed=0,
        lineage=name,
        origin="planted",
        departs="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A stored triple, and what it was made from."""

    triple: Triple
    subject: Subject
    prompts: Prompts
    fresh: Prompts
    probes: Prompts
    shown: Prompts


@pytest.fixture(scope="module", params=[0, 1])
def case(request) -> Case:
    subjects, tasks = [subject(0), subject(1)], [make_task("facts", "base", i) for i in range(2)]
    triples = harvest(subjects, tasks, [info(name) for name in NAMES], SETTINGS, SEED)

    def drawn(purpose: str, n: int) -> Prompts:
        return task_prompts(tasks[request.param], generator_for(SEED, NAMES[request.param], purpose), n)

    return Case(
        triple=triples[request.param],
        subject=subjects[request.param],
        prompts=drawn("circuit prompts", SETTINGS.n_prompts),
        fresh=drawn("behavior prompts", SETTINGS.n_behavior_prompts),
        probes=drawn("probes", SETTINGS.n_probes),
        shown=drawn("shown", SETTINGS.n_shown),
    )


def answers(subject: Subject, prompts: Prompts) -> list[Tensor]:
    """Logits at the answer position, one prompt at a time."""
    return [
        subject.run(tokens.unsqueeze(0)).logits[0, 0, position]
        for tokens, position in zip(prompts.clean, prompts.position, strict=True)
    ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def near(got: Tensor, expected: list[float] | float) -> bool:
    return got.tolist() == pytest.approx(expected, abs=2e-5, rel=1e-4, nan_ok=True)


def test_behavior(case: Case):
    stored, right, margins, surprises = case.triple.behavior, [], [], []
    for logits, answer in zip(answers(case.subject, case.fresh), case.fresh.answer.tolist(), strict=True):
        others = [value for token, value in enumerate(logits.tolist()) if token != answer]
        right.append(float(int(logits.argmax()) == answer))
        margins.append(float(logits[answer]) - max(others))
        surprises.append(-float(logits.softmax(0)[answer].log()))
    assert near(stored.accuracy, mean(right))
    assert near(stored.margin, mean(margins))
    assert near(stored.cross_entropy, mean(surprises))
    slices = case.fresh.slice.tolist()
    assert stored.slice_names == case.fresh.slice_names == ("one_hop", "two_hops")
    by_slice = [mean([r for r, s in zip(right, slices, strict=True) if s == i]) for i in range(2)]
    assert near(stored.slice_accuracy, by_slice)
    effect, divergence = ablation_effects(case.subject, case.prompts)
    assert near(stored.ablation_margin, effect.tolist())
    assert near(stored.ablation_kl, divergence.tolist())
    probes = case.probes
    assert torch.equal(stored.probe_tokens, probes.clean)
    assert torch.equal(stored.probe_position, probes.position)
    assert stored.probe_answer.tolist() == [int(logits.argmax()) for logits in answers(case.subject, probes)]
    assert torch.equal(stored.probe_right_answer, probes.answer)
    assert torch.equal(stored.probe_slice, probes.slice)
    assert torch.equal(stored.shown_tokens, case.shown.clean)
    assert torch.equal(stored.shown_position, case.shown.position)


def null_prompts(n: int, purpose: str) -> Prompts:
    return task_prompts(make_task("facts", "base", SEED), generator_for(SEED, "facts-base", purpose), n)


def test_circuit(case: Case):
    stored, prompts = case.triple.circuit, case.prompts
    noising, zero = (edge_scores(case.subject, prompts, kind) for kind in ("noising", "zero"))
    assert near(stored.noising_margin, noising.margin.tolist())
    assert near(stored.noising_kl, noising.kl.tolist())
    assert near(stored.zero_margin, zero.margin.tolist())
    assert near(stored.zero_kl, zero.kl.tolist())
    copies = reinitialised(CONFIG, SETTINGS.n_null_copies, SEED)
    null = edge_null_threshold(copies, CONFIG, null_prompts(SETTINGS.n_prompts, "null prompts"))
    assert near(stored.null_threshold, float(null))
    lost = []
    for clean, corrupt, answer in zip(
        answers(case.subject, prompts),
        answers(case.subject, dataclasses.replace(prompts, clean=prompts.corrupt)),
        prompts.answer.tolist(),
        strict=True,
    ):
        first, second = ([v for t, v in enumerate(x.tolist()) if t != answer] for x in (clean, corrupt))
        lost.append(float(clean[answer]) - max(first) - (float(corrupt[answer]) - max(second)))
    edges, touched = component_edges(CONFIG), set()
    for i, size in enumerate(noising.margin.abs().tolist()):
        member = size > float(null) and size >= 0.02 * abs(mean(lost))
        assert bool(stored.member[i]) == member
        touched |= {edges.source_node[i], edges.destination_node[i]} if member else set()
    assert touched
    assert set(stored.node_member.nonzero().squeeze(1).tolist()) == touched


def outputs(form: Subject, tokens: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """On one prompt: what each component writes `[pos, d_model]`, patterns, and the final residual stream."""
    names = [f"blocks.{i}.attn.hook_{x}" for i in range(2) for x in ("z", "pattern")]
    names += [f"blocks.{i}.mlp.hook_post" for i in range(2)] + ["blocks.1.hook_resid_post"]
    taps = {name: value[0, 0] for name, value in form.run(tokens.unsqueeze(0), taps=names).taps.items()}
    w, written, patterns = form.weights, {}, {}
    for node in components(CONFIG):
        block = f"blocks.{node.layer}"
        match node.kind:
            case "token_embedding":
                written[node.name] = w["embed.W_E"][tokens]
            case "position_embedding":
                written[node.name] = w["pos_embed.W_pos"][: len(tokens)]
            case "head":
                z = taps[f"{block}.attn.hook_z"][:, node.head]
                written[node.name] = z @ w[f"{block}.attn.W_O"][node.head]
                patterns[node.name] = taps[f"{block}.attn.hook_pattern"][node.head]
            case "mlp":
                out = taps[f"{block}.mlp.hook_post"] @ w[f"{block}.mlp.W_out"]
                written[node.name] = out + w[f"{block}.mlp.b_out"]
            case "unembedding":
                written[node.name] = torch.zeros(len(tokens), CONFIG.d_model)
    return written, patterns, taps["blocks.1.hook_resid_post"]


def test_activation(case: Case):
    stored, prompts, form = case.triple.activation, case.prompts, canonical(case.subject)
    runs = [outputs(form, tokens) for tokens in prompts.clean]
    unembed = form.weights["unembed.W_U"]
    for i, node in enumerate(components(CONFIG)):
        vectors = [vector for written, _, _ in runs for vector in written[node.name]]
        assert near(stored.output_norm[i], mean([float(v @ v) for v in vectors]) ** 0.5)
        moment = sum(torch.outer(v, v) for v in vectors) / len(vectors)
        torch.testing.assert_close(stored.second_moment[i], moment, atol=2e-5, rtol=1e-4)
        direct = []
        for b, (written, _, final) in enumerate(runs):
            end = int(prompts.position[b])
            scale = float((final[end] - final[end].mean()).square().mean() + CONFIG.eps) ** 0.5
            logits = written[node.name][end] @ unembed / scale
            direct.append(float(logits[prompts.answer[b]] - logits[prompts.corrupt_answer[b]]))
        assert near(stored.logit_attribution[i], mean(direct))
        if node.kind != "head":
            assert stored.pattern_entropy[i] == 0
            assert not bool(stored.pattern_mean[i].any())
            continue
        patterns = [found[node.name] for _, found, _ in runs]
        rows = [row.tolist() for pattern in patterns for row in pattern]
        entropy = [-sum(p * float(torch.tensor(p).log()) for p in row if p > 0) for row in rows]
        assert near(stored.pattern_entropy[i], mean(entropy))
        torch.testing.assert_close(stored.pattern_mean[i], sum(patterns) / len(patterns))
    assert torch.equal(stored.probe_tokens, case.probes.clean[:ACTIVATION_PROBES])
    for probe, tokens in enumerate(stored.probe_tokens):
        written, _, _ = outputs(form, tokens)
        for i, node in enumerate(components(CONFIG)):
            got = stored.probe_outputs[probe, :, i]
            torch.testing.assert_close(got, written[node.name], atol=2e-5, rtol=1e-4)


def test_labels(case: Case):
    symbols = make_task("facts", "base", SEED).prompts(
        generator_for(SEED, "facts-base", "symbols"), SETTINGS.n_behavior_prompts
    )
    tests = batteries(
        generator_for(SEED, "facts-base", "batteries"),
        n=SETTINGS.n_random,
        n_pos=case.prompts.clean.shape[1],
        bos=BOS,
        symbols=torch.tensor(sorted({t for t in symbols.clean.flatten().tolist() if t >= FIRST_SYMBOL})),
    )
    copies = reinitialised(CONFIG, SETTINGS.n_null_copies, SEED)
    null = label_null(copies, CONFIG, tests, null_prompts(SETTINGS.n_prompts, "null prompts"))
    expected = function_labels(case.subject, case.prompts, tests, null)
    for field in dataclasses.fields(expected):
        got = getattr(case.triple.labels, field.name)
        torch.testing.assert_close(got, getattr(expected, field.name), equal_nan=True)
