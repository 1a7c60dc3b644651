"""Twins of movers, edges and MLPs against full forwards in which one site after another is replaced."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.interventions import clean_run
from data_gen.labels.measure import RawScores, raw_scores
from data_gen.labels.mlp import best_split, pair_keys
from data_gen.labels.registry import KEPT_SHARE, LABEL_INDEX
from data_gen.labels.twins import twins
from data_gen.labels.twins_of_movers import backup_losses
from data_gen.tasks.structure import Grid
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject

MakeBattery = Callable[..., Batteries]
MakePrompts = Callable[..., Prompts]
MakeSubject = Callable[..., Subject]


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def subject(request: pytest.FixtureRequest, random_subject: MakeSubject) -> Subject:
    return canonical(random_subject(n_layers=3, attention_dir=request.param).double())


@pytest.fixture(scope="module")
def prompts(repeated_prompts: MakePrompts) -> Prompts:
    drawn = repeated_prompts(6)
    return replace(drawn, position=torch.tensor([12, 11, 5, 9, 12, 7]))


@pytest.fixture(scope="module")
def scores(subject: Subject, prompts: Prompts, battery: MakeBattery) -> RawScores:
    found = raw_scores(subject.stacked, subject.config, battery(8), (prompts,))
    primary = torch.tensor([[[True, False], [False, True], [False, False]]])
    return replace(found, primary=primary)


def margins(subject: Subject, prompts: Prompts, **changes) -> Tensor:
    run = forward(subject.stacked, subject.config, prompts.clean, **changes)
    return margin(run.logits[0, torch.arange(len(prompts)), prompts.position], prompts.answer)


def written(subject: Subject, prompts: Prompts, layer: int, head: int) -> Tensor:
    """What a head writes, `[batch, pos, d_model]`."""
    site = f"blocks.{layer}.attn.hook_z"
    z = forward(subject.stacked, subject.config, prompts.clean, taps=[site]).taps[site][0, :, :, head]
    return z @ subject.weights[f"blocks.{layer}.attn.W_O"][head]


def beyond(loss: Tensor, control: Tensor) -> Tensor:
    return loss - control if control.mean() > 0 else loss


def test_cutting_one_edge_equals_a_forward_with_that_input_changed(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    effect, clean = twins(subject, prompts, scores).effect, margins(subject, prompts)
    sources = set()
    for layer in (1, 2):
        for head in range(2):
            for i, channel in enumerate("qkv"):
                number = int(scores.source[0, layer, head, i])
                sources.add(number)
                write = written(subject, prompts, *divmod(number, 2))
                addend = torch.zeros(1, *write.shape[:2], 2, write.shape[2]).to(write)
                addend[0, :, :, head] = write.mean(0) - write
                site = f"blocks.{layer}.hook_{channel}_input"
                lost = clean - margins(subject, prompts, addends={site: addend})
                got = effect[layer, head, LABEL_INDEX[f"{channel}_composition"]]
                torch.testing.assert_close(got, lost.mean(), atol=1e-6, rtol=1e-6)
    assert len(sources) > 2
    assert bool(effect[0, :2, LABEL_INDEX["k_composition"]].isnan().all())


def test_inhibition_is_cut_in_the_queries_of_all_later_heads_at_the_answer(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    effect, clean = twins(subject, prompts, scores).effect, margins(subject, prompts)
    rows = torch.arange(len(prompts))
    for layer in (0, 1):
        for head in range(2):
            write = written(subject, prompts, layer, head)[rows, prompts.position]
            addend = torch.zeros(1, *prompts.clean.shape, 2, write.shape[-1]).to(write)
            addend[0, rows, prompts.position] = (write.mean(0) - write).unsqueeze(1)
            later = {f"blocks.{i}.hook_q_input": addend for i in range(layer + 1, 3)}
            lost = clean - margins(subject, prompts, addends=later)
            got = effect[layer, head, LABEL_INDEX["s_inhibition"]]
            torch.testing.assert_close(got, lost.mean(), atol=1e-6, rtol=1e-6)
            assert abs(float(got)) > 1e-4
    assert bool(effect[2, :2, LABEL_INDEX["s_inhibition"]].isnan().all())


def test_a_backup_is_what_matters_more_without_the_movers_than_with_them(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    sites = [f"blocks.{i}.attn.hook_z" for i in range(3)]
    taps = forward(subject.stacked, subject.config, prompts.clean, taps=sites).taps
    means = [taps[site].mean(1) for site in sites]

    def without(*heads: tuple[int, int]) -> Tensor:
        def replaced(layer: int) -> Callable[[Tensor], Tensor]:
            def change(value: Tensor) -> Tensor:
                value = value.clone()
                for where, head in heads:
                    if where == layer:
                        value[0, :, :, head] = means[layer][0, :, head]
                return value

            return change

        return margins(subject, prompts, replace={site: replaced(i) for i, site in enumerate(sites)})

    movers = ((0, 0), (1, 1))
    got = backup_losses(clean_run(subject, prompts), scores.primary[0])
    assert bool(got[0].isnan().all()), "no mover comes before them"
    for where in ((1, 0), (1, 1), (2, 0), (2, 1)):
        alone = margins(subject, prompts) - without(where)
        together = without(*movers) - without(*movers, where)
        torch.testing.assert_close(got[where], beyond(together, alone), atol=1e-6, rtol=1e-6)
    nobody = backup_losses(clean_run(subject, prompts), torch.zeros(3, 2, dtype=torch.bool))
    assert bool(nobody.isnan().all())


def naive_means(values: Tensor, keys: Tensor, fallback: Tensor) -> Tensor:
    """Position by position the mean over other prompts with the same key."""
    found = fallback.clone()
    for b in range(len(keys)):
        for p in range(keys.shape[1]):
            same = [
                values[i, j]
                for i in range(len(keys))
                for j in range(keys.shape[1])
                if i != b and keys[i, j] == keys[b, p]
            ]
            if same:
                found[b, p] = torch.stack(same).mean(0)
    return found


def test_look_ups_are_replaced_by_means_of_other_prompts(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    effect, clean, tokens = twins(subject, prompts, scores).effect, margins(subject, prompts), prompts.clean
    for layer in range(3):
        site = f"blocks.{layer}.hook_mlp_out"
        taps = forward(
            subject.stacked, subject.config, tokens, taps=[site, f"blocks.{layer}.mlp.hook_pre"]
        ).taps
        out = taps[site][0]

        def lost(value: Tensor, site: str = site) -> Tensor:
            return clean - margins(subject, prompts, replace={site: lambda _: value.unsqueeze(0)})

        overall = naive_means(out, torch.zeros_like(tokens), out)
        token = naive_means(out, tokens, overall)
        pair = naive_means(out, pair_keys(tokens), token)
        pairs = pair_keys(tokens)
        again = torch.stack(
            [torch.isin(row, torch.cat([pairs[:b], pairs[b + 1 :]])) for b, row in enumerate(pairs)]
        ).unsqueeze(-1)
        expected = {
            "token_lookup": beyond(lost(overall), lost(token) / KEPT_SHARE),
            "pair_lookup": beyond(
                lost(torch.where(again, token, out)), lost(torch.where(again, pair, out)) / KEPT_SHARE
            ),
        }
        for label, loss in expected.items():
            got = effect[layer, -1, LABEL_INDEX[label]]
            torch.testing.assert_close(got, loss.mean(), atol=1e-6, rtol=1e-6)
    assert bool(effect[:, :2, LABEL_INDEX["token_lookup"]].isnan().all())


def test_a_step_of_a_graded_number_is_told_from_a_line_and_from_two_values():
    x = torch.linspace(-1, 1, 60).unsqueeze(1)
    direction = torch.tensor([[1.0, 2.0, -1.0]])

    def score(pre: Tensor, out: Tensor) -> float:
        return float(best_split(pre, out @ direction)[0])

    step, neuron, level = best_split(x, (x > 0.3).float() @ direction)
    assert float(step) > 0.85
    assert int(neuron) == 0
    assert 0.2 < float(level) < 0.4
    assert score(x, x) < 0.1
    assert score(x, x.relu()) < 0.2
    two = (x > 0).float()
    assert score(two, two) < 0.1, "a number of two values has no threshold"


def test_the_twin_of_a_frequency_is_that_of_forwards_with_other_neurons(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    p, position = 5, 3
    # Smooth neurons: one that fires at a single pair has every frequency alike.
    subject = subject.with_weights(subject.weights, config=replace(subject.config, act_fn="gelu"))
    numbers = torch.cartesian_prod(torch.arange(p), torch.arange(p)) + 4
    tokens = torch.cat([torch.zeros(p * p, 1).long(), torch.full((p * p, 1), 9), numbers], dim=1)
    answer = 4 + (numbers - 4).sum(1) % p
    grid = Grid(tokens=tokens.view(1, p, p, 4), position=position, answer=answer.view(1, p, p))
    effect = twins(subject, prompts, scores, grid).effect
    on_grid = replace(
        prompts,
        clean=tokens,
        corrupt=tokens,
        position=torch.full((p * p,), position),
        answer=answer,
        corrupt_answer=answer.roll(1),
        slice=torch.zeros(p * p).long(),
    )
    clean = margins(subject, on_grid)
    a, b = (numbers - 4).double().T
    for layer in range(3):
        site = f"blocks.{layer}.mlp.hook_post"
        neurons = forward(subject.stacked, subject.config, tokens, taps=[site]).taps[site][0, :, position]
        fits, explained = [], []
        for k in (1, 2):
            for sign in (1, -1):
                angles = [2 * torch.pi * k / p * x for x in (a, b, a + sign * b)]
                basis = torch.stack(
                    [torch.ones_like(a), *(f(x) for x in angles for f in (torch.cos, torch.sin))], 1
                )
                fit = basis @ torch.linalg.lstsq(basis, neurons).solution
                fits.append(fit)
                explained.append((fit - fit.mean(0)).square().sum(0))
        best = torch.stack(explained).argmax(0)
        alone = torch.stack(fits)[best, :, torch.arange(neurons.shape[1])].T

        def lost(value: Tensor, site: str = site) -> Tensor:
            def change(x: Tensor) -> Tensor:
                x = x.clone()
                x[0, :, position] = value
                return x

            return clean - margins(subject, on_grid, replace={site: change})

        expected = beyond(lost(neurons.mean(0).expand(neurons.shape)), lost(alone) / KEPT_SHARE)
        got = effect[layer, -1, LABEL_INDEX["fourier"]]
        torch.testing.assert_close(got, expected.mean(), atol=1e-6, rtol=1e-6)
    assert bool(twins(subject, prompts, scores).effect[:, -1, LABEL_INDEX["fourier"]].isnan().all())


def test_copy_suppression_is_cut_where_the_lens_predicts_and_its_token_must_rise(
    subject: Subject, prompts: Prompts, scores: RawScores
):
    # Logits of tokens are made large at random positions, so that some stand out.
    weights = dict(subject.weights)
    weights["unembed.W_U"] = 3 * weights["unembed.W_U"]
    loud = canonical(subject.with_weights(weights))
    effect, rows = twins(loud, prompts, scores).effect, torch.arange(len(prompts))
    direction, seen = subject.config.attention_dir, 0
    names = [f"blocks.{i}.{x}" for i in range(3) for x in ("attn.hook_pattern", "hook_resid_pre")]
    run = forward(loud.stacked, loud.config, prompts.clean, taps=names)
    clean = run.logits[0, rows, prompts.position]
    for layer in range(3):
        lens = torch.nn.functional.layer_norm(run.taps[f"blocks.{layer}.hook_resid_pre"][0], (16,), eps=1e-5)
        lens = lens @ loud.weights["unembed.W_U"] + loud.weights["unembed.b_U"]
        token, keys = torch.full((len(prompts),), -1), torch.zeros(prompts.clean.shape, dtype=torch.bool)
        for b, end in enumerate(prompts.position.tolist()):
            row = prompts.clean[b].tolist()
            last = end if direction == "causal" else len(row) - 1
            those = [t for t in row[1 : last + 1] if t != row[end]]
            at = lens[b, end]
            best = max(those, key=lambda t, at=at: float(at[t]))
            if (at[best] - at.mean()) / at.std(correction=0) >= 2:
                token[b] = best
                keys[b] = torch.tensor([t == best and 1 <= j <= last for j, t in enumerate(row)])
        seen += int((token >= 0).sum())
        for head in range(2):
            changes = {}
            for name in ("cut", "control"):

                def change(
                    value: Tensor,
                    name: str = name,
                    head: int = head,
                    token: Tensor = token,
                    keys: Tensor = keys,
                ) -> Tensor:
                    value = value.clone()
                    for b in range(len(prompts)):
                        if token[b] < 0:
                            continue
                        attended = value[0, b, head, prompts.position[b]]
                        held = attended[keys[b]].sum()
                        left = 1 - held
                        if name == "cut":
                            changed = attended.masked_fill(keys[b], 0) / left
                        else:
                            taken = torch.minimum(held, left)
                            changed = torch.where(keys[b], attended, attended * (1 - taken / left)) / (
                                1 - taken
                            )
                        value[0, b, head, prompts.position[b]] = changed
                    return value

                site = f"blocks.{layer}.attn.hook_pattern"
                logits = forward(loud.stacked, loud.config, prompts.clean, replace={site: change}).logits
                logits = logits[0, rows, prompts.position]
                rise = (logits - logits.mean(1, keepdim=True)) - (clean - clean.mean(1, keepdim=True))
                changes[name] = torch.where(token >= 0, rise[rows, token.clamp_min(0)], 0.0)
            got = effect[layer, head, LABEL_INDEX["copy_suppression"]]
            if int((token >= 0).sum()) == 0:
                assert bool(got.isnan())
                continue
            expected = beyond(changes["cut"], changes["control"]).mean()
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    assert seen > 0
