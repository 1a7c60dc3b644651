"""Subjects that are taught a circuit: what they are trained on, and why those that have not learnt it go."""

from dataclasses import replace

import pytest
import torch

import data_gen.certificate as certificate
import data_gen.siit as siit
from data_gen.config import CellConfig, RecipeConfig
from data_gen.population import ShardSpec, SubjectSpec
from data_gen.programs import POSITIONS, TOKENS, ProgramTask, interchange, make_program_task, output
from data_gen.seeds import generator_for
from data_gen.siit import make_siit, placement_of, teach
from data_gen.siit_data import circuit_nodes, draw, host_nodes
from data_gen.siit_exchange import exchanged_logits, partner, run_clean
from data_gen.siit_placement import place
from data_gen.siit_training import balanced_loss, host_losses, host_masks, mean_loss
from data_gen.tasks.base import UNSUPERVISED
from metamodel.circuits.graph import component_edges
from metamodel.config.errors import InputError
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import initial_weights
from metamodel.triples.schema import ROLES

CONFIG = SubjectConfig(n_layers=2, n_heads=3, d_model=16, d_head=4, d_mlp=16, d_vocab=64, n_ctx=10)
RECIPE = RecipeConfig(steps=6, batch_size=8, learning_rate=3e-3, warmup_steps=2)
NAMES = [node.name for node in components(CONFIG)]
DEDUPE = make_program_task("rasp-dedupe", "base", 0)


def weights(n_subjects: int) -> dict[str, torch.Tensor]:
    made = initial_weights(CONFIG, [generator_for("weights", i) for i in range(n_subjects)])
    noise = generator_for("noise")
    # gains and biases that are not one and zero
    return {key: value + 0.1 * torch.randn(value.shape, generator=noise) for key, value in made.items()}


def shard(family: str = "rasp-shift", n: int = 2, **changes: int) -> ShardSpec:
    return ShardSpec(
        index=0,
        cell=CellConfig(family=family, sizes=("s",), recipe="r", n_subjects=n, origin="siit"),
        subject_config=replace(CONFIG, **changes),
        size_name="s",
        recipe=RECIPE,
        subjects=tuple(SubjectSpec(id=f"one-{i}", seed=i, lineage=f"line-{i}") for i in range(n)),
        first=0,
        network_seed=0,
    )


