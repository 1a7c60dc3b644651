"""The gauge law: other weights, the same outputs, the same canonical form, the same circuit. In pairs."""

import pytest
import torch

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError
from metamodel.subjects.canonical import UNSPANNED, canonical, folded
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.subjects.gauge import GaugeElement, gauge_element, random_gauge
from metamodel.subjects.subject import Subject, initial_weights, unstack

SHAPES = {
    "LN with ReLU": {},
    "LN with GELU, bidirectional": {"act_fn": "gelu", "attention_dir": "bidirectional"},
    "LN, attention only": {"d_mlp": 0},
    "no norm, ReLU": {"normalization_type": "none"},
    "no norm, attention only": {"normalization_type": "none", "d_mlp": 0},
}


def random_subject(seed: int, **shape) -> Subject:
    """Float64, with biases and gains that are not trivial."""
    sizes = {"n_layers": 2, "n_heads": 3, "d_model": 8, "d_head": 3, "d_mlp": 10, "d_vocab": 9, "n_ctx": 7}
    config = SubjectConfig(**(sizes | shape))
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.4), 0)
    for key in weights:
        if key.rsplit(".", 1)[1][0] in "bw":
            weights[key] = weights[key] + 0.2 * torch.randn(weights[key].shape, generator=generator)
    return Subject(config=config, weights=weights).double()


