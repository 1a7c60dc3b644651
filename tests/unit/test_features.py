"""What a meta-model sees of a subject: by hand on planted circuits, size-free, finite, complete."""

import math

import pytest
import torch

from data_gen.labels.registry import LABELS
from metamodel.config import InputError
from metamodel.features import composition
from metamodel.features.activations import _written, explained
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.evidence import evidence
from metamodel.features.graph import graph_of
from metamodel.features.registry import (
    FEATURES,
    check_no_label_statistic,
    feature_names,
    features_of,
    forbidden,
)
from metamodel.features.view import Shown, view
from metamodel.subjects import Subject, SubjectConfig, components, initial_weights, unstack

SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=24, d_head=12, d_mlp=16, d_vocab=20, n_ctx=12)


def random_subject(config: SubjectConfig = SHAPE, seed: int = 0) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    return Subject(config=config, weights=unstack(initial_weights(config, [generator]), 0), name="random")


def shown_to(config: SubjectConfig = SHAPE, n: int = 32, seed: int = 0) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    n_pos = min(8, config.n_ctx)
    tokens = torch.randint(1, config.d_vocab, (n, n_pos), generator=generator)
    return Shown(tokens=tokens, position=torch.tensor([n_pos - 1, n_pos // 2] * (n // 2)))


def column(graph, name: str, track="both"):
    return graph.nodes[:, feature_names(track).index(name)]


def edge(graph, source: str, reader: str, channel: str, config=SHAPE) -> float:
    names = [node.name for node in components(config)]
    return float(graph.edges[names.index(source), names.index(reader), CHANNELS.index(channel)])


def planted_induction() -> Subject:
    """Without a norm: tokens, positions and what the previous-token head writes live in separate blocks."""
    n_token, n_pos = 8, 10
    width = 3 * n_token + n_pos
    config = SubjectConfig(
        n_layers=2,
        n_heads=2,
        d_model=width,
        d_head=10,
        d_mlp=0,
        d_vocab=n_token,
        n_ctx=n_pos,
        normalization_type="none",
    )
    weights = {k: 0.01 * v for k, v in random_subject(config).weights.items()}
    tokens, moved, answer = slice(0, n_token), slice(n_token, 2 * n_token), slice(2 * n_token, 3 * n_token)
    place = slice(3 * n_token, width)
    weights["embed.W_E"] = torch.zeros(n_token, width)
    weights["embed.W_E"][:, tokens] = torch.eye(n_token)
    weights["pos_embed.W_pos"] = torch.zeros(n_pos, width)
    weights["pos_embed.W_pos"][:, place] = torch.eye(n_pos)
    weights["unembed.W_U"] = torch.zeros(width, n_token)
    weights["unembed.W_U"][answer] = torch.eye(n_token)
    previous = {x: weights[f"blocks.0.attn.W_{x}"][0].zero_() for x in "QKVO"}
    previous["Q"][place] = 20.0 * torch.eye(n_pos)
    previous["K"][place] = torch.eye(n_pos).roll(1, dims=1)
    previous["V"][tokens, :n_token] = torch.eye(n_token)
    previous["O"][:n_token, moved] = torch.eye(n_token)
    induction = {x: weights[f"blocks.1.attn.W_{x}"][1].zero_() for x in "QKVO"}
    induction["Q"][tokens, :n_token] = 20.0 * torch.eye(n_token)
    induction["K"][moved, :n_token] = torch.eye(n_token)
    induction["V"][tokens, :n_token] = torch.eye(n_token)
    induction["O"][:n_token, answer] = torch.eye(n_token)
    return Subject(config=config, weights=weights, name="planted")


def test_a_planted_previous_token_head_shows_in_position_space_and_in_what_it_writes():
    subject = planted_induction()
    graph = graph_of(subject, "both")
    names = [node.name for node in components(subject.config)]
    head, other = names.index("L0H0"), names.index("L0H1")
    softmax = column(graph, "head.position_softmax_offset_1")
    assert softmax[head] > 0.9
    assert softmax[other] < 0.5
    assert column(graph, "head.qk_position_offset_1")[head] > 2
    assert abs(float(column(graph, "head.qk_position_offset_2")[head])) < 1
    assert column(graph, "head.writes_by_token_at_1")[head] > 0.9
    assert abs(float(column(graph, "head.writes_by_token_at_2")[head])) < 0.1


def test_planted_k_composition_shows_the_signature_of_induction_on_that_edge_alone():
    subject = planted_induction()
    graph = graph_of(subject, "weights")
    found = edge(graph, "L0H0", "L1H1", "k_token_diagonal", subject.config)
    assert found > 20
    assert abs(edge(graph, "L0H1", "L1H1", "k_token_diagonal", subject.config)) < 3
    assert abs(edge(graph, "L0H0", "L1H1", "q_token_diagonal", subject.config)) < 3
    assert edge(graph, "L0H0", "L1H1", "k_composition", subject.config) > 1
    assert edge(graph, "L0H0", "L1H1", "v_composition", subject.config) < 0


def test_a_planted_induction_head_is_known_by_what_it_writes_on_random_tokens():
    subject = planted_induction()
    graph = graph_of(subject, "activations")
    head = [node.name for node in components(subject.config)].index("L1H1")
    after = column(graph, "head.writes_by_after_previous", "activations")[head]
    assert after > 0.5
    assert after > column(graph, "head.writes_by_token_at_1", "activations")[head] + 0.3


def test_composition_of_random_weights_is_at_chance_at_every_size():
    for width in (16, 48):
        config = SubjectConfig(n_layers=2, n_heads=4, d_model=width, d_head=8, d_mlp=0, d_vocab=30, n_ctx=8)
        values = []
        for seed in range(6):
            graph = graph_of(random_subject(config, seed), "weights")
            heads = [i for i, node in enumerate(components(config)) if node.kind == "head"]
            early, late = heads[:4], heads[4:]
            values.append(graph.edges[early][:, late][..., CHANNELS.index("k_composition")])
        assert abs(float(torch.stack(values).mean())) < 0.15


def test_composition_equals_the_naive_formula():
    subject = random_subject().double()
    v = view(subject)
    graph = graph_of(subject, "weights")
    write = v.W_V[0, 1] @ v.W_O[0, 1]
    read = v.W_K[1, 0] @ v.W_Q[1, 0].T
    ratio = (write @ read).norm() ** 2 / (write.norm() ** 2 * read.norm() ** 2)
    expected = math.log(float(ratio) * (SHAPE.d_model - 1))
    assert edge(graph, "L0H1", "L1H0", "k_composition") == pytest.approx(expected, abs=1e-5)


def test_explained_variance_of_planted_groups_is_one_and_of_random_ones_about_zero():
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(8, (600,), generator=generator)
    means = torch.randn(8, 5, generator=generator)
    noise = torch.randn(600, 5, generator=generator)
    assert float(explained(means[group], group)) == pytest.approx(1.0)
    assert abs(float(explained(noise, group))) < 0.02
    assert float(explained(means[group] + 0 * noise, torch.full_like(group, -1))) == 0.0


def test_the_size_of_what_is_written_at_first_and_on_repetition_by_hand():
    signs = torch.tensor([1.0, -1.0]).repeat(4)[:, None, None]  # eight prompts whose mean is zero
    groups = {"position": torch.arange(4).expand(8, 4)}
    first = torch.zeros(8, 4, 1)
    first[:, 0] = 3.0
    assert float(_written(first * signs, groups)["first_position_size"]) == pytest.approx(math.log(4))
    again = torch.ones(8, 4, 1)
    again[-2:, 2:] = 2.0  # the second half of the last quarter, which says the first half once more
    found = _written(again * signs, groups)
    assert float(found["repetition_response"]) == pytest.approx(math.log(4))
    assert float(found["first_position_size"]) == pytest.approx(-math.log(44 / 32))


@pytest.mark.parametrize(
    "changes",
    [
        {"d_mlp": 0},
        {"normalization_type": "none"},
        {"attention_dir": "bidirectional", "act_fn": "gelu"},
        {"n_layers": 1, "n_heads": 1, "d_vocab": 3, "n_ctx": 2, "d_head": 30},
        {"n_ctx": 1},
    ],
    ids=str,
)
def test_features_are_finite_for_any_shape_and_for_dead_components(changes):
    config = SubjectConfig.from_dict(SHAPE.to_dict() | changes)
    subject = random_subject(config)
    dead = dict(subject.weights) | {
        "blocks.0.attn.W_V": torch.zeros_like(subject.weights["blocks.0.attn.W_V"])
    }
    for one in (subject, subject.with_weights(dead)):
        graph = graph_of(one, "both", shown=shown_to(config))
        assert graph.nodes.shape == (len(components(config)), len(feature_names("both")))
        assert graph.nodes.isfinite().all()
        assert graph.nodes.abs().max() < 100


def test_columns_of_other_kinds_are_zero_and_every_listed_feature_is_computed():
    graph = graph_of(random_subject(), "both", shown=shown_to())
    kinds = [node.kind for node in components(SHAPE)]
    for i, feature in enumerate(FEATURES):
        values = graph.nodes[:, i]
        mine = torch.tensor([kind == feature.kind for kind in kinds])
        assert (values[~mine] == 0).all(), feature.name
    silent = {f.name for i, f in enumerate(FEATURES) if (graph.nodes[:, i] == 0).all()}
    assert silent <= {"mlp.neuron_bias_mean", "mlp.neuron_bias_spread", "mlp.neuron_bias_max"}


def test_a_post_norm_subject_is_described_by_its_weights_and_says_so():
    config = SubjectConfig.from_dict(
        SHAPE.to_dict() | {"norm_position": "post", "attention_dir": "bidirectional"}
    )
    graph = graph_of(random_subject(config), "both")
    assert (column(graph, "activations_seen") == 0).all()
    assert (column(graph, "head.writes_by_position") == 0).all()
    assert (column(graph_of(random_subject(), "both"), "activations_seen") == 1).all()


def test_the_activation_track_sees_no_composition_and_computes_none(monkeypatch):
    whole = graph_of(random_subject(), "weights").edges
    monkeypatch.setattr(composition, "_relations", lambda *_: pytest.fail("composition was computed"))
    graph = graph_of(random_subject(), "activations", shown=shown_to())
    known = torch.tensor([name in ("exists", "depth_step") for name in CHANNELS])
    written = torch.tensor([name in ("stream_share", "asked_stream_share") for name in CHANNELS])
    assert (graph.edges[..., ~known & ~written] == 0).all()
    assert torch.equal(graph.edges[..., known], whole[..., known])
    assert (whole[..., written] == 0).all()
    assert (graph.edges[..., written] != 0).any(0).any(0).all()
    assert (whole[..., ~known] != 0).any()
    assert (graph.edges[..., 0] == 1).any()


def test_no_feature_is_a_statistic_that_defines_labels_or_circuits():
    assert not [feature.name for feature in FEATURES if forbidden(feature.statistic)]
    for statistic in ("attention_offset_1_mean", "attention_induction_mean", "logit_attribution"):
        assert forbidden(statistic)


def test_a_label_whose_statistic_is_a_feature_is_refused_unless_it_is_declared_determined():
    statistics = {"copying": ("ov_positive_eigenvalue_fraction",)}
    check_no_label_statistic("weights", statistics, {"copying": ("weights", "both")})
    check_no_label_statistic("activations", statistics, {})
    with pytest.raises(InputError, match="label copying: expected no statistic that is a feature") as caught:
        check_no_label_statistic("weights", statistics, {"copying": ()})
    assert "got head.ov_token_eigenvalue_positivity. Remove that feature" in str(caught.value)


def test_a_label_whose_statistic_is_a_channel_of_edges_is_refused_unless_it_is_declared_determined():
    statistics = {"composes": ("k_composition",)}
    check_no_label_statistic("activations", statistics, {})
    for track in ("weights", "both"):
        check_no_label_statistic(track, statistics, {"composes": ("weights", "both")})
        with pytest.raises(InputError, match=r"label composes: .*got edge\.k_composition"):
            check_no_label_statistic(track, statistics, {})


def test_no_label_of_the_registry_leaks_into_any_track():
    for track in ("weights", "activations", "both"):
        check_no_label_statistic(
            track,
            {label.name: label.statistics for label in LABELS},
            {label.name: label.determined_by for label in LABELS},
        )
    new = ("answer_attention_change_of_movers", "mlp_split_variance_share", "ov_successor_share")
    assert all(forbidden(statistic) for statistic in new)


def test_evidence_of_a_planted_copying_head_names_the_token_that_it_copies():
    subject = planted_induction()
    tokens = torch.tensor([[1, 5, 2, 7, 1], [3, 4, 6, 3, 0]])
    found = evidence(view(subject), tokens, torch.tensor([4, 3]), "weights")
    head = [node.name for node in components(subject.config)].index("L1H1")
    after = found[:, head, :, EVIDENCE.index("after_previous_occurrence")]
    assert after.argmax(-1).tolist() == [5, 4]
    follows = found[:, head, :, EVIDENCE.index("answer_follows_previous_occurrence")]
    assert follows.argmax(-1).tolist() == [5, 4]
    assert found[1, head, 0, EVIDENCE.index("answer_in_prompt")] == 0, "token 0 stands after the position"
    blind = evidence(view(subject), tokens, torch.tensor([4, 3]), "activations")
    assert (blind[..., :6] == 0).all()


def test_without_prompts_their_columns_are_zero_and_the_graph_says_so():
    for track in ("weights", "activations", "both"):
        told, untold = graph_of(random_subject(), track, shown=shown_to()), graph_of(random_subject(), track)
        asks = torch.tensor([feature.asks for feature in features_of(track)] + [True, False])
        assert (untold.nodes[:, asks] == 0).all()
        assert (told.nodes[:, asks] != 0).any()
        assert torch.equal(told.nodes[:, ~asks], untold.nodes[:, ~asks])
        assert (column(told, "prompts_seen", track) == 1).all()
        channels = torch.tensor([name.startswith("asked_") for name in CHANNELS])
        assert (untold.edges[..., channels] == 0).all()
        assert torch.equal(told.edges[..., ~channels], untold.edges[..., ~channels])


def test_a_head_that_looks_back_at_the_answer_position_alone_shows_where_it_is_asked():
    """One offset of a single query row: averages over random prompts hardly see it."""
    subject = planted_induction()
    weights = {name: value.clone() for name, value in subject.weights.items()}
    n_token, width = 8, subject.config.d_model
    place = slice(3 * n_token, width)
    queries = torch.zeros(10, 10)
    queries[9, 9] = 20.0
    weights["blocks.0.attn.W_Q"][0].zero_()[place] = queries
    one = subject.with_weights(weights)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(n_token, (64, 10), generator=generator)
    there = Shown(tokens=tokens, position=torch.full((64,), 9))
    elsewhere = Shown(tokens=tokens, position=torch.full((64,), 7))
    head = [node.name for node in components(subject.config)].index("L0H0")
    for name in ("head.asked_softmax_offset_1", "head.asked_writes_by_token_at_1"):
        asked = float(column(graph_of(one, "both", shown=there), name)[head])
        not_asked = float(column(graph_of(one, "both", shown=elsewhere), name)[head])
        assert asked > 0.9, name
        assert not_asked < 0.5, name


def test_shares_say_whose_writing_is_read_and_add_up():
    subject = planted_induction()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(8, (64, 10), generator=generator)
    graph = graph_of(subject, "both", shown=Shown(tokens=tokens, position=torch.full((64,), 9)))
    names = [node.name for node in components(subject.config)]
    previous, other, induction = (names.index(name) for name in ("L0H0", "L0H1", "L1H1"))
    for prefix in ("", "asked_"):
        share = graph.edges[:, induction, CHANNELS.index(f"{prefix}k_share")].exp()
        there = graph.edges[:, induction, CHANNELS.index("exists")] > 0
        assert float(share[there].sum()) == pytest.approx(1.0, abs=0.01)
        assert float(share[previous]) > 0.95
        assert float(share[other]) < 0.01
    direct = graph.edges[names.index("token_embedding"), induction, CHANNELS.index("q_share")].exp()
    assert float(direct) > 0.95


def test_prompts_of_a_large_vocabulary_are_read_whole_though_only_a_sample_describes_it():
    config = SubjectConfig.from_dict(SHAPE.to_dict() | {"d_vocab": 3000, "d_mlp": 0})
    subject = random_subject(config)
    shown = Shown(tokens=torch.tensor([[2999, 7, 1500]] * 8), position=torch.full((8,), 2))
    v = view(subject, shown=shown)
    assert v.shown is not None
    assert len(v.tokens) == 64
    whole = subject.weights["embed.W_E"][shown.tokens]
    cut = v.subject.weights["embed.W_E"][v.shown.tokens]
    whole, cut = (x.double() - x.double().mean(-1, keepdim=True) for x in (whole, cut))
    ratio = torch.linalg.vector_norm(cut - cut[:1, :1]) / torch.linalg.vector_norm(whole - whole[:1, :1])
    assert float(ratio) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("tokens", "position", "line"),
    [
        ([[0] * 13], [3], "random: prompts: expected 1 to 12 tokens, got 13. Shorten them."),
        (
            [[0, 20]],
            [1],
            "random: prompts: tokens: expected 0 to 19, got 20. Tokenise the prompts for this subject.",
        ),
        (
            [[0, 1]],
            [2],
            "random: prompts: position: expected 0 to 1, got 2. Tokenise the prompts for this subject.",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_one_line(tokens, position, line):
    with pytest.raises(InputError) as error:
        view(random_subject(), shown=Shown(tokens=torch.tensor(tokens), position=torch.tensor(position)))
    assert str(error.value) == line
