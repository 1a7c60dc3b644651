"""Ratios inside one subject: by naive formulas, the same in every gauge, and others after a cut."""

import math

import pytest
import torch

from metamodel.features.ratios import (
    OWN_RATIOS,
    PAIR_RATIOS,
    RatioSignature,
    component_names,
    ratio_signature,
    subject_names,
)
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject
from tests.laws.test_gauge import SHAPES, disguise, random_subject


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0, equal_nan=True)


def pair(signature: RatioSignature, source: str, reader: str, ratio: str) -> float:
    names = [node.name for node in signature.nodes]
    return float(signature.pairs[names.index(source), names.index(reader), PAIR_RATIOS.index(ratio)])


def own(signature: RatioSignature, node: str, ratio: str) -> float:
    names = [node.name for node in signature.nodes]
    return float(signature.own[names.index(node), OWN_RATIOS.index(ratio)])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_signatures_are_the_same_in_every_gauge(shape):
    subject = random_subject(3, **shape)
    before = ratio_signature(subject)
    for seed in (5, 6):
        element = disguise(subject, seed)
        after, order = ratio_signature(element.subject), element.node_order
        close(before.own[order], after.own)
        close(before.pairs[order][:, order], after.pairs)
        close(before.of_subject(), after.of_subject())
        close(before.of_components()[order], after.of_components())


@pytest.mark.parametrize("shape", [{}, {"normalization_type": "none"}], ids=["LN", "no norm"])
def test_a_common_scale_changes_nothing(shape):
    subject = random_subject(4, **shape, eps=1e-12)
    before = ratio_signature(subject)
    # gains are no size; without a norm embeddings set the scale, which whitening takes out
    left = ("ln", "blocks.0.ln", "blocks.1.ln") + (() if subject.config.has_norm else ("embed", "pos_embed"))
    scaled = {k: x if k.startswith(left) else 3 * x for k, x in subject.weights.items()}
    after = ratio_signature(subject.with_weights(scaled))
    close(before.own, after.own)
    close(before.pairs, after.pairs)


def test_a_scale_of_one_head_changes_its_size_and_no_direction():
    subject = random_subject(5)
    before = ratio_signature(subject)
    weights = dict(subject.weights)
    key = "blocks.1.attn.W_O"
    weights[key] = weights[key].clone()
    weights[key][2] *= 50.0
    after = ratio_signature(subject.with_weights(weights))
    assert own(after, "L1H2", "ov_over_layer") > own(before, "L1H2", "ov_over_layer") + 1
    assert own(after, "L1H2", "ov_over_qk") > own(before, "L1H2", "ov_over_qk") + 1
    close(before.pairs, after.pairs)


def cut(subject: Subject, channel: str) -> Subject:
    """Takes what L0H1 writes out of what L1H0 reads at one input."""
    form = canonical(subject)
    weights = dict(form.weights)
    _, _, basis = torch.linalg.svd(weights["blocks.0.attn.W_O"][1], full_matrices=False)
    key = f"blocks.1.attn.W_{channel.upper()}"
    weights[key] = weights[key].clone()
    weights[key][0] -= basis.T @ (basis @ weights[key][0])
    return form.with_weights(weights)


@pytest.mark.parametrize("channel", ["q", "k", "v"])
def test_one_edge_that_is_cut_shows(channel):
    subject = random_subject(6)
    before, after = ratio_signature(subject), ratio_signature(cut(subject, channel))
    assert pair(after, "L0H1", "L1H0", f"{channel}_composition") == pytest.approx(-3.0), "the floor, log e^-3"
    assert pair(after, "L0H1", "L1H0", f"{channel}_overlap") == pytest.approx(math.log(1e-6))
    assert abs(pair(before, "L0H1", "L1H0", f"{channel}_overlap")) < 2
    assert (before.of_subject() - after.of_subject()).abs().nan_to_num(0).max() > 0.1
    # what reads elsewhere is as it was
    for other in {"q", "k", "v"} - {channel}:
        assert pair(after, "L0H1", "L1H1", f"{channel}_composition") == pytest.approx(
            pair(before, "L0H1", "L1H1", f"{channel}_composition")
        )
        assert pair(after, "L0H1", "L1H0", f"{other}_overlap") == pytest.approx(
            pair(before, "L0H1", "L1H0", f"{other}_overlap")
        )


