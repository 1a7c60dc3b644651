"""Scores of nodes of every grain against full forwards with replaced sites, and against a subject by hand."""

import dataclasses
import math

import pytest
import torch

from metamodel.circuits import (
    Dictionary,
    Exact,
    MLPBias,
    Neuron,
    Prompts,
    Rest,
    ablation_effects,
    component_edges,
    direction,
    mlp_parts,
    node_edge_scores,
    node_outputs,
    node_scores,
    path_patch,
    principal_directions,
    singular_directions,
    stream,
)
from metamodel.circuits.base_run import base_run
from metamodel.config import InputError
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import Component, SubjectConfig, components, weight_shapes
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject
from tests.reference import slow

HEAD, MLP = Component(kind="head", layer=0, head=1), Component(kind="mlp", layer=0)
TOKEN, POSITION = Component(kind="token_embedding"), Component(kind="position_embedding")
LONG = {"normalization_type": "none", "n_layers": 3, "act_fn": "gelu", "attention_dir": "bidirectional"}
SHAPES = [{}, LONG, {"n_layers": 1}]
CASES = [
    ("noising", {}, False),
    ("noising", {"n_layers": 1}, True),
    ("denoising", LONG, False),
    ("denoising", {}, True),
    ("zero", {}, False),
    ("zero", LONG, True),
    ("mean", {"n_layers": 1}, False),
    ("mean", {"act_fn": "gelu_new"}, True),
]
"""Intervention, shape of the subject, whether answers are asked at many positions."""


def random_subject(seed: int, **shape) -> Subject:
    return slow.random_subject(seed, **shape).double()


def random_prompts(seed: int, config: SubjectConfig, *, n: int = 5, many: bool = False) -> Prompts:
    prompts = slow.random_prompts(seed, config, n=n)
    if not many:
        return prompts
    generator = torch.Generator().manual_seed(seed + 1000)
    targets = torch.randint(-1, config.d_vocab, prompts.clean.shape, generator=generator)
    return dataclasses.replace(prompts, targets=targets)


def site_of(component: Component) -> str:
    return {
        "token_embedding": "hook_embed",
        "position_embedding": "hook_pos_embed",
        "head": f"blocks.{component.layer}.attn.hook_result",
        "mlp": f"blocks.{component.layer}.hook_mlp_out",
    }[component.kind]


def patched(value: torch.Tensor, other: torch.Tensor, intervention: str) -> torch.Tensor:
    if intervention == "mean":
        return value.mean(1, keepdim=True).expand_as(value)
    return torch.zeros_like(value) if intervention == "zero" else other


def naive_score(subject: Subject, prompts: Prompts, site: str, change, intervention: str, metric: str):
    """One full forward of the folded subject, in which `change(value, patch)` stands at a site."""
    whole, swap = folded(subject), intervention == "denoising"
    tokens, other_tokens = (prompts.corrupt, prompts.clean) if swap else (prompts.clean, prompts.corrupt)
    other = whole.run(other_tokens, taps=[site]).taps[site]
    run = forward(
        whole.stacked,
        subject.config,
        tokens,
        replace={site: lambda value: change(value, patched(value, other, intervention))},
    )
    base = base_run(subject, prompts, intervention)
    measure = base.measure(metric)
    reference = measure(base.suffix.at_answer(whole.run(tokens).logits[0]))
    return (measure(base.suffix.at_answer(run.logits[0])) - reference).mean()


def in_component(component: Component, part):
    """Replaces `part` of what a component writes by the same part of its patch."""

    def change(value, patch):
        if component.kind != "head":
            return value + part(patch) - part(value)
        made = value.clone()
        made[..., component.head, :] += part(patch[..., component.head, :]) - part(
            value[..., component.head, :]
        )
        return made

    return change


def neuron_change(index: int):
    def change(value, patch):
        made = value.clone()
        made[..., index] = patch[..., index]
        return made

    return change


