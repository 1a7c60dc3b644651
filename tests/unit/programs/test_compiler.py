"""Compiled weights against the interpreter, known truths by hand, certificates, and the disguise's laws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_gen.certificate import certify, exactness, known_truth, rejection
from data_gen.compiler import (
    Draft,
    compile_program,
    disguised,
    lay_out,
    make_compiled,
    minimal_size,
    truths,
)
from data_gen.compiler.disguise import NOISE
from data_gen.programs import MAKE, Program, ProgramTask, all_inputs, library_program, random_programs
from data_gen.programs.sketch import Sketch
from data_gen.seeds import generator_for
from metamodel.circuits.graph import component_edges
from metamodel.config.errors import InputError
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.gauge import gauge_element
from metamodel.triples.schema import ROLES


def roomy(program: Program) -> SubjectConfig:
    least = minimal_size(program)
    return replace(least, n_layers=max(2, least.n_layers), n_heads=3, d_head=9, d_model=44, d_mlp=40)


def draft_of(name: str, size: SubjectConfig | None = None) -> tuple[ProgramTask, Draft]:
    program = library_program(name)
    return ProgramTask(program=program), compile_program(program, size or minimal_size(program))


def edge_names(config: SubjectConfig, mask: Tensor) -> set[str]:
    edges = component_edges(config).edges
    return {edges[i].name for i in mask.nonzero().squeeze(1).tolist()}


@pytest.mark.parametrize("name", MAKE)
def test_weights_answer_as_the_interpreter_on_every_input(name: str):
    program, task = library_program(name), ProgramTask(program=library_program(name))
    inputs, size = all_inputs(program, generator_for("every input")), minimal_size(program)
    assert exactness(compile_program(program, size).subject, task, inputs) == 1.0
    for sharpness in (10.0, 30.0):
        subject = compile_program(program, size, sharpness=sharpness).subject
        assert exactness(subject, task, inputs[:: 1 + len(inputs) // 1000]) == 1.0


def test_what_bos_sees_of_a_prompt_reaches_no_later_head():
    s = Sketch(n_symbols=3, length=5)
    s.map("opposite", "positions", lambda p: 4 - int(p))
    s.aggregate("mirrored", s.select("opposite", "positions", lambda q, k: q == k), "tokens")
    s.width("count", s.select("tokens", "mirrored", lambda q, k: q == k))
    program = s.program("mirror-count", "count", "", causal=False)
    subject = compile_program(program, minimal_size(program)).subject
    inputs = all_inputs(program, generator_for("mirror"))
    assert exactness(subject, ProgramTask(program=program), inputs) == 1.0


def test_random_programs_compile_exactly_into_any_layers_that_hold_them():
    for program in random_programs(1, 4):
        size = replace(minimal_size(program), n_layers=4, n_heads=4, d_mlp=48)
        plain = compile_program(program, size)
        moved = compile_program(program, size, generator=generator_for(1))
        inputs = all_inputs(program, generator_for(0))[:500]
        task = ProgramTask(program=program)
        assert exactness(plain.subject, task, inputs) == exactness(moved.subject, task, inputs) == 1.0
    assert plain.placement != moved.placement


def test_sizes_that_are_too_small_are_refused_in_one_line():
    program = library_program("sort")
    size = minimal_size(program)
    for name, words in {
        "n_layers": r"program sort: expected more layers or heads, got 1 layers of 1 heads",
        "d_model": r"program sort: d_model: expected at least 31, got 20",
        "d_head": r"program sort: d_head: expected at least 9, got 1",
        "d_mlp": r"program sort: d_mlp: expected at least 10, got 1",
        "n_ctx": r"program sort: n_ctx: expected at least 6, got 1",
    }.items():
        small = replace(size, **{name: 20 if name == "d_model" else 1})
        with pytest.raises(InputError, match=words):
            compile_program(program, small)
    with pytest.raises(InputError, match=r"attention_dir: expected 'bidirectional', got 'causal'"):
        compile_program(program, replace(size, attention_dir="causal"))
    compile_program(program, replace(size, d_model=31))
    with pytest.raises(InputError, match=r"d_model: expected at least 33 for a disguise, got 32"):
        disguised(compile_program(program, replace(size, d_model=32)), generator_for(0))


def test_a_function_of_two_means_must_be_one_of_their_difference():
    s = Sketch(n_symbols=3, length=4)
    everything = s.select("tokens", "tokens", lambda q, k: True)
    s.mean("a", everything, "tokens", lambda x: x == 0)
    s.mean("b", everything, "tokens", lambda x: x == 1)
    s.sequence_map("product", "a", "b", lambda a, b: a * b > 0)
    with pytest.raises(InputError, match=r"product: expected a function of the difference of two means"):
        minimal_size(s.program("product", "product", ""))


STRUCTURAL = {
    "first": {"token_embedding->L0H0.v", "position_embedding->L0H0.k", "L0H0->unembedding"},
    "histogram": {
        *(f"token_embedding->L0H0.{channel}" for channel in "qkv"),
        "L0H0->MLP0",
        "MLP0->unembedding",
    },
    "induction": {
        *(f"position_embedding->L0H0.{channel}" for channel in "qk"),
        *(f"token_embedding->L0H0.{channel}" for channel in "kv"),
        *(f"token_embedding->L1H0.{channel}" for channel in "qkv"),
        "L0H0->L1H0.k",
        "L1H0->unembedding",
    },
    "dedupe": {
        *(f"position_embedding->L0H0.{channel}" for channel in "qk"),
        *(f"token_embedding->L0H0.{channel}" for channel in "kv"),
        "token_embedding->MLP0",
        "L0H0->MLP0",
        "MLP0->unembedding",
    },
}
INVISIBLE = {
    "first": {"position_embedding->L0H0.k"},
    # The value that a selector width moves is which token is BOS.
    "histogram": {"token_embedding->L0H0.v"},
    "induction": {
        *(f"position_embedding->L0H0.{channel}" for channel in "qk"),
        "token_embedding->L0H0.k",
        "token_embedding->L1H0.k",
    },
    "dedupe": {*(f"position_embedding->L0H0.{channel}" for channel in "qk"), "token_embedding->L0H0.k"},
}


@pytest.mark.parametrize("name", STRUCTURAL)
def test_both_truths_by_hand(name: str):
    task, draft = draft_of(name)
    config = draft.subject.config
    prompts = task.prompts(generator_for("truth"), 200)
    structural, visible = truths(task, draft.placement, config, prompts, draft.constants)
    assert edge_names(config, structural) == STRUCTURAL[name]
    assert edge_names(config, visible) == STRUCTURAL[name] - INVISIBLE[name]


def test_an_edge_is_visible_only_under_corruptions_that_show_it():
    task, draft = draft_of("dedupe")
    prompts = task.prompts(generator_for("truth"), 400)
    place = (prompts.position - 1)[:, None]
    previous = [
        (task.symbols(tokens).gather(1, (place - 1).clamp(min=0)), place > 0)
        for tokens in (prompts.clean, prompts.corrupt)
    ]
    same = ((previous[0][0] == previous[1][0]) | (place == 0)).squeeze(1)
    kept = {
        f: getattr(prompts, f)[same]
        for f in ("clean", "corrupt", "position", "answer", "corrupt_answer", "slice")
    }
    config = draft.subject.config
    _, visible = truths(task, draft.placement, config, replace(prompts, **kept), draft.constants)
    assert edge_names(config, visible) == {"token_embedding->MLP0", "MLP0->unembedding"}


def test_a_placement_against_the_order_of_computing_is_refused():
    task, draft = draft_of("induction")
    wrong = draft.placement | {
        "previous": draft.placement["next"],
        "next": draft.placement["previous"],
    }
    prompts = task.prompts(generator_for(0), 8)
    with pytest.raises(InputError, match=r"placement: expected every variable before those that read it"):
        truths(task, wrong, draft.subject.config, prompts)


@pytest.mark.parametrize("name", ["induction", "histogram", "palindrome", "shuffle-dyck", "detect", "ioi"])
def test_the_certificate_of_compiled_weights_is_whole(name: str):
    task, draft = draft_of(name)
    found = certify(draft.subject, task, draft.placement, generator_for("pairs"), 200)
    assert found.nan_to_num(1.0).min() == 1.0
    nodes = components(draft.subject.config)
    told = {node.name for node, accuracy in zip(nodes, found, strict=True) if not accuracy.isnan()}
    assert "token_embedding" in told
    # what is the same on all prompts cannot be exchanged
    assert "unembedding" not in told
    assert ("position_embedding" in told) == ("positions" not in draft.placement)


def test_the_certificate_notices_a_wrong_placement_and_a_broken_weight():
    task, draft = draft_of("alternation", roomy(library_program("alternation")))
    placement = draft.placement
    swapped = placement | {"back1": placement["back2"], "back2": placement["back1"]}
    prompts = task.prompts(generator_for(0), 64)

    def truth(subject, placement):
        return known_truth(subject, task, placement, prompts=prompts, generator=generator_for("pairs"))

    assert rejection(truth(draft.subject, placement), draft.subject) == ""
    why = rejection(truth(draft.subject, swapped), draft.subject)
    assert why.startswith("certificate: L0H")
    assert why.endswith("of pairs, below 0.95")
    idle = placement | {"differs": placement["differed"][:0]}
    assert certify(draft.subject, task, idle, generator_for("pairs"), 200).nan_to_num(1).min() < 0.95
    weights = dict(draft.subject.weights)
    weights["blocks.0.attn.W_V"] = weights["blocks.0.attn.W_V"].clone()
    weights["blocks.0.attn.W_V"][placement["back1"][0].head] *= -1
    broken = draft.subject.with_weights(weights)
    assert rejection(truth(broken, placement), broken) != ""


def test_a_rare_answer_does_not_hide_a_component_that_carries_nothing():
    task, draft = draft_of("detect", roomy(library_program("detect")))
    free = next(
        c for c in components(draft.subject.config)
        if c.kind == "head" and c.layer == 0 and all(c not in places for places in draft.placement.values())
    )  # fmt: skip
    claimed = draft.placement | {"back1": (free,)}
    found = certify(draft.subject, task, claimed, generator_for("pairs"), 400)
    assert found[components(draft.subject.config).index(free)] < 0.6


def test_rotation_and_shuffles_change_no_output_and_the_truth_follows_the_heads():
    task, draft = draft_of("induction", roomy(library_program("induction")))
    hidden = disguised(draft, generator_for("hide"), noise=0.0)
    inputs = task.tokens(all_inputs(task.program, generator_for(0))[:200])
    assert hidden.node_order.tolist() != list(range(len(hidden.node_order)))
    filled = exactness(hidden.subject, task, task.symbols(inputs))
    assert filled == 1.0
    again = gauge_element(hidden.subject, generator_for("again"), condition=3.0)
    before, after = (s.run(inputs).logits for s in (hidden.subject, again.subject))
    torch.testing.assert_close(before, after, atol=2e-4, rtol=1e-4)
    config, prompts = draft.subject.config, task.prompts(generator_for(1), 100)
    nodes = components(config)
    plain, _ = truths(task, draft.placement, config, prompts, draft.constants)
    moved, _ = truths(task, hidden.placement, config, prompts, hidden.constants)
    old = {nodes[i].name: nodes[int(j)].name for i, j in enumerate(hidden.node_order)}

    def renamed(edge: str) -> str:
        source, reader = edge.split("->")
        head, _, channel = reader.partition(".")
        return f"{old[source]}->{old[head]}{'.' * bool(channel)}{channel}"

    assert {renamed(edge) for edge in edge_names(config, moved)} == edge_names(config, plain)
    assert edge_names(config, moved) != edge_names(config, plain)
    assert certify(hidden.subject, task, hidden.placement, generator_for(2), 200).nan_to_num(1.0).min() == 1.0
    # The sensitivity twin: the old names are wrong for the shuffled heads.
    assert certify(hidden.subject, task, draft.placement, generator_for(2), 200).nan_to_num(1.0).min() < 0.95


def test_a_disguised_subject_has_no_zeros_and_distractors_of_matched_norm():
    task, draft = draft_of("induction", roomy(library_program("induction")))
    hidden = disguised(draft, generator_for("hide"), noise=NOISE)
    weights = hidden.subject.weights
    assert max(float((w == 0).double().mean()) for w in draft.subject.weights.values()) > 0.9
    assert all((w != 0).all() for w in weights.values())
    plain = disguised_norms(draft, generator_for("hide"))
    assert 0.3 < plain["distractor"] / plain["circuit"] < 3
    assert exactness(hidden.subject, task, all_inputs(task.program, generator_for(0))[:1000]) > 0.99


def disguised_norms(draft: Draft, generator: torch.Generator) -> dict[str, float]:
    """Median norm of OV, before any change of basis, of circuit heads and of the others."""
    from data_gen.compiler.disguise import _Filler

    filled = _Filler(draft, generator).fill(0.0).weights
    norms: dict[str, list[float]] = {"circuit": [], "distractor": []}
    busy = {c for places in draft.placement.values() for c in places}
    for c in components(draft.subject.config):
        if c.kind == "head":
            v, o = (filled[f"blocks.{c.layer}.attn.W_{x}"][c.head] for x in "VO")
            norms["circuit" if c in busy else "distractor"].append(float((v @ o).norm()))
    return {name: float(torch.tensor(values).median()) for name, values in norms.items()}


def test_one_program_in_several_disguises():
    program = library_program("detect")
    size = roomy(program)
    first, second = (make_compiled(program, size, 7, disguise_number=i, steps=5) for i in range(2))
    again = make_compiled(program, size, 7, disguise_number=1, steps=5)
    assert again.subject.fingerprint() == second.subject.fingerprint() != first.subject.fingerprint()
    assert first.report.sharpness == second.report.sharpness
    layers = [
        {name: [(c.kind, c.layer) for c in places] for name, places in made.placement.items()}
        for made in (first, second)
    ]
    assert layers[0] == layers[1]
    for made in (first, second):
        assert made.report.rejected == ""
        assert made.report.exact >= 0.99
        assert made.truth.worst >= 0.95
        assert made.report.worst == made.truth.worst
        names = [ROLES[i] for i in made.truth.role]
        assert names[0] == names[-1] == "circuit"
        assert names.count("distractor") == len(names) - 7
        assert all((w != 0).all() for w in made.subject.weights.values())


def test_a_ruined_subject_is_rejected_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    program = library_program("detect")
    monkeypatch.setattr("data_gen.compiler.make.LEARNING_RATE", 0.05)
    monkeypatch.setattr("data_gen.compiler.make.RATES", (1.0,))
    made = make_compiled(program, roomy(program), 7, steps=20)
    assert made.report.rejected.startswith(("answers as the program in", "certificate: "))


def test_the_schedule_follows_the_longest_path():
    layout = lay_out(library_program("sort"))
    layers = {name: [(c.kind, c.layer) for c in places] for name, places in layout.placement.items()}
    assert layers["rank"] == [("head", 0), ("mlp", 0)]
    assert layers["sorted"] == [("head", 1)]
    assert (layout.n_layers, layout.n_heads) == (2, 1)