def test_ratios_equal_the_naive_formulas():
    subject = random_subject(7)
    found, form = ratio_signature(subject), canonical(subject).weights
    d = subject.config.d_model

    def of(layer: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        w = {x: form[f"blocks.{layer}.attn.W_{x}"][head] for x in "QKVO"}
        return w["V"] @ w["O"], w["Q"] @ w["K"].T

    (ov, qk), (ov2, qk2) = of(0, 1), of(1, 2)
    sigma = (ov @ qk2.T).norm().log() - (ov.norm() * qk2.norm()).log() + math.log(d - 1) / 2
    assert pair(found, "L0H1", "L1H2", "k_composition") == pytest.approx(float(sigma))
    sigma = (ov @ ov2).norm().log() - (ov.norm() * ov2.norm()).log() + math.log(d - 1) / 2
    assert pair(found, "L0H1", "L1H2", "v_composition") == pytest.approx(float(sigma))
    cosine = float((ov * ov2).sum() / (ov.norm() * ov2.norm()))
    assert pair(found, "L0H1", "L1H2", "ov_cosine") == pytest.approx(cosine)
    cosine = float((qk * qk2).sum() / (qk.norm() * qk2.norm()))
    assert pair(found, "L0H1", "L1H2", "qk_cosine") == pytest.approx(cosine)
    write = torch.linalg.qr(form["blocks.0.attn.W_O"][1].T).Q
    read = torch.linalg.qr(form["blocks.1.attn.W_Q"][2]).Q
    kernel = (write.T @ read).pow(2).sum() * (d - 1) / (write.shape[1] * read.shape[1])
    assert pair(found, "L0H1", "L1H2", "q_overlap") == pytest.approx(float(kernel.log()))
    sizes = torch.stack([of(1, head)[0].norm().log() for head in range(3)])
    assert own(found, "L1H2", "ov_over_layer") == pytest.approx(float(sizes[2] - sizes.median()))
    assert own(found, "L1H2", "ov_identity") == pytest.approx(float(ov2.trace() / (ov2.norm() * d**0.5)))
    assert own(found, "L1H2", "qk_identity") == pytest.approx(float(qk2.trace() / (qk2.norm() * d**0.5)))
    W_in, W_out = form["blocks.1.mlp.W_in"], form["blocks.1.mlp.W_out"]
    cosines = [float(torch.cosine_similarity(W_in[:, i], W_out[i], dim=0)) for i in range(W_in.shape[1])]
    assert own(found, "MLP1", "mlp_cosine") == pytest.approx(sum(cosines) / len(cosines))


def test_what_has_no_partner_is_nan_and_nothing_else_is():
    subject = random_subject(8)
    found = ratio_signature(subject)
    assert not found.of_subject().isnan().any()
    assert len(found.of_subject()) == len(subject_names()) == len(set(subject_names()))
    table = found.of_components()
    assert table.shape == (len(components(subject.config)), len(component_names()))
    at = {name: i for i, name in enumerate(component_names())}
    names = [node.name for node in found.nodes]
    assert table[names.index("L0H0"), at["from_head.q_composition"]].isnan()
    expected = max(pair(found, f"L0H{i}", "L1H0", "q_composition") for i in range(3))
    assert float(table[names.index("L1H0"), at["from_head.q_composition"]]) == pytest.approx(expected)
    without = ratio_signature(random_subject(8, d_mlp=0)).of_subject()
    gone = {name for name, x in zip(subject_names(), without.isnan().tolist(), strict=True) if x}
    assert gone == {name for name in subject_names() if "mlp" in name}