def onto(vectors: torch.Tensor, *, centre: bool):
    """Least-squares projection on vectors, by a solver that the library does not use."""
    rows = vectors - vectors.mean(-1, keepdim=True) if centre else vectors

    def part(value):
        return torch.linalg.lstsq(rows.T, value.reshape(-1, value.shape[-1]).T).solution, rows

    def project(value):
        solution, rows = part(value)
        return (rows.T @ solution).T.reshape(value.shape)

    def feature(index):
        def one(value):
            solution, rows = part(value)
            return torch.outer(solution[index], rows[index]).reshape(value.shape)

        return one

    return project, feature


def draw_vectors(n: int, config: SubjectConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, config.d_model, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("intervention", "shape", "many"), CASES)
def test_every_kind_of_node_equals_a_full_forward_with_its_part_replaced(shape, intervention, many):
    subject = random_subject(1, **shape)
    config, metric = subject.config, "margin"
    prompts = random_prompts(2, config, many=many)
    last = config.n_layers - 1
    nodes, wanted = [], []

    def add(node, site, change):
        nodes.append(node)
        wanted.append(naive_score(subject, prompts, site, change, intervention, metric))

    vectors = draw_vectors(3, config)
    project, feature = onto(vectors, centre=config.has_norm)
    for component in [*components(config)[:-1]]:
        site = site_of(component)
        add(component, site, in_component(component, lambda value: value))
        add(direction(component, vectors), site, in_component(component, project))
        alone, _ = onto(vectors[:1], centre=config.has_norm)
        add(direction(component, vectors[0]), site, in_component(component, alone))
        dictionary = Dictionary(component=component, vectors=vectors)
        for i, node in enumerate(dictionary.features):
            add(node, site, in_component(component, feature(i)))
        rest = in_component(component, lambda value: value - project(value))
        add(Rest(of=dictionary), site, rest)
        add(Rest(of=(direction(component, vectors[:2]), direction(component, vectors[2]))), site, rest)
    for layer in {0, last}:
        for index in (0, 5, 11):
            add(Neuron(layer=layer, index=index), f"blocks.{layer}.mlp.hook_post", neuron_change(index))

    action = "restore" if intervention == "denoising" else "ablate"
    scores = node_scores(subject, prompts, nodes, metric, intervention, action)
    torch.testing.assert_close(scores.value, torch.stack(wanted), atol=1e-10, rtol=0)
    silent = [node is POSITION or node.name.startswith("position") for node in nodes]
    told = torch.tensor(silent)
    assert (scores.value[~told].abs() > 1e-4).float().mean() > 0.9, "too few have an effect to compare"
    if intervention == "zero":
        assert (scores.value[told].abs() > 1e-6).all()
    else:
        assert (scores.value[told] == 0).all(), "positions say the same in both runs"


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_direction_is_projected_out_of_the_stream_for_all_later_readers(shape, many):
    subject = random_subject(3, **shape)
    config = subject.config
    prompts, vectors = random_prompts(4, config, many=many), draw_vectors(2, config)
    project, _ = onto(vectors, centre=config.has_norm)
    nodes, wanted, in_output = [], [], []
    for component in components(config)[:-1]:
        layer = component.layer
        site = {"head": f"blocks.{layer}.hook_resid_mid", "mlp": f"blocks.{layer}.hook_resid_post"}.get(
            component.kind, "blocks.0.hook_resid_pre"
        )
        nodes.append(direction(component, vectors))
        wanted.append(naive_score(subject, prompts, site, lambda x, _: x - project(x), "zero", "margin"))
        part = in_component(component, lambda x: project(x))
        in_output.append(naive_score(subject, prompts, site_of(component), part, "zero", "margin"))
    scores = node_scores(subject, prompts, nodes, action="project_out_stream")
    torch.testing.assert_close(scores.value, torch.stack(wanted), atol=1e-10, rtol=0)
    written = node_scores(subject, prompts, nodes, action="project_out")
    torch.testing.assert_close(written.value, torch.stack(in_output), atol=1e-10, rtol=0)
    assert (scores.value - written.value).abs().min() > 1e-6
    assert scores.intervention == written.intervention == "zero"


