"""What a GPU computes is what the CPU computes. Skipped where there is no accelerator."""

import pytest
import torch

from data_gen.config import RecipeConfig
from data_gen.seeds import generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks import make_task
from metamodel import circuits
from metamodel.circuits import METHODS, Prompts
from metamodel.circuits.base_run import INTERVENTIONS
from metamodel.circuits.graph import component_edges
from metamodel.circuits.node_effects import ACTIONS
from metamodel.subjects import Subject, SubjectConfig, initial_weights
from metamodel.subjects.config import components
from metamodel.subjects.interchange import hooked
from tests.reference.bridges import OTHERS

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
Pair = tuple[Subject, Prompts]


def there(case: Pair) -> Pair:
    device = torch.accelerator.current_accelerator() or pytest.fail("no accelerator")
    return case[0].to(device), case[1].to(device)


@pytest.fixture(params=[False, True], ids=["one answer", "all positions"])
def case(request, make_subject, make_prompts) -> Pair:
    subject = make_subject(1)
    return subject, make_prompts(2, subject.config, targets=request.param)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_edges_score_the_same(method, intervention, case):
    metric = "kl" if intervention == "denoising" else "margin"
    here, away = (circuits.score(s, p, metric, intervention, method=method) for s, p in (case, there(case)))
    assert away.value.device.type == torch.accelerator.current_accelerator().type
    torch.testing.assert_close(away.value.cpu(), here.value, atol=1e-9, rtol=0)
    assert (here.value.abs() > 1e-6).any()


def test_a_circuit_and_all_that_is_said_of_it(case):
    here, away = (circuits.discover(s, p) for s, p in (case, there(case)))
    assert away.to_dict()["edges"][0]["source"] == here.to_dict()["edges"][0]["source"]
    assert torch.equal(away.kept.cpu(), here.kept)
    assert away.recovered == pytest.approx(here.recovered, abs=1e-9)
    assert away.stability == pytest.approx(here.stability, abs=1e-9)
    assert len(away.to_pandas()) == len(here)
    away.plot()


@pytest.mark.parametrize("action", ACTIONS)
def test_nodes_at_every_grain(action, case):
    def scored(subject: Subject, prompts: Prompts) -> torch.Tensor:
        head = components(subject.config)[2]
        nodes = [*circuits.singular_directions(subject, head, 2)]
        if action in ("ablate", "restore"):
            nodes += [head, *circuits.mlp_parts(subject.config, 0), circuits.Rest(of=tuple(nodes))]
            nodes += circuits.principal_directions(subject, head, prompts, 2)
        return circuits.node_scores(subject, prompts, nodes, action=action).value

    here, away = scored(*case), scored(*there(case))
    torch.testing.assert_close(away.cpu(), here, atol=1e-8, rtol=0)


def test_sets_paths_and_spans(make_subject, make_prompts):
    subject = make_subject(3)
    case = subject, make_prompts(4, subject.config)
    edges = component_edges(subject.config).edges[-4:]

    def found(subject: Subject, prompts: Prompts) -> list[torch.Tensor]:
        oracles = [circuits.component_oracle(subject, prompts), circuits.neuron_oracle(subject, prompts)]
        oracles.append(circuits.edge_oracle(subject, prompts, edges))
        sets = [oracle(torch.eye(len(oracle), dtype=torch.bool)) for oracle in oracles]
        sender = components(subject.config)[2]
        paths = circuits.path_patch(subject, prompts, sender, [edges[-1].destination])
        spans = circuits.span_scores(subject, prompts, circuits.spans_per_position(prompts))
        return [*sets, torch.as_tensor(paths.value), spans.value]

    for mine, theirs in zip(found(*case), found(*there(case)), strict=True):
        torch.testing.assert_close(theirs.cpu(), mine.cpu(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_a_bridge_run_by_hooks(make, make_prompts):
    bridge = make()
    prompts = make_prompts(5, hooked(bridge).config, n_pos=8)
    device = torch.accelerator.current_accelerator() or pytest.fail("no accelerator")
    methods = ("exact", "eap_ig_inputs", "subsets")
    heads = components(hooked(bridge).config)[2:4]

    def found(where: torch.device) -> list[torch.Tensor]:
        bridge.to(where)
        away = prompts.to(where)
        scores = [circuits.score(bridge, away, "logit_difference", method=m).value for m in methods]
        nodes = [circuits.node_scores(bridge, away, heads, intervention=i).value for i in ("noising", "zero")]
        sets = circuits.neuron_oracle(bridge, away)(torch.ones(1, hooked(bridge).config.d_mlp * 2) > 0)
        return [x.cpu() for x in (*scores, *nodes, sets)]

    for mine, theirs in zip(found(torch.device("cpu")), found(device), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-2, rtol=1e-2)
    circuits.discover(bridge, prompts.to(device), metric="kl", n_edges=4)


def test_training_takes_the_same_steps():
    config = SubjectConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_mlp=32, d_vocab=64, n_ctx=20)
    recipe = RecipeConfig(steps=20, warmup_steps=5, batch_size=8)

    def trained(device: torch.device | str) -> dict[str, torch.Tensor]:
        weights = initial_weights(config, [generator_for(seed) for seed in range(3)])
        tasks = [make_task("repeated", "base", seed) for seed in range(3)]
        data = [generator_for(seed, "data") for seed in range(3)]
        return train_stack(config, recipe, weights, tasks, data, device=device).weights

    here, away = trained("cpu"), trained(torch.accelerator.current_accelerator() or "cpu")
    for key, value in here.items():
        torch.testing.assert_close(away[key], value, atol=2e-3, rtol=0)
