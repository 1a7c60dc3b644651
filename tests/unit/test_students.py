"""Terms by which students become like teachers, their training, their store and their scores."""

import dataclasses
import json

import pytest
import torch

from data_gen.config import RecipeConfig, SizeConfig
from data_gen.population import subject_config
from data_gen.seeds import generator_for
from data_gen.student.config import ARMS, PairsConfig, SpanConfig, StrengthConfig, StudentConfig
from data_gen.student.likeness import cka, interchange, kl, matched_layers, rsa
from data_gen.student.teachers import Teacher, exact_shares
from data_gen.student.training import SHARED, train_students
from data_gen.tasks import make_task
from metamodel.analogy.graph import edge_matrix
from metamodel.config.errors import InputError
from metamodel.evaluation.student_record import add_students, student_record
from metamodel.evaluation.students import METRICS, measured_pair, summary
from metamodel.subjects.config import components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, stack, unstack
from metamodel.triples.student_store import StudentPair, StudentZoo

SIZE = SizeConfig(n_layers=2, n_heads=2, d_model=16, d_head=8)
RECIPE = RecipeConfig(steps=6, batch_size=8, warmup_steps=1, learning_rate=0.01)
PAIRS = PairsConfig(
    family="sorting", teacher_size="a", teacher_recipe="b", size="small", recipe="brief", n_pairs=2
)
CONFIG = StudentConfig(
    name="x",
    zoo="none",
    sizes={"small": SIZE},
    recipes={"brief": RECIPE},
    pairs=(PAIRS,),
    n_circuit_prompts=4,
    circuit_every=1,
    map_every=2,
)


def teacher(seed: int) -> Teacher:
    """Untrained, of another depth than the students."""
    task = make_task("sorting", "base", seed)
    config = subject_config(dataclasses.replace(SIZE, n_layers=1), n_ctx=16)
    weights = unstack(initial_weights(config, [generator_for(seed)], init_std=0.6), 0)
    subject, pool = Subject(config=config, weights=weights), task.prompts(generator_for(seed, "pool"), 512)
    return Teacher(
        subject=subject,
        id=f"t{seed}",
        lineage=f"t{seed}",
        task=task,
        pool=pool,
        shares=exact_shares(subject, pool.where(torch.arange(16))),
    )


TEACHERS = (teacher(1), teacher(2))
STUDENT = subject_config(SIZE, n_ctx=16)


def trained(arm, **strength):
    config = dataclasses.replace(CONFIG, strength=StrengthConfig(**strength))
    return train_students(config, STUDENT, RECIPE, TEACHERS, arm)


def differ(one, other) -> float:
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "plain"])
def test_an_arm_of_no_strength_is_plain_training_and_one_of_some_is_not(arm):
    plain = trained("plain")
    nothing = trained(
        arm, circuit=0.0, interchange=0.0, transplant=0.0, alignment=0.0, logits=0.0, cka=0.0, rsa=0.0
    )
    assert differ(plain, nothing) < 1e-4
    assert differ(plain, trained(arm)) > 1e-3


def test_a_factor_is_that_of_its_own_arm():
    twice = dataclasses.replace(CONFIG, factors={"cka": 2.0})
    found = train_students(twice, STUDENT, RECIPE, TEACHERS, "cka")
    assert differ(found, trained("cka", cka=2.0)) < 1e-6
    assert differ(found, trained("cka")) > 1e-4
    assert differ(train_students(twice, STUDENT, RECIPE, TEACHERS, "rsa"), trained("rsa")) == 0


@pytest.mark.parametrize("arm", ["cka", "circuit"])
def test_a_term_acts_in_its_span_alone(arm):
    def of(first: float, last: float):
        spans = {arm: SpanConfig(first=first, last=last)}
        return train_students(dataclasses.replace(CONFIG, spans=spans), STUDENT, RECIPE, TEACHERS, arm)

    assert list(SpanConfig(first=0.2, last=0.8).of(6)) == [1, 2, 3, 4]
    whole, early, late = of(0.0, 1.0), of(0.0, 0.5), of(0.5, 1.0)
    assert differ(whole, trained(arm)) == 0
    assert min(differ(whole, early), differ(whole, late), differ(early, late)) > 1e-4
    other = {"logits": SpanConfig(first=0.5)}
    assert (
        differ(
            whole, train_students(dataclasses.replace(CONFIG, spans=other), STUDENT, RECIPE, TEACHERS, arm)
        )
        == 0
    )


def test_streams_are_aligned_before_the_map_counts_and_nothing_else_is():
    loud = {"circuit": 9.0, "interchange": 9.0, "transplant": 9.0}

    def of(first: float, last: float, **strength):
        span = SpanConfig(first=first, last=last)
        late = dataclasses.replace(
            CONFIG, spans={"circuit_interchange": span}, strength=StrengthConfig(**strength)
        )
        return train_students(late, STUDENT, RECIPE, TEACHERS, "circuit_interchange")

    plain, aligned = trained("plain"), of(0.99, 1.0)  # a span without a step
    assert differ(aligned, plain) > 1e-3
    assert differ(of(0.99, 1.0, **loud), aligned) == 0
    assert differ(of(0.5, 1.0, **loud), aligned) > 1e-4
    assert differ(of(0.99, 1.0, alignment=0.0), plain) < 1e-6
    assert differ(of(0.5, 0.51), of(0.5, 1.0)) > 1e-4, "nothing is aligned behind the span"