def test_an_encoder_reads_the_raw_component_and_its_coefficients_are_patched():
    subject = random_subject(5)
    prompts, vectors = random_prompts(6, subject.config), draw_vectors(20, subject.config)
    for component in (MLP, HEAD):
        dictionary = Dictionary(
            component=component, vectors=vectors, encoder=lambda x: torch.relu(x @ vectors.T - 0.1)
        )
        site = site_of(component)
        base, other = (
            subject.run(tokens, taps=[site]).taps[site][0] for tokens in (prompts.clean, prompts.corrupt)
        )
        if component.kind == "head":
            base, other = base[..., 1, :], other[..., 1, :]
        codes = torch.relu(other @ vectors.T - 0.1) - torch.relu(base @ vectors.T - 0.1)
        scores = node_scores(subject, prompts, dictionary.nodes)
        assert scores.value.abs().min() > 0
        for i in (0, 7, 19):
            # Added to the raw output: LayerNorm makes raw and folded agree.
            addend = codes[..., i, None] * vectors[i]
            want = naive_score(
                subject, prompts, f"blocks.0.hook_{'mlp_out' if component is MLP else 'attn_out'}",
                lambda x, _, a=addend: x + a, "noising", "margin",
            )  # fmt: skip
            torch.testing.assert_close(scores.value[i], want, atol=1e-10, rtol=0)
        outputs = node_outputs(subject, prompts, [component, *dictionary.nodes])
        torch.testing.assert_close(outputs.outputs[1:].sum(0), outputs.outputs[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(outputs.patch[1:].sum(0), outputs.patch[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("intervention", "shape", "many"), CASES)
def test_parts_sum_to_the_whole_in_the_run_and_when_patched(shape, intervention, many):
    subject = random_subject(7, **shape)
    prompts = random_prompts(8, subject.config, many=many)
    for component in (MLP, HEAD, TOKEN, POSITION):
        directions = singular_directions(subject, component, 3)
        partitions = [
            [*directions, Rest(of=directions)],
            [*Dictionary(component=component, vectors=draw_vectors(11, subject.config)).nodes],
            [*(mlp_parts(subject.config, 0) if component is MLP else [component])],
        ]
        for parts in partitions:
            found = node_outputs(subject, prompts, [component, *parts], intervention)
            for written in (found.outputs, found.patch):
                torch.testing.assert_close(written[1:].sum(0), written[0], atol=1e-12, rtol=0)
            assert found.outputs[0].abs().max() > 0.1


def test_what_says_the_same_on_every_prompt_is_its_own_mean_to_the_last_bit():
    subject = random_subject(34)
    prompts = random_prompts(35, subject.config, n=7)
    # Large coefficients of all digits, so that a rounded mean would not be lost in the stream.
    positions = Dictionary(
        component=POSITION,
        vectors=draw_vectors(8, subject.config),
        encoder=lambda x: 1e6 * math.pi * torch.relu(x),
    )
    nodes = [POSITION, *positions.features, MLPBias(layer=0)]
    for intervention in ("mean", "noising"):
        assert (node_scores(subject, prompts, nodes, "margin", intervention).value == 0).all()
    assert (node_scores(subject, prompts, nodes, "margin", "zero").value.abs() > 1e-4).float().mean() > 0.8


def test_float32_scores_agree_too():
    subject = slow.random_subject(36)
    prompts = random_prompts(37, subject.config)
    for component in (HEAD, MLP, TOKEN):
        directions = singular_directions(subject, component, 2)
        nodes = [component, *directions, Rest(of=directions), Neuron(layer=1, index=0)]
        nodes += Dictionary(component=component, vectors=draw_vectors(3, subject.config).float()).nodes
        found, want = (node_scores(one, prompts, nodes).value for one in (subject, subject.double()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), want, atol=1e-4, rtol=1e-4)


def test_outputs_are_those_of_the_folded_run():
    subject = random_subject(9)
    prompts = random_prompts(10, subject.config)
    taps = (
        folded(subject).run(prompts.clean, taps=["blocks.0.hook_mlp_out", "blocks.0.attn.hook_result"]).taps
    )
    found = node_outputs(subject, prompts, [MLP, HEAD, MLPBias(layer=0)])
    torch.testing.assert_close(found.outputs[0], taps["blocks.0.hook_mlp_out"][0])
    torch.testing.assert_close(found.outputs[1], taps["blocks.0.attn.hook_result"][0, :, :, 1])
    bias = folded(subject).weights["blocks.0.mlp.b_out"]
    torch.testing.assert_close(found.outputs[2], bias.expand_as(found.outputs[2]))
    torch.testing.assert_close(found.patch[2], found.outputs[2], atol=0, rtol=0)


def test_singular_directions_are_those_in_which_a_component_writes_most():
    subject = random_subject(11)
    weights = folded(subject).weights
    value, write = (weights[f"blocks.0.attn.{x}"][1] for x in ("W_V", "W_O"))
    directions = singular_directions(subject, HEAD, 3)
    gains = torch.stack([(value @ write @ d.basis[0]).norm() for d in directions])
    torch.testing.assert_close(gains, torch.linalg.svdvals(value @ write)[:3])
    basis = torch.cat([d.basis for d in directions])
    torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
    rest = node_outputs(subject, random_prompts(12, subject.config), [Rest(of=directions)])
    assert rest.outputs.abs().max() < 1e-12, "a head of width 3 writes in 3 directions"


def test_principal_directions_hold_most_of_the_variance():
    subject = random_subject(13)
    prompts = random_prompts(14, subject.config)
    written = node_outputs(subject, prompts, [MLP], "mean").outputs[0].flatten(0, 1)
    centred = written - written.mean(0)
    found = principal_directions(subject, MLP, prompts, 4)
    variances = torch.stack([(centred @ d.basis[0]).square().sum() for d in found])
    torch.testing.assert_close(variances, torch.linalg.svdvals(centred)[:4].square())


def hand_subject() -> Subject:
    """No attention, no norm; two neurons that a hand can follow. Tokens are axes."""
    config = SubjectConfig(
        n_layers=1, n_heads=1, d_model=3, d_head=1, d_mlp=2, d_vocab=3, n_ctx=1, normalization_type="none"
    )
    weights = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in weight_shapes(config).items()}
    weights["embed.W_E"] = weights["unembed.W_U"] = torch.eye(3, dtype=torch.float64)
    weights["blocks.0.mlp.W_in"][0, 0], weights["blocks.0.mlp.W_in"][1, 1] = 2.0, 1.0
    weights["blocks.0.mlp.b_in"][1] = 0.5
    weights["blocks.0.mlp.W_out"][0, 1], weights["blocks.0.mlp.W_out"][1, 2] = 0.25, 0.5
    weights["blocks.0.mlp.b_out"][2] = 0.1
    return Subject(config=config, weights=weights)


def hand_prompts() -> Prompts:
    """Token 0 against token 1, twice."""
    return Prompts(
        clean=torch.tensor([[0], [0]]),
        corrupt=torch.tensor([[1], [1]]),
        position=torch.tensor([0, 0]),
        answer=torch.tensor([0, 0]),
        corrupt_answer=torch.tensor([1, 1]),
        slice=torch.tensor([0, 0]),
        slice_names=("all",),
    )


def test_a_subject_done_by_hand_gets_the_scores_done_by_hand():
    # Clean: neurons 2 and 1/2, logits (1, .5, .35), margin .5. Corrupt: 0 and 3/2, logits (0, 1, .85).
    axis = torch.eye(3, dtype=torch.float64)
    second, third = direction(MLP, axis[1]), direction(MLP, axis[2])
    nodes = [Neuron(layer=0, index=0), Neuron(layer=0, index=1), MLPBias(layer=0), second, third, MLP, TOKEN]
    nodes += [Rest(of=(second,))]

    def scores(*words):
        return node_scores(hand_subject(), hand_prompts(), nodes, "margin", *words).value.tolist()

    assert scores("noising") == pytest.approx([0.15, -0.35, 0, 0.15, -0.35, -0.35, -1.5, -0.35])
    # A zeroed token leaves neurons 0 and 1/2: logits (0, 0, .35).
    assert scores("zero") == pytest.approx([0.15, 0, 0, 0.15, 0, 0.5, -0.85, 0])
    # The same on all prompts, so that the mean is what it was.
    assert scores("mean") == [0] * 8
    # Restored in the corrupt run, whose margin is -1.
    assert scores("denoising", "restore") == pytest.approx([-0.5, 0, 0, -0.5, 0, -0.5, 1.5, 0])
    stream_first = node_scores(
        hand_subject(), hand_prompts(), [direction(MLP, axis[0]), second], action="project_out_stream"
    )
    assert stream_first.value.tolist() == pytest.approx([-1.0, 0.15])
    assert stream_first.se.tolist() == pytest.approx([0, 0])


def test_ablating_components_to_their_mean_is_what_ablation_effects_says():
    subject = random_subject(15)
    prompts = random_prompts(16, subject.config)
    margin, kl = ablation_effects(subject, prompts)
    nodes = components(subject.config)[:-1]
    for metric, want in (("margin", margin), ("kl", kl)):
        found = node_scores(subject, prompts, nodes, metric, "mean").value
        torch.testing.assert_close(found, want[:-1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("freeze_norm", [False, True])
def test_small_chunks_give_the_same_scores_and_frozen_norms_others(monkeypatch, freeze_norm):
    subject = random_subject(17)
    prompts = random_prompts(18, subject.config)
    nodes = [*components(subject.config)[:-1], *mlp_parts(subject.config, 1)]
    whole = node_scores(subject, prompts, nodes, freeze_norm=freeze_norm).value
    monkeypatch.setattr(stream, "_CHUNK", 1)
    parts = node_scores(subject, prompts, nodes, freeze_norm=freeze_norm).value
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    assert (
        node_scores(subject, prompts, nodes, freeze_norm=not freeze_norm).value - whole
    ).abs().max() > 0.01


@pytest.mark.parametrize(("intervention", "shape", "many"), CASES)
def test_a_path_to_one_receiver_is_its_edge_and_to_all_receivers_the_ablation(shape, intervention, many):
    subject = random_subject(19, **shape)
    prompts = random_prompts(20, subject.config, many=many)
    edges = component_edges(subject.config)
    scores = Exact().score(subject, prompts, "margin", intervention)
    for edge, value in zip(edges.edges, scores.value, strict=True):
        found = path_patch(subject, prompts, edge.source, [edge.destination], "margin", intervention)
        assert found.value == pytest.approx(float(value), abs=1e-10)
    action = "restore" if intervention == "denoising" else "ablate"
    nodes = [*edges.sources, Neuron(layer=0, index=3), direction(HEAD, draw_vectors(1, subject.config))]
    whole = node_scores(subject, prompts, nodes, "margin", intervention, action)
    for node, value in zip(nodes, whole.value, strict=True):
        component = node if isinstance(node, Component) else node.component
        readers = [edge.destination for edge in edges.edges if edge.source == component]
        found = path_patch(subject, prompts, node, readers, "margin", intervention)
        assert found.value == pytest.approx(float(value), abs=1e-10)
        assert found.base == pytest.approx(whole.base)


def test_a_path_to_two_receivers_is_a_forward_with_both_told():
    subject = random_subject(21)
    prompts, whole = random_prompts(22, subject.config), folded(subject)
    edges = component_edges(subject.config)
    readers = [d for d in edges.destinations if d.name in ("L1H0.q", "L1H1.q", "logits", "unembedding")]
    assert len(readers) == 3
    run = base_run(subject, prompts, "noising")
    delta = run.delta[edges.sources.index(HEAD)]
    both = delta[None, :, :, None].expand(-1, -1, -1, 2, -1)
    made = forward(
        whole.stacked,
        subject.config,
        prompts.clean,
        addends={"blocks.1.hook_q_input": both, "hook_unembed_in": delta[None]},
    )
    measure = run.measure("margin")
    want = measure(run.suffix.at_answer(made.logits[0])) - measure(run.logits)
    found = path_patch(subject, prompts, HEAD, readers)
    torch.testing.assert_close(found.per_prompt, want, atol=1e-10, rtol=0)
    assert found.se == pytest.approx(float(want.std() / math.sqrt(5)))
    alone = sum(path_patch(subject, prompts, HEAD, [reader]).value for reader in readers)
    assert abs(alone - found.value) > 1e-3, "paths that meet do not add up"


@pytest.mark.parametrize("intervention", ["noising", "zero"])
def test_edges_of_fine_nodes_are_paths_and_those_of_components_exact_scores(intervention, monkeypatch):
    subject = random_subject(23)
    prompts, edges = random_prompts(24, subject.config), component_edges(subject.config)
    fine = [
        Neuron(layer=1, index=2),
        direction(HEAD, draw_vectors(2, subject.config)),
        Neuron(layer=0, index=4),
    ]
    scores = node_edge_scores(subject, prompts, fine, "margin", intervention)
    # Of 15 destinations a neuron of the last MLP feeds one, a head of block 0 all but its q, k and v.
    assert len(scores) == 1 + 9 + 8
    for i in range(len(scores)):
        node, reader = fine[int(scores.source[i])], scores.destinations[int(scores.destination[i])]
        path = path_patch(subject, prompts, node, [reader], "margin", intervention)
        assert float(scores.value[i]) == pytest.approx(path.value, abs=1e-10)
        assert float(scores.se[i]) == pytest.approx(path.se, abs=1e-10)
    monkeypatch.setattr("metamodel.circuits.paths._NODES_AT_ONCE", 1)
    again = node_edge_scores(subject, prompts, edges.sources, "margin", intervention)
    exact = Exact().score(subject, prompts, "margin", intervention).value
    found = {
        (edges.sources[int(i)], again.destinations[int(j)]): value
        for i, j, value in zip(again.source, again.destination, again.value, strict=True)
    }
    assert len(found) == len(edges)
    for edge, value in zip(edges.edges, exact, strict=True):
        torch.testing.assert_close(found[edge.source, edge.destination], value, atol=1e-12, rtol=0)


def test_tables_list_the_largest_effect_first():
    subject = random_subject(25)
    prompts = random_prompts(26, subject.config)
    table = node_scores(subject, prompts, [MLP, HEAD, Neuron(layer=0, index=1)]).to_pandas()
    assert table["value"].abs().is_monotonic_decreasing
    assert set(table["node"]) == {"MLP0", "L0H1", "MLP0.1"}
    assert list(table.columns) == ["node", "component", "value", "se"]
    edges = node_edge_scores(subject, prompts, [Neuron(layer=0, index=1)]).to_pandas()
    assert edges["value"].abs().is_monotonic_decreasing
    assert set(edges["source"]) == {"MLP0.1"}
    assert list(edges.columns) == ["source", "destination", "channel", "value", "se"]


def test_a_single_prompt_has_no_standard_error():
    subject = random_subject(27)
    prompts = random_prompts(28, subject.config, n=1)
    scores = node_scores(subject, prompts, [HEAD, MLP])
    assert scores.se.isnan().all()
    assert scores.value.isfinite().all()
    readers = [component_edges(subject.config).destinations[-1]]
    assert math.isnan(path_patch(subject, prompts, HEAD, readers).se)


def refused(function) -> str:
    with pytest.raises(InputError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            lambda: Component(kind="head", layer=7, head=0),
            "nodes[0]: expected a component of subject that writes (token_embedding to MLP1), got L7H0. "
            "It has 2 layers of 2 heads and an MLP.",
        ),
        (
            lambda: Component(kind="unembedding"),
            "nodes[0]: expected a component of subject that writes (token_embedding to MLP1), "
            "got unembedding. It has 2 layers of 2 heads and an MLP.",
        ),
        (
            lambda: Neuron(layer=5, index=0),
            "nodes[0]: expected a layer from 0 to 1, got 5. Name one of them.",
        ),
        (
            lambda: Neuron(layer=0, index=12),
            "nodes[0]: expected a neuron from 0 to 11, got MLP0.12. MLPs of subject have 12 neurons.",
        ),
        (
            lambda: direction(MLP, torch.ones(7)),
            "nodes[0]: expected vectors of 8 numbers, the subject's d_model, got 7. "
            "Take directions of this subject's residual stream.",
        ),
        (
            lambda: direction(MLP, torch.ones(8)),
            "nodes[0]: expected vectors that differ between axes, got a constant one at row 0. "
            "LayerNorm hides it from every reader; drop it.",
        ),
        (
            lambda: direction(MLP, torch.zeros(8)),
            "direction: expected vectors that are not zero, got a zero vector at row 0. Drop it.",
        ),
        (
            lambda: direction(MLP, torch.full((8,), torch.nan)),
            "direction: expected finite numbers, got nan or inf. Drop that vector.",
        ),
        (
            lambda: direction(MLP, torch.eye(8)[[0, 1, 0]]),
            "direction: expected 3 independent vectors, got 2 independent ones. "
            "Drop those that are sums of others.",
        ),
        (
            lambda: Dictionary(component=MLP, vectors=torch.eye(8)[:2] * torch.tensor([[1.0], [0.0]])),
            "direction: expected vectors that are not zero, got a zero vector at row 1. Drop it.",
        ),
        (
            lambda: dataclasses.replace(Dictionary(component=MLP, vectors=torch.eye(8)).features[0], index=8),
            "nodes[0]: expected a feature from 0 to 7, got 8. Name one of them.",
        ),
        (
            lambda: Dictionary(
                component=MLP, vectors=torch.eye(8), encoder=lambda x: x[..., :3]
            ).features[0],
            "dictionary.encoder: expected coefficients of shape (5, 6, 8), got (5, 6, 3). "
            "Give one coefficient for each vector.",
        ),
        (
            lambda: Rest(of=()),
            "rest: expected directions of one component, got none. Take one rest for each component.",
        ),
    ],
)  # fmt: skip
def test_nodes_that_do_not_exist_are_refused_in_one_line(node, message):
    subject = random_subject(29)
    prompts = random_prompts(30, subject.config)
    assert refused(lambda: node_scores(subject, prompts, [node()])) == message


def test_calls_that_make_no_sense_are_refused_in_one_line():
    subject = random_subject(31)
    prompts = random_prompts(32, subject.config)
    late, early = component_edges(subject.config).destinations[-2], Component(kind="head", layer=0, head=0)
    before = component_edges(subject.config).destinations[0]
    assert late.name == "MLP1"
    assert refused(lambda: path_patch(subject, prompts, early, [])) == (
        "receivers: expected at least one destination, got none. Name what reads the sender, such as "
        "component_edges(subject.config).destinations."
    )
    assert refused(lambda: path_patch(subject, prompts, early, [late, before])) == (
        "receivers[1]: expected a destination behind L0H0, got L0H0.q, which comes before it. "
        "Name later ones."
    )
    other = component_edges(random_subject(1, n_layers=3).config).destinations[-2]
    assert refused(lambda: path_patch(subject, prompts, early, [other])) == (
        "receivers[0]: expected a destination of the subject, got MLP2. "
        "Choose among component_edges(subject.config).destinations."
    )
    assert refused(lambda: node_scores(subject, prompts, [])) == (
        "nodes: expected at least one node, got none. Name nodes to patch."
    )
    assert refused(lambda: node_scores(subject, prompts, [MLP], "margin", "denoising")) == (
        "intervention: expected noising or zero or mean to ablate, got 'denoising'. "
        "Use action='restore' for denoising."
    )
    assert refused(lambda: node_scores(subject, prompts, [MLP], "margin", "zero", "restore")) == (
        "intervention: expected denoising to restore, got 'zero'. Leave it out."
    )
    assert refused(lambda: node_scores(subject, prompts, [MLP], action="project_out")) == (
        "nodes[0]: expected a Direction to project_out, got MLP0. Use action='ablate'."
    )
    assert refused(lambda: node_scores(subject, prompts, [MLP], action="abate")) == (
        "action: expected one of ablate, restore, project_out, project_out_stream, got 'abate'. "
        "Name one of them. Did you mean 'ablate'?"
    )
    assert refused(lambda: singular_directions(subject, HEAD, 4)) == (
        "n: expected 1 to 3, the directions that L0H1 writes in, got 4. Ask for fewer."
    )
    attention = random_subject(33, d_mlp=0)
    assert refused(lambda: node_scores(attention, prompts, [Neuron(layer=0, index=0)])) == (
        "nodes[0]: expected heads or embeddings, since the subject has no MLP, got MLP0. Name some of those."
    )
    assert refused(lambda: mlp_parts(subject.config, 2)) == (
        "layer: expected a layer from 0 to 1, got 2. Name one of them."
    )
    with pytest.raises(
        InputError, match=r"direction: expected orthonormal rows, got rows that miss it by 1\."
    ):
        dataclasses.replace(direction(MLP, torch.eye(8)[0]), basis=torch.eye(8)[[0, 0]])