def test_each_variable_has_a_component_after_those_that_it_reads_and_subjects_differ():
    placements = [place(DEDUPE.program, CONFIG, generator_for(seed)) for seed in range(12)]
    for placement in placements:
        (head,), (mlp,) = placement["previous"], placement["kept"]
        assert (head.kind, mlp.kind) == ("head", "mlp")
        assert mlp.layer >= head.layer
        assert placement[TOKENS][0].kind == "token_embedding"
        assert placement[POSITIONS][0].kind == "position_embedding"
    assert len({placement["previous"][0].name for placement in placements}) > 3
    assert len({placement["kept"][0].name for placement in placements}) == CONFIG.n_layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_mlp": 0}, "a subject with MLPs"),
        ({"n_layers": 1, "n_heads": 1}, "expected more layers or heads"),
        ({"attention_dir": "bidirectional"}, "expected causal attention"),
        ({"n_ctx": 5}, "expected n_ctx of at least 7, got 5"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_in_one_line(changes: dict, message: str):
    with pytest.raises(InputError, match=message) as error:
        place(
            make_program_task("rasp-detect", "base", 0).program, replace(CONFIG, **changes), generator_for(0)
        )
    assert "\n" not in str(error.value)


def test_a_variable_that_no_exchange_can_show_is_refused():
    program = make_program_task("rasp-reverse", "base", 0).program
    with pytest.raises(
        InputError, match="opposite: expected a step that depends on the tokens, got one of posi"
    ):
        place(program, replace(CONFIG, attention_dir="bidirectional"), generator_for(0))


def test_masks_equal_a_forward_for_each_prompt_with_one_component_replaced():
    n_subjects, n_prompts, n_rows = 2, 5, 2
    raw = weights(n_subjects)
    tokens = torch.randint(64, (n_subjects, n_prompts, 7), generator=generator_for("tokens"))
    node = torch.randint(len(NAMES), (n_subjects, n_rows, n_prompts), generator=generator_for("nodes"))
    node[0, 0] = torch.tensor([2, 4, 5, 6, 9])  # L0H0, L0H2, MLP0, L1H0, MLP1
    found = exchanged_logits(raw, CONFIG, run_clean(raw, CONFIG, tokens), node)
    for s in range(n_subjects):
        one = {key: value[s : s + 1] for key, value in raw.items()}
        for row in range(n_rows):
            for b in range(n_prompts):
                component = components(CONFIG)[node[s, row, b]]
                source = tokens[s, (b + 1) % n_prompts][None]
                expected = _exchanged(one, tokens[s, b][None], source, component)
                torch.testing.assert_close(found[s, row, b], expected, atol=1e-4, rtol=1e-4)


def _exchanged(one, base, source, component) -> torch.Tensor:
    if component.layer < 0:
        return forward(one, CONFIG, base).logits[0, 0]
    kind = "hook_mlp_out" if component.kind == "mlp" else "attn.hook_result"
    site = f"blocks.{component.layer}.{kind}"
    other = forward(one, CONFIG, source, taps=[site]).taps[site]

    def swap(value: torch.Tensor) -> torch.Tensor:
        if component.kind == "mlp":
            return other
        value = value.clone()
        value[:, :, :, component.head] = other[:, :, :, component.head]
        return value

    return forward(one, CONFIG, base, replace={site: swap}).logits[0, 0]


@pytest.mark.parametrize("family", ["rasp-dedupe", "rasp-induction", "rasp-histogram"])
def test_targets_of_an_exchange_are_the_answers_of_the_interpreter(family: str):
    task = make_program_task(family, "base", 0)
    placement = place(task.program, CONFIG, generator_for(3))
    data = draw(task, placement, CONFIG, generator_for("data"), n_steps=2, batch_size=16)
    circuit = circuit_nodes(placement, CONFIG)
    n_changed = 0
    for step in range(2):
        base = task.symbols(data.tokens[step])
        source = partner(base, 0)
        assert torch.equal(data.targets[step, :, 1:], task.first_answer + output(task.program, base))
        for b in range(16):
            names = circuit[int(data.node[step, b])]
            expected = interchange(task.program, base[b : b + 1], source[b : b + 1], names)[0]
            given = data.exchanged[step, b, 1:]
            assert torch.equal(given[expected >= 0], task.first_answer + expected[expected >= 0])
            assert (given[expected < 0] == UNSUPERVISED).all()
            n_changed += int((given != data.targets[step, b, 1:]).sum())
    assert n_changed > 20
    assert set(data.node.flatten().tolist()) == set(circuit)


def test_the_worst_host_is_the_one_that_leaks():
    placements = [place(DEDUPE.program, CONFIG, generator_for(seed)) for seed in (0, 1)]
    host = host_masks(placements, CONFIG)
    for i, placement in enumerate(placements):
        assert host[i].nonzero().squeeze(1).tolist() == host_nodes(placement, CONFIG)
    raw = weights(2)
    planted = []
    for i, placement in enumerate(placements):
        for layer in range(CONFIG.n_layers):
            raw[f"blocks.{layer}.attn.W_O"][i] *= 0.01
            raw[f"blocks.{layer}.mlp.W_out"][i] *= 0.01
        heads = [node for node in host_nodes(placement, CONFIG) if components(CONFIG)[node].kind == "head"]
        planted.append(heads[2 * i])
        leak = components(CONFIG)[planted[i]]
        raw[f"blocks.{leak.layer}.attn.W_O"][i, leak.head] *= 3000
    data = [draw(DEDUPE, p, CONFIG, generator_for(i), 1, 16) for i, p in enumerate(placements)]
    clean = run_clean(raw, CONFIG, torch.stack([d.tokens[0] for d in data]))
    # a subject that answers as it does is right until something is exchanged
    found = host_losses(raw, CONFIG, clean, clean.logits.argmax(-1), host)
    assert found.argmax(1).tolist() == planted
    assert torch.equal(found.isfinite(), host)


def test_answers_that_an_exchange_changes_weigh_as_much_as_all_others():
    logits = torch.randn(1, 2, 4, 5, generator=generator_for("logits"))
    before = torch.tensor([[[UNSUPERVISED, 1, 2, 3], [UNSUPERVISED, 0, 0, 1]]])
    after = torch.tensor([[[UNSUPERVISED, 1, 2, 3], [UNSUPERVISED, 4, 0, UNSUPERVISED]]])
    each = -logits.log_softmax(-1)[0]
    kept = torch.stack([each[0, 1, 1], each[0, 2, 2], each[0, 3, 3], each[1, 2, 0]]).mean()
    torch.testing.assert_close(balanced_loss(logits, after, before)[0], (kept + each[1, 1, 4]) / 2)
    torch.testing.assert_close(mean_loss(logits, after)[0], (4 * kept + each[1, 1, 4]) / 5)


def test_a_subject_learns_the_same_alone_and_in_a_stack_of_other_programs():
    tasks = [make_program_task(f"rasp-{name}", "base", 0) for name in ("dedupe", "shift", "histogram")]
    together = teach(CONFIG, RECIPE, tasks, [5, 6, 7], n_pairs=16)
    alone, again = (teach(CONFIG, RECIPE, tasks[2:], [7], n_pairs=16)[0] for _ in range(2))
    assert alone.placement == together[2].placement
    assert alone.subject is not None
    assert again.subject is not None
    assert together[2].subject is not None
    for key, value in alone.subject.weights.items():
        torch.testing.assert_close(value, together[2].subject.weights[key], atol=1e-3, rtol=1e-3)
        assert torch.equal(value, again.subject.weights[key])


def test_a_subject_that_has_not_learnt_is_rejected_by_the_name_of_its_worst_component(monkeypatch):
    with monkeypatch.context() as lenient:
        lenient.setattr(certificate, "WORST_ACCURACY", 0.0)
        lenient.setattr(siit, "rejections", lambda *_: {})
        accepted = make_siit(shard()).accepted
    assert [(one.subject.name, one.lineage) for one in accepted] == [("one-0", "line-0"), ("one-1", "line-1")]
    made = make_siit(shard())
    assert not made.accepted
    for one in accepted:
        assert one.truth is not None
        worst = NAMES[int(one.truth.node_accuracy.nan_to_num(2.0).argmin())]
        behavior, certified = made.rejected[one.subject.name].split("; ")
        assert "accuracy" in behavior
        assert certified.startswith(f"certificate: {worst} ")
        assert f"{one.truth.worst:.3f}" in certified


def test_a_subject_whose_training_diverges_is_rejected_and_the_others_go_on(monkeypatch):
    def diverging(*given, **named):
        made = initial_weights(*given, **named)
        made["embed.W_E"][0] = torch.nan
        return made

    monkeypatch.setattr(siit, "initial_weights", diverging)
    monkeypatch.setattr(siit, "N_PAIRS", 16)
    rejected = make_siit(shard()).rejected
    assert rejected["one-0"] == "training diverged at step 1: weights or gradients are not finite"
    assert "diverged" not in rejected["one-1"]


def test_the_truth_of_a_subject_is_the_circuit_that_was_drawn_for_it(monkeypatch):
    monkeypatch.setattr(certificate, "WORST_ACCURACY", 0.0)
    monkeypatch.setattr(siit, "rejections", lambda *_: {})
    spec = shard(n=1)
    (one,) = make_siit(spec).accepted
    assert one.truth is not None
    assert isinstance(one.task, ProgramTask)
    head = placement_of(one.task, CONFIG, one.seed)["previous"][0]
    roles = [ROLES[role] for role in one.truth.role.tolist()]
    circuit = {"token_embedding", "position_embedding", head.name, "unembedding"}
    assert {name for name, role in zip(NAMES, roles, strict=True) if role == "circuit"} == circuit
    assert set(roles) == {"circuit", "host"}
    edges = component_edges(CONFIG).edges
    assert {edge.name for edge, there in zip(edges, one.truth.structural, strict=True) if there} == {
        f"position_embedding->{head.name}.q",
        f"position_embedding->{head.name}.k",
        f"token_embedding->{head.name}.v",
        f"{head.name}->unembedding",
    }


def test_a_program_that_no_subject_can_hold_is_an_error():
    with pytest.raises(InputError, match="n_ctx"):
        make_siit(shard(n_ctx=4))