def disguise(subject: Subject, seed: int) -> GaugeElement:
    """A gauge element that changes the order of heads, so that nothing holds by accident."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        element = gauge_element(subject, generator)
        if (element.node_order != torch.arange(len(element.node_order))).any():
            return element


def tokens_for(subject: Subject) -> torch.Tensor:
    return torch.randint(subject.config.d_vocab, (6, 7), generator=torch.Generator().manual_seed(0))


def prompts_for(subject: Subject) -> Prompts:
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = (torch.randint(9, (4, 6), generator=generator) for _ in range(2))
    position, answer = torch.tensor([5, 3, 4, 5]), torch.tensor([1, 2, 3, 8])
    return Prompts(
        clean=clean,
        corrupt=corrupt,
        position=position,
        answer=answer,
        corrupt_answer=(answer + 1) % 9,
        slice=torch.zeros(4, dtype=torch.int64),
        slice_names=("all",),
    )


def changed(subject: Subject) -> Subject:
    """A real change: one value matrix of the first head is another."""
    weights = dict(subject.weights)
    noise = torch.randn(weights["blocks.0.attn.W_V"].shape, generator=torch.Generator().manual_seed(2))
    noise[1:] = 0
    weights["blocks.0.attn.W_V"] = weights["blocks.0.attn.W_V"] + 0.3 * noise
    return subject.with_weights(weights)


def invariants(subject: Subject) -> dict[str, torch.Tensor]:
    """Numbers of the weights that are equal for equal canonical forms, whatever is still free in them."""
    config, w = subject.config, subject.weights
    writes = [w["embed.W_E"], w["pos_embed.W_pos"]]
    for layer in range(config.n_layers):
        writes.append(w[f"blocks.{layer}.attn.b_O"][None])
        if config.has_mlp:
            writes.append(w[f"blocks.{layer}.mlp.b_out"][None])
    written = torch.cat(writes)
    made = {"writes": written @ written.T, "said": written @ w["unembed.W_U"] + w["unembed.b_U"]}
    for layer in range(config.n_layers):
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        qk = w[f"{attn}.W_Q"] @ w[f"{attn}.W_K"].mT
        ov = w[f"{attn}.W_V"] @ w[f"{attn}.W_O"]
        made |= {
            f"{layer} qk": written @ qk @ written.T,
            f"{layer} ov": written @ ov @ written.T,
            f"{layer} qk spectrum": torch.linalg.svdvals(qk)[:, : config.d_head],
            f"{layer} ov spectrum": torch.linalg.svdvals(ov)[:, : config.d_head],
            f"{layer} key salience": torch.einsum(
                "hd,hmd,nm->hn", w[f"{attn}.b_Q"], w[f"{attn}.W_K"], written
            ),
        }
        for name in ("W_Q", "W_K", "W_V"):
            made[f"{layer} {name}"] = w[f"{attn}.{name}"].norm(dim=1)
        made[f"{layer} W_O"] = w[f"{attn}.W_O"].norm(dim=2)
        if config.has_mlp:
            neurons = torch.stack([w[f"{mlp}.W_in"].norm(dim=0), w[f"{mlp}.W_out"].norm(dim=1)])
            made[f"{layer} neurons"] = neurons[:, neurons[0].argsort()]
    return made


def head_order(element: GaugeElement, layer: int) -> torch.Tensor:
    """Old index of each new head inside its layer."""
    config = element.subject.config
    first = 2 + layer * (config.n_heads + config.has_mlp)
    return element.node_order[first : first + config.n_heads] - first


def edge_order(element: GaugeElement) -> torch.Tensor:
    """Old index of each new edge."""
    edges, order = component_edges(element.subject.config), element.node_order.tolist()
    channels = [edge.destination.channel for edge in edges.edges]
    ends = list(zip(edges.source_node, edges.destination_node, channels, strict=True))
    index = {end: i for i, end in enumerate(ends)}
    return torch.tensor([index[order[source], order[reader], channel] for source, reader, channel in ends])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_gauge_element_changes_weights_and_no_logit(shape):
    subject, tokens = random_subject(1, **shape), tokens_for(random_subject(1, **shape))
    logits, moved = subject.run(tokens).logits, disguise(subject, 3).subject
    torch.testing.assert_close(moved.run(tokens).logits, logits, atol=1e-9, rtol=0)
    for key, value in subject.weights.items():
        free = not key.endswith(("b_U", "b_out")) or (key.endswith("b_out") and subject.config.has_norm)
        assert not free or (value - moved.weights[key]).abs().max() > 1e-3, f"{key} stayed as it was"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_gauge_element_changes_no_logit_in_float32(shape):
    double = random_subject(1, **shape)
    subject = double.with_weights({key: value.float() for key, value in double.weights.items()})
    tokens = tokens_for(subject)
    for form in (
        random_gauge(subject, torch.Generator().manual_seed(4)),
        folded(subject),
        canonical(subject),
    ):
        assert {value.dtype for value in form.weights.values()} == {torch.float32}
        torch.testing.assert_close(form.run(tokens).logits, subject.run(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_canonical_form_has_the_same_logits(shape):
    subject = random_subject(2, **shape)
    tokens = tokens_for(subject)
    for form in (folded(subject), canonical(subject)):
        torch.testing.assert_close(form.run(tokens).logits, subject.run(tokens).logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_canonical_form_forgets_the_gauge(shape):
    subject = random_subject(3, **shape)
    element = disguise(subject, 5)
    before, after = invariants(canonical(subject)), invariants(canonical(element.subject))
    for name, value in before.items():
        layer = name.split()[0]
        if layer.isdigit() and "neurons" not in name:
            value = value[head_order(element, int(layer))]
        torch.testing.assert_close(
            after[name], value, atol=1e-8, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_raw_weights_and_a_really_changed_subject_have_other_invariants(shape):
    subject = random_subject(3, **shape)
    moved = disguise(subject, 5).subject
    raw, raw_moved = invariants(subject)["writes"], invariants(moved)["writes"]
    assert (raw - raw_moved).abs().max() > 1e-3
    form, other = invariants(canonical(subject)), invariants(canonical(changed(subject)))
    difference = (form["0 ov spectrum"] - other["0 ov spectrum"]).abs()
    assert difference[0].max() > 1e-3
    assert difference[1:].max() < 1e-8, "the other heads are as they were"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_real_change_moves_logits(shape):
    subject = random_subject(4, **shape)
    tokens = tokens_for(subject)
    assert (changed(subject).run(tokens).logits - subject.run(tokens).logits).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_edge_scores_follow_the_edges_through_a_gauge_element_and_see_a_real_change(shape):
    subject = random_subject(5, **shape)
    element, prompts = disguise(subject, 6), prompts_for(subject)
    order = edge_order(element)
    for intervention in ("noising", "zero"):
        before = edge_scores(subject, prompts, intervention)
        after = edge_scores(element.subject, prompts, intervention)
        torch.testing.assert_close(after.margin, before.margin[order], atol=1e-6, rtol=0)
        torch.testing.assert_close(after.kl, before.kl[order], atol=1e-6, rtol=0)
        assert (after.margin - before.margin).abs().max() > 1e-3, "the order of heads did not matter"
        other = edge_scores(changed(subject), prompts, intervention)
        assert (other.margin - before.margin).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mean_ablation_follows_the_nodes_and_sees_a_real_change(shape):
    subject = random_subject(6, **shape)
    element, prompts = disguise(subject, 7), prompts_for(subject)
    before, after = ablation_effects(subject, prompts)[0], ablation_effects(element.subject, prompts)[0]
    torch.testing.assert_close(after, before[element.node_order], atol=1e-6, rtol=0)
    assert (ablation_effects(changed(subject), prompts)[0] - before).abs().max() > 1e-3


def test_zero_ablation_of_raw_weights_depends_on_the_gauge():
    """Why scores are taken on the canonical form: a value bias in `b_O` is not ablated with its head."""
    subject = random_subject(7)
    shift = torch.ones_like(subject.weights["blocks.0.attn.b_V"])
    lost = torch.einsum("hd,hdm->m", shift, subject.weights["blocks.0.attn.W_O"])
    moved = subject.with_weights(
        {
            **subject.weights,
            "blocks.0.attn.b_V": subject.weights["blocks.0.attn.b_V"] + shift,
            "blocks.0.attn.b_O": subject.weights["blocks.0.attn.b_O"] - lost,
        }
    )
    tokens = tokens_for(subject)

    def cut(whole: Subject) -> torch.Tensor:
        """Logits without what the first block's heads write, biases apart."""
        zero = {"blocks.0.attn.hook_result": torch.zeros_like}
        return forward(whole.stacked, whole.config, tokens, replace=zero).logits

    torch.testing.assert_close(moved.run(tokens).logits, subject.run(tokens).logits, atol=1e-9, rtol=0)
    assert (cut(moved) - cut(subject)).abs().max() > 1e-2
    torch.testing.assert_close(cut(folded(moved)), cut(folded(subject)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_dead_neurons_and_heads_without_full_rank_keep_their_logits_and_stay_finite(norm):
    subject = random_subject(8, normalization_type=norm, d_model=8, d_head=6)
    weights = {key: value.clone() for key, value in subject.weights.items()}
    weights["blocks.0.mlp.W_in"][:, 0] = 0
    weights["blocks.0.mlp.b_in"][:2] = 0
    weights["blocks.0.mlp.W_in"][:, 1] = 0
    weights["blocks.0.mlp.W_out"][1:3] = 0
    weights["blocks.0.attn.W_Q"][0] = 0
    weights["blocks.0.attn.W_K"][1, :, 2:] = weights["blocks.0.attn.W_K"][1, :, :1]
    weights["blocks.1.attn.W_O"][0] = 0
    weights["blocks.1.attn.W_V"][1, :, 1:] = 0
    subject = subject.with_weights(weights)
    tokens = tokens_for(subject)
    form = canonical(subject)
    torch.testing.assert_close(form.run(tokens).logits, subject.run(tokens).logits, atol=1e-9, rtol=0)
    again = canonical(random_gauge(subject, torch.Generator().manual_seed(9)))
    torch.testing.assert_close(again.run(tokens).logits, subject.run(tokens).logits, atol=1e-9, rtol=0)


def test_heads_wider_than_the_residual_stream_are_balanced_too():
    subject = random_subject(9, d_model=4, d_head=6)
    tokens = tokens_for(subject)
    logits = canonical(subject).run(tokens).logits
    torch.testing.assert_close(logits, subject.run(tokens).logits, atol=1e-9, rtol=0)


def test_embeddings_that_do_not_span_the_stream_are_noted_and_their_logits_kept():
    subject = random_subject(10, normalization_type="none", d_model=20)
    tokens = tokens_for(subject)
    form = canonical(subject)
    assert form.notes == (UNSPANNED,)
    assert canonical(form).notes == (UNSPANNED,)
    assert canonical(random_subject(10, normalization_type="none")).notes == ()
    torch.testing.assert_close(form.run(tokens).logits, subject.run(tokens).logits, atol=1e-9, rtol=0)


def test_a_balanced_subject_is_its_own_canonical_form_up_to_signs():
    form = canonical(random_subject(11))
    again = canonical(form)
    for key, value in form.weights.items():
        torch.testing.assert_close(again.weights[key].abs(), value.abs(), atol=1e-9, rtol=0)


def test_a_post_norm_subject_keeps_what_is_not_free_and_loses_its_head_gauge():
    subject = random_subject(12, norm_position="post", act_fn="gelu")
    element = disguise(subject, 10)
    form, other = canonical(subject), canonical(element.subject)
    for key in ("embed.W_E", "pos_embed.W_pos", "blocks.0.ln1.w", "ln_final.b", "unembed.W_U"):
        torch.testing.assert_close(form.weights[key], subject.weights[key], atol=0, rtol=0)
        torch.testing.assert_close(other.weights[key], subject.weights[key], atol=0, rtol=0)
    for layer in range(2):
        order = head_order(element, layer)
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            key = f"blocks.{layer}.attn.{name}"
            torch.testing.assert_close(
                other.weights[key].abs(), form.weights[key][order].abs(), atol=1e-8, rtol=0
            )


def test_a_condition_number_below_one_is_refused():
    with pytest.raises(InputError) as caught:
        random_gauge(random_subject(13), torch.Generator(), condition=0.5)
    assert str(caught.value) == "condition: expected at least 1, got 0.5. Choose 10 or so."
