"""Raw scores against loops over single entries; they follow the weights and not the gauge."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import either, raw_scores
from data_gen.labels.registry import ATTENTION_LABELS, LABEL_INDEX, OFFSETS
from data_gen.labels.token_circuits import copying
from data_gen.tasks.structure import Grid, Structure
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical, folded
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, stack

MakeBattery = Callable[..., Batteries]
MakePrompts = Callable[..., Prompts]
MakeSubject = Callable[..., Subject]


def keys_of(label: str, tokens: list[int], q: int, k: int, causal: bool) -> list[int]:
    """Keys that a label is about for one query, by its definition; `k` is the distance of `offset_k`."""
    seen = range(1, q + 1) if causal else range(1, len(tokens))
    match label:
        case "previous_token" | "offset_k" | "self":
            back = {"previous_token": 1, "self": 0}.get(label, k)
            return [q - back] if q - back >= 1 else []
        case "first_token_sink":
            return [0] if q >= 1 else []
        case "duplicate_token":
            return [j for j in seen if j != q and tokens[j] == tokens[q] and q >= 1]
        case "induction":
            return [j for j in seen if j - 1 != q and j != q and tokens[j - 1] == tokens[q] and q >= 1]
    raise AssertionError(label)


def chance(q: int, n_pos: int, causal: bool) -> float:
    return 1 / (q + 1) if causal else 1 / n_pos


def naive_attention(
    pattern: Tensor, tokens: Tensor, queries: list[range], label: str, k: int, causal: bool
) -> float:
    """Mean over queries that have such a key; `pattern` `[batch, query, key]` of one head."""
    scores = []
    for row, read, attended in zip(tokens.tolist(), queries, pattern.tolist(), strict=True):
        for q in read:
            keys = keys_of(label, row, q, k, causal)
            if keys:
                scores.append(sum(attended[q][j] - chance(q, len(row), causal) for j in keys))
    return sum(scores) / len(scores) if scores else math.nan


def patterns_of(subject: Subject, tokens: Tensor) -> dict[tuple[int, int], Tensor]:
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(subject.config.n_layers)]
    taps = subject.run(tokens, taps=names).taps
    heads = range(subject.config.n_heads)
    return {(layer, h): taps[name][0, :, h] for layer, name in enumerate(names) for h in heads}


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_attention_scores_equal_loops_over_prompts_queries_and_keys(
    attention_dir: str, random_subject: MakeSubject, battery: MakeBattery, repeated_prompts: MakePrompts
):
    subject, tests = random_subject(attention_dir=attention_dir).double(), battery(8)
    repetition = tests.repeated
    assert repetition is not None
    causal, n_pos = attention_dir == "causal", tests.random.shape[1]
    prompts = replace(repeated_prompts(6), position=torch.tensor([11, 2, 1, 4, 8, 12]))
    found = raw_scores(subject.stacked, subject.config, tests, (prompts,))
    raw, offset = found.value, found.offset
    random, repeated, task = (patterns_of(subject, t) for t in (tests.random, repetition, prompts.clean))
    everywhere, at_answer = [range(n_pos)] * 8, [range(p, p + 1) for p in prompts.position.tolist()]
    larger = set()
    for layer, head in random:

        def score(label: str, k: int = 0, where=(layer, head)) -> float:
            if label in ("duplicate_token", "induction"):
                return naive_attention(repeated[where], repetition, everywhere, label, k, causal)
            one = naive_attention(random[where], tests.random, everywhere, label, k, causal)
            other = naive_attention(task[where], prompts.clean, at_answer, label, k, causal)
            larger.add("answer" if other > one else "random")
            return max(one, other)

        by_distance = {k: score("offset_k", k) for k in OFFSETS}
        assert int(offset[0, layer, head]) == max(by_distance, key=by_distance.__getitem__)
        for label in ATTENTION_LABELS:
            expected = max(by_distance.values()) if label == "offset_k" else score(label)
            got = float(raw[0, layer, head, LABEL_INDEX[label]])
            assert got == pytest.approx(expected, abs=1e-6), (layer, head, label)
    assert larger == {"answer", "random"}


def test_the_larger_of_two_scores_counts_even_where_one_is_undefined():
    on_random, at_answer = torch.tensor([[[0.1, 0.3, math.nan]]]), torch.tensor([[[0.2, math.nan, 0.4]]])
    torch.testing.assert_close(either(on_random, at_answer), torch.tensor([[[0.2, 0.3, 0.4]]]))
    assert bool(either(on_random * math.nan, at_answer * math.nan).isnan().all())


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_positional_is_the_share_of_variance_that_position_explains(
    attention_dir: str, random_subject: MakeSubject, battery: MakeBattery, repeated_prompts: MakePrompts
):
    subject, tests = random_subject(attention_dir=attention_dir).double(), battery(8)
    causal, n_pos = attention_dir == "causal", tests.random.shape[1]
    raw = raw_scores(subject.stacked, subject.config, tests, (repeated_prompts(6),)).value
    for (layer, head), pattern in patterns_of(subject, tests.random).items():
        explained, total = 0.0, 0.0
        for q in range(1 if causal else 0, n_pos):  # the first causal row is always 1
            for j in range(q + 1 if causal else n_pos):
                above = [float(a) - chance(q, n_pos, causal) for a in pattern[:, q, j]]
                explained += (sum(above) / len(above)) ** 2
                total += sum(a**2 for a in above) / len(above)
        got = float(raw[0, layer, head, LABEL_INDEX["positional"]])
        assert got == pytest.approx(explained / total, abs=1e-6)


def naive_name_mover(subject: Subject, prompts: Prompts) -> tuple[Tensor, int]:
    """Scores `[layer, head]`, and how often a head moves something that does not raise the answer."""
    form, config = folded(subject), subject.config
    names = [f"blocks.{i}.attn.hook_{x}" for i in range(config.n_layers) for x in ("pattern", "v")]
    taps = form.run(prompts.clean, taps=names).taps
    columns = form.weights["unembed.W_U"]
    scores, n_lowered = torch.zeros(config.n_layers, config.n_heads, dtype=columns.dtype), 0
    for layer in range(config.n_layers):
        pattern, v = (taps[f"blocks.{layer}.attn.hook_{x}"][0] for x in ("pattern", "v"))
        for head in range(config.n_heads):
            found = []
            for b, (row, end) in enumerate(
                zip(prompts.clean.tolist(), prompts.position.tolist(), strict=True)
            ):
                answer = int(prompts.answer[b])
                keys = [k for k in range(end + 1) if row[k] == answer]
                if not keys:
                    continue
                attended = pattern[b, head, end]
                z = torch.stack([attended[k] * v[b, k, head] for k in keys]).sum(0)
                logits = z @ form.weights[f"blocks.{layer}.attn.W_O"][head] @ columns
                above = sum(float(attended[k]) for k in keys)
                above -= len(keys) * chance(end, len(row), config.attention_dir == "causal")
                raises = bool(logits[answer] > logits.mean())
                found.append(above if raises else 0.0)
                n_lowered += not raises
            scores[layer, head] = sum(found) / len(found)
    return scores, n_lowered


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_name_mover_equals_a_loop_and_needs_most_prompts_to_hold_their_answer(
    attention_dir: str, random_subject: MakeSubject, battery: MakeBattery, repeated_prompts: MakePrompts
):
    subject, prompts = random_subject(attention_dir=attention_dir).double(), repeated_prompts(20)
    answer = prompts.answer.clone()
    answer[0] = 1  # a token that no prompt holds: 19 of 20 are left
    prompts = replace(prompts, answer=answer)
    expected, n_lowered = naive_name_mover(subject, prompts)
    assert 0 < n_lowered < 4 * 19
    raw = raw_scores(subject.stacked, subject.config, battery(8), (prompts,)).value
    torch.testing.assert_close(raw[0, :, :2, LABEL_INDEX["name_mover"]], expected, atol=1e-6, rtol=0)
    answer = answer.clone()
    answer[:3] = 1
    prompts = replace(prompts, answer=answer)
    raw = raw_scores(subject.stacked, subject.config, battery(8), (prompts,)).value
    assert bool(raw[0, :, :2, LABEL_INDEX["name_mover"]].isnan().all())


def test_copying_equals_the_whole_token_matrix(random_subject: MakeSubject):
    subject = random_subject(n_layers=3).double()
    fast = copying(canonical(subject).stacked, subject.config)
    w = canonical(subject).weights

    def norm(x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=subject.config.eps)

    unembed = w["unembed.W_U"] - w["unembed.W_U"].mean(1, keepdim=True)
    # Heads behind the first MLP read its answer to the token as well; constants, as b_out, are left out.
    answered = (norm(w["embed.W_E"]) @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"]).relu()
    behind = w["embed.W_E"] + answered @ w["blocks.0.mlp.W_out"]
    for layer, embedded in enumerate((w["embed.W_E"], behind, behind)):
        read = norm(embedded) - norm(embedded).mean(0)
        for head in range(2):
            ov = w[f"blocks.{layer}.attn.W_V"][head] @ w[f"blocks.{layer}.attn.W_O"][head]
            values = torch.linalg.eigvals(read @ ov @ unembed)
            expected = values.real.sum() / values.abs().sum()
            torch.testing.assert_close(fast[0, layer, head], expected, atol=1e-6, rtol=0)
    weights = dict(subject.weights)
    weights["blocks.0.attn.W_O"] = -weights["blocks.0.attn.W_O"]
    flipped = canonical(subject.with_weights(weights))
    torch.testing.assert_close(copying(flipped.stacked, subject.config)[0, 0], -fast[0, 0])


def test_raw_scores_of_a_stack_are_those_of_its_subjects(
    random_subject: MakeSubject, battery: MakeBattery, repeated_prompts: MakePrompts
):
    first = random_subject()
    second = first.with_weights({k: v.roll(1, -1) for k, v in first.weights.items()})
    prompts = (repeated_prompts(6, seed=8), repeated_prompts(6, seed=9))
    together = raw_scores(stack([first, second]), first.config, battery(8), prompts).value
    for i, subject in enumerate((first, second)):
        alone = raw_scores(subject.stacked, subject.config, battery(8), (prompts[i],)).value
        torch.testing.assert_close(together[i], alone[0], equal_nan=True)
    assert not torch.allclose(together[0], together[1], equal_nan=True)


@pytest.mark.parametrize("normalization_type", ["LN", "none"])
def test_raw_scores_do_not_depend_on_the_gauge_and_do_on_the_weights(
    normalization_type: str,
    random_subject: MakeSubject,
    battery: MakeBattery,
    repeated_prompts: MakePrompts,
):
    subject = random_subject(n_layers=3, normalization_type=normalization_type).double()
    # Without a norm, deep and large weights leave all to the last head.
    small = {k: 0.4 * v if k.startswith("blocks") else v for k, v in subject.weights.items()}
    subject = subject.with_weights(small)
    prompts, config = repeated_prompts(8), subject.config
    # A wrong candidate in every prompt, an order and a grid: no label is undefined for want of them.
    structure = Structure(
        candidate=prompts.clean[:, 2],
        successors=tuple((t, t + 1) for t in range(4, 10)),
        grid=Grid(
            tokens=torch.cat(
                [torch.zeros(25, 1).long(), 4 + torch.cartesian_prod(*[torch.arange(5)] * 2)], 1
            ).view(1, 5, 5, 3),
            position=2,
            answer=torch.full((1, 5, 5), 4),
        ),
    )

    def scores(one: Subject) -> Tensor:
        return raw_scores(one.stacked, config, battery(8), (prompts,), (structure,)).value[0]

    found, generator = scores(subject), torch.Generator().manual_seed(0)
    for _ in range(3):
        element = gauge_element(subject, generator)
        moved, first = scores(element.subject), 2
        for layer in range(config.n_layers):
            order = element.node_order[first : first + config.n_heads + 1] - first
            torch.testing.assert_close(moved[layer], found[layer][order], atol=1e-5, rtol=0, equal_nan=True)
            first += len(order)
    defined = ~found.flatten(0, 1).isnan().all(0)
    assert bool(defined.all()), "every label is tested"
    changes = []
    for seed in range(6):  # heads that take over from others are rare among random ones
        noise = torch.Generator().manual_seed(seed)
        other = {
            k: v + 0.3 * torch.randn(v.shape, generator=noise).double() for k, v in subject.weights.items()
        }
        changes.append(
            (scores(subject.with_weights(other)) - found).abs().nan_to_num(0).flatten(0, 1).amax(0)
        )
    assert float(torch.stack(changes).amax(0).min()) > 1e-3, "every label follows the weights"
