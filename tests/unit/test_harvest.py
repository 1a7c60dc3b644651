"""Harvesting is a pure function of subjects and seed, and what it stores is what the subjects do."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.config import HarvestConfig
from data_gen.harvesting import ACTIVATION_PROBES, circuit_of, harvest, task_prompts
from data_gen.labels.registry import LABELS, MIN_EDGE_EFFECT
from data_gen.null import edge_null_threshold, reinitialised
from data_gen.seeds import derived_seed, generator_for
from data_gen.tasks.base import BOS, D_VOCAB, FIRST_SYMBOL, Batch, Task
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights
from metamodel.triples.schema import SubjectInfo, Triple

CONFIG = SubjectConfig(n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=16, d_vocab=D_VOCAB, n_ctx=12)
SETTINGS = HarvestConfig(n_prompts=8, n_behavior_prompts=32, n_probes=6, n_shown=8, n_random=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSymbol(Task):
    """The answer is the first symbol; `equal` is the share of prompts whose corruption changes nothing."""

    family: ClassVar[str] = "first-symbol"
    marker: ClassVar[int] = 4
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = "attention to a fixed position"
    variants: ClassVar[tuple[str, ...]] = ("base",)
    equal: float = 0.0

    @classmethod
    def make(cls, variant: str, seed: int) -> "FirstSymbol":
        return cls()

    @property
    def n_pos(self) -> int:
        return 10

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        prompts = self.prompts(generator, n)
        return Batch(tokens=prompts.clean, targets=prompts.clean)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        tokens = torch.randint(FIRST_SYMBOL, FIRST_SYMBOL + 12, (n, self.n_pos), generator=generator)
        tokens[:, 0], tokens[:, 1] = BOS, self.marker
        corrupt = tokens.clone()
        changed = torch.rand(n, generator=generator) >= self.equal
        corrupt[changed, 2] = FIRST_SYMBOL + (tokens[changed, 2] - FIRST_SYMBOL + 1) % 12
        return Prompts(
            clean=tokens,
            corrupt=corrupt,
            position=torch.full((n,), self.n_pos - 1),
            answer=tokens[:, 2],
            corrupt_answer=corrupt[:, 2],
            slice=torch.arange(n) % 2,
            slice_names=("even", "odd", "empty"),
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        return tokens[:, 2]


def subject(seed: int) -> Subject:
    weights = initial_weights(CONFIG, [torch.Generator().manual_seed(seed)], init_std=0.5)
    return Subject(config=CONFIG, weights={k: v[0] for k, v in weights.items()}, name=f"s{seed}")


def info(name: str) -> SubjectInfo:
    return SubjectInfo(
        id=name,
        subject=name,
        family="first-symbol",
        variant="base",
        size="tiny",
        recipe="none",
        seed=0,
        lineage=name,
        origin="planted",
        departs="none",
    )


def shard(seed: int) -> tuple[Triple, ...]:
    subjects = [subject(1), subject(2)]
    return harvest(subjects, [FirstSymbol()] * 2, [info("a"), info("b")], SETTINGS, seed)


@pytest.fixture(scope="module")
def triples() -> tuple[Triple, ...]:
    return shard(0)


def tensors(triple: Triple) -> dict[str, Tensor]:
    """All arrays of a triple by name, but its weights."""
    parts: dict[str, Any] = {
        "activation": triple.activation,
        "circuit": triple.circuit,
        "behavior": triple.behavior,
        "labels": triple.labels,
    }
    return {
        f"{part}.{field.name}": getattr(record, field.name)
        for part, record in parts.items()
        for field in dataclasses.fields(record)
        if isinstance(getattr(record, field.name), Tensor)
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(triples: tuple[Triple, ...]):
    for first, second in zip(triples, shard(0), strict=True):
        again = tensors(second)
        for name, value in tensors(first).items():
            assert value.numpy().tobytes() == again[name].numpy().tobytes(), name
    other = tensors(shard(1)[0])
    assert not torch.equal(tensors(triples[0])["circuit.noising_margin"], other["circuit.noising_margin"])


def test_a_subjects_triple_does_not_depend_on_who_shares_its_shard(triples: tuple[Triple, ...]):
    (alone,) = harvest([subject(2)], [FirstSymbol()], [info("b")], SETTINGS, 0)
    found = tensors(alone)
    for name, value in tensors(triples[1]).items():
        assert value.numpy().tobytes() == found[name].numpy().tobytes(), name


def test_seeds_depend_on_what_they_are_for():
    assert derived_seed(0, "a", "prompts") == derived_seed(0, "a", "prompts")
    assert len({derived_seed(0, "a", "p"), derived_seed(1, "a", "p"), derived_seed(0, "b", "p")}) == 3


def test_arrays_have_the_shapes_of_the_schema_and_only_labels_and_empty_slices_are_undefined(
    triples: tuple[Triple, ...],
):
    n_nodes, n_edges = len(components(CONFIG)), len(component_edges(CONFIG))
    for triple in triples:
        found = tensors(triple)
        assert found["labels.raw"].shape == found["labels.state"].shape == (n_nodes, len(LABELS))
        assert found["circuit.noising_margin"].shape == found["circuit.member"].shape == (n_edges,)
        assert found["activation.second_moment"].shape == (n_nodes, 16, 16)
        assert found["activation.probe_outputs"].shape == (ACTIVATION_PROBES, 10, n_nodes, 16)
        assert found["behavior.probe_tokens"].shape == (6, 10)
        for name, value in found.items():
            if name.startswith("labels.") or name == "behavior.slice_accuracy":
                continue
            assert bool(value.isfinite().all()), name
        assert found["behavior.slice_accuracy"].isnan().tolist() == [False, False, True]


def test_logit_attributions_of_all_components_add_up_to_the_logit_difference(triples: tuple[Triple, ...]):
    task, whole = FirstSymbol(), subject(1)
    prompts = task_prompts(task, generator_for(0, "a", "circuit prompts"), SETTINGS.n_prompts)
    logits = whole.run(prompts.clean).logits[0, torch.arange(8), prompts.position]
    gap = logits.gather(1, prompts.answer[:, None]) - logits.gather(1, prompts.corrupt_answer[:, None])
    got = triples[0].activation.logit_attribution
    # These subjects have no biases, so nothing but components writes.
    torch.testing.assert_close(got.sum(), gap.mean(), atol=1e-4, rtol=1e-4)
    assert got[-1] == 0
    assert got.abs().max() > 1e-3


def test_activations_are_those_of_the_canonical_form(triples: tuple[Triple, ...]):
    prompts = task_prompts(FirstSymbol(), generator_for(0, "a", "circuit prompts"), SETTINGS.n_prompts)
    site = "blocks.1.attn.hook_result"
    run = canonical(subject(1)).run(prompts.clean, taps=[site, "blocks.1.attn.hook_pattern"])
    written = run.taps[site][0, :, :, 1].flatten(0, 1)
    node = [n.name for n in components(CONFIG)].index("L1H1")
    got = triples[0].activation
    torch.testing.assert_close(got.second_moment[node], written.T @ written / len(written))
    torch.testing.assert_close(got.output_norm[node] ** 2, got.second_moment[node].trace())
    pattern = run.taps["blocks.1.attn.hook_pattern"][0, :, 1]
    torch.testing.assert_close(got.pattern_mean[node], pattern.mean(0))


def test_members_exceed_the_null_and_the_smallest_effect_that_counts():
    prompts = task_prompts(FirstSymbol(), generator_for(3), 16)
    copies = reinitialised(CONFIG, 20, 0)
    threshold = edge_null_threshold(copies, CONFIG, prompts)
    one = subject(1)
    found = circuit_of(one, prompts, threshold)
    scores = edge_scores(one, prompts, "noising")
    corrupted = one.run(prompts.corrupt).logits[0, torch.arange(16), prompts.position]
    whole = abs(float(scores.clean_margin - margin(corrupted, prompts.answer).mean()))
    edges = component_edges(CONFIG)
    touched = set()
    for i, size in enumerate(scores.margin.abs().tolist()):
        member = size > float(threshold) and size >= MIN_EDGE_EFFECT * whole
        assert bool(found.member[i]) == member
        if member:
            touched |= {edges.source_node[i], edges.destination_node[i]}
    assert set(found.node_member.nonzero().squeeze(1).tolist()) == touched
    assert len(touched) > 0
    assert not bool(found.member[[e.source.kind == "position_embedding" for e in edges.edges]].any())
    assert not bool(circuit_of(one, prompts, torch.tensor(1e9)).member.any())


def test_behavior_is_what_the_subject_answers(triples: tuple[Triple, ...]):
    behavior = triples[0].behavior
    logits = subject(1).run(behavior.probe_tokens).logits[0, torch.arange(6), behavior.probe_position]
    assert torch.equal(behavior.probe_answer, logits.argmax(-1))
    right = FirstSymbol().answer(behavior.probe_tokens, behavior.probe_position)
    assert torch.equal(behavior.probe_right_answer, right)


def test_prompts_whose_corruption_keeps_the_answer_are_left_out():
    kept = task_prompts(FirstSymbol(equal=0.3), generator_for(0), 40)
    assert len(kept) == 40
    assert bool((kept.answer != kept.corrupt_answer).all())


def test_a_task_whose_corruption_does_nothing_is_refused():
    with pytest.raises(InputError) as error:
        task_prompts(FirstSymbol(equal=1.0), generator_for(0), 10)
    assert str(error.value) == (
        "task.first-symbol.prompts: expected 10 of 20 prompts whose corrupt answer differs, got 0. "
        "Let the task's corruption change the answer."
    )


def test_no_subjects_give_no_triples():
    assert harvest([], [], [], SETTINGS, 0) == ()