def test_students_of_every_arm_may_begin_with_their_teachers_embeddings():
    config = dataclasses.replace(CONFIG, embeddings="teacher")
    still = dataclasses.replace(RECIPE, learning_rate=1e-9)
    begun = train_students(config, STUDENT, still, TEACHERS, "plain")
    own = train_students(CONFIG, STUDENT, still, TEACHERS, "plain")
    for key, value in begun.items():
        theirs = torch.stack([t.subject.weights[key] for t in TEACHERS]) if key in SHARED else own[key]
        torch.testing.assert_close(value, theirs, atol=1e-5, rtol=0)
    assert differ(begun, own) > 0.1
    wide = subject_config(dataclasses.replace(SIZE, d_model=24), n_ctx=16)
    with pytest.raises(
        InputError, match=r"embeddings: embed\.W_E: expected the shape of the teachers'.* d_model"
    ):
        train_students(config, wide, RECIPE, TEACHERS, "plain")


def test_louder_edges_of_the_same_shape_leave_a_student_where_it_is():
    louder = tuple(dataclasses.replace(one, shares=4 * one.shares) for one in TEACHERS)
    config = dataclasses.replace(CONFIG, strength=StrengthConfig(circuit=10.0))
    same = train_students(config, STUDENT, RECIPE, louder, "circuit")
    assert differ(trained("circuit", circuit=10.0), same) < 1e-4
    other = tuple(dataclasses.replace(one, shares=one.shares.flip(0)) for one in TEACHERS)
    moved = train_students(config, STUDENT, RECIPE, other, "circuit")
    assert differ(trained("circuit", circuit=10.0), moved) > 1e-3


def test_training_is_the_same_twice():
    assert differ(trained("circuit_interchange"), trained("circuit_interchange")) == 0


def test_a_rewired_teacher_has_the_same_effects_on_other_edges():
    one = TEACHERS[0]
    edges = one.rewired(generator_for(1))
    for channel in range(len(edges)):
        assert torch.allclose(edges[channel].sum(), one.edges[channel].sum(), atol=1e-5)
    assert float((edges - one.edges).norm() / one.edges.norm()) > 0.5


def test_kernels_and_distances_do_not_see_rotation_or_scale_but_a_real_change():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 30, 6, generator=g)
    q = torch.linalg.qr(torch.randn(6, 6, generator=g)).Q
    other = torch.randn(2, 30, 8, generator=g)
    for likeness in (cka, rsa):
        assert torch.allclose(likeness(x, 3 * x @ q + 1), torch.ones(2), atol=1e-5)
        assert float(likeness(x, other).max()) < 0.6
        assert torch.allclose(likeness(x, other), likeness(other, x), atol=1e-6)
    one, two = x[0] - x[0].mean(0), other[0] - other[0].mean(0)
    k, m = one @ one.T, two @ two.T
    assert float(cka(x, other)[0]) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), abs=1e-5)


def test_answers_that_agree_cost_nothing():
    a, b = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(kl(a, a + 3), torch.zeros(2), atol=1e-6)
    naive = (a.softmax(-1) * (a.softmax(-1).log() - b.softmax(-1).log())).sum(-1).mean(-1)
    assert torch.allclose(kl(a, b), naive, atol=1e-6)


def test_depths_are_matched_from_the_end():
    assert matched_layers(2, 2) == [(0, 0), (1, 1)]
    assert matched_layers(3, 1) == [(0, 0), (1, 0), (2, 0)]
    assert matched_layers(2, 4) == [(0, 1), (1, 3)]


def test_interchange_patches_the_component_that_is_named():
    subjects = [one.subject for one in TEACHERS]
    side = (stack(subjects), subjects[0].config)
    tokens = torch.stack([one.pool.clean[:6] for one in TEACHERS])
    position = torch.stack([one.pool.position[:6] for one in TEACHERS])
    node = torch.full((2, 6), 3)
    assert torch.allclose(interchange(side, side, tokens, position, node, node), torch.zeros(2), atol=1e-5)
    z = forward(*side, tokens, taps=["blocks.0.attn.hook_z"]).taps["blocks.0.attn.hook_z"]

    def answers(head: int) -> torch.Tensor:
        def patch(value):
            value = value.clone()
            value[..., head, :] = z.roll(-1, 1)[..., head, :]
            return value

        logits = forward(*side, tokens, replace={"blocks.0.attn.hook_z": patch}).logits
        return logits.gather(2, position[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2)

    assert components(side[1])[3].name == "L0H1"
    found = interchange(side, side, tokens, position, node, node - 1)
    assert torch.allclose(found, kl(answers(1), answers(0)), atol=1e-5)
    assert float(found.min()) > 1e-4


def pair_of(students, one: Teacher) -> StudentPair:
    return StudentPair(
        name=f"{one.id}-to-small",
        family="sorting",
        lineage=one.lineage,
        teacher=one.subject,
        students=students,
        prompts=one.task.prompts(generator_for(5), 40),
        probes=one.task.prompts(generator_for(6), 30).clean,
    )


def test_a_student_that_is_its_teacher_has_no_distance_and_all_of_the_transplant():
    one = TEACHERS[0]
    found = measured_pair(pair_of({"plain": one.subject, "other": TEACHERS[1].subject}, one))
    assert found["plain"]["circuit_distance"] == pytest.approx(0, abs=1e-5)
    assert found["plain"]["transplant"] == pytest.approx(1)
    assert found["other"]["circuit_distance"] > 0.05
    assert found["other"]["transplant"] < 0.95


def test_a_zoo_of_students_comes_back_as_it_was(tmp_path):
    student = Subject(config=STUDENT, weights=unstack(trained("plain"), 0), name="plain")
    zoo = StudentZoo(name="x", config={"seed": 1}, pairs=(pair_of({"plain": student}, TEACHERS[0]),))
    zoo.save(tmp_path / "zoo")
    back = StudentZoo.open(tmp_path / "zoo")
    assert (back.name, back.config, back.fingerprint) == ("x", {"seed": 1}, zoo.fingerprint)
    (one,), (two,) = zoo.pairs, back.pairs
    assert two.teacher.fingerprint() == one.teacher.fingerprint()
    assert two.students["plain"].fingerprint() == student.fingerprint()
    for name in ("clean", "corrupt", "position", "answer", "corrupt_answer"):
        assert torch.equal(getattr(two.prompts, name), getattr(one.prompts, name))
    (tmp_path / "zoo/students.safetensors").unlink()
    with pytest.raises(InputError, match=r"students\.safetensors: expected a file of a zoo of students"):
        StudentZoo.open(tmp_path / "zoo")


def test_differences_are_paired_over_teachers():
    raw = {
        "accuracy": {
            "plain": {str(i): 0.1 * i for i in range(8)},
            "circuit": {str(i): 0.1 * i + 0.05 for i in range(8)},
        }
    }
    found = summary(raw, [str(i) for i in range(8)])
    gain = found.against_plain["accuracy"]["circuit"]
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.05, 0.05, 0.05))
    value = found.values["accuracy"]["plain"]
    assert value.high - value.low > 0.1
    assert value.n_lineages == 8


@pytest.fixture
def matcher(tmp_path):
    """A released matcher, as far as what is written beside it goes."""
    (tmp_path / "config.json").write_text('{"kind": "matching"}')
    (tmp_path / "metrics.json").write_text('{"schema_version": 1, "splits": {"seed": {}}}')
    (tmp_path / "README.md").write_text("# matching\n\nWords.\n\n## Limits\n\n- none\n")
    return tmp_path


def test_a_matchers_checkpoint_takes_the_students_scores_once_and_keeps_its_own(matcher):
    values = {"plain": 0.5, "cka": 0.625, "circuit": 0.75}
    raw = {
        metric: {arm: {str(i): value + 0.01 * i for i in range(4)} for arm, value in values.items()}
        for metric in METRICS
    }
    zoo = StudentZoo(name="s", config={}, pairs=(pair_of({}, TEACHERS[0]),))
    record = student_record(zoo, summary(raw, list("abcd")), command="python -m this")
    add_students(matcher, record)
    add_students(matcher, record)
    found = json.loads((matcher / "metrics.json").read_text())
    assert found["splits"] == {"seed": {}}
    student = found["student"]
    assert student["n_pairs"] == 1
    assert student["values"]["transplant"]["circuit"]["value"] == pytest.approx(0.765)
    assert student["against_plain"]["accuracy"]["circuit"]["low"] == pytest.approx(0.25)
    assert student["against_cka"]["accuracy"]["circuit"]["value"] == pytest.approx(0.125)
    assert "cka" not in student["against_cka"]["accuracy"]
    card = (matcher / "README.md").read_text()
    assert card.count("## Students") == card.count("## Limits") == 1
    assert "python -m this" in card
    assert "| circuit | 0.765" in card.replace("**", "").replace(" .765", " 0.765")


def test_only_a_matcher_has_students(matcher):
    (matcher / "config.json").write_text('{"kind": "editing"}')
    with pytest.raises(InputError, match="expected a checkpoint of a matcher, got kind editing"):
        add_students(matcher, {})


def test_the_teachers_edges_are_shares_of_its_margin():
    one = TEACHERS[0]
    assert torch.equal(one.edges, edge_matrix(one.subject.config, one.shares))
    assert one.shares.shape == (sum(1 for _ in one.shares),)
    assert 0 < float(one.shares.abs().max()) < 5
