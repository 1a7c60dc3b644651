"""How fast and how exact the sweep over all edges is, against naive patching and against TransformerLens.

    python benchmarks/circuit_speed.py

Subjects of 2 layers and 4 heads, d_model 32, d_mlp 128, LayerNorm, on 64 prompts of 16 tokens. All ways run
in turn, round by round; figures are ratios of medians. The naive loop runs a whole forward for each edge,
eight edges at once; TransformerLens scores the edges of a GPT-2 bridge of the same weights by attribution,
which the sweep is timed against on that same subject. The last line of stdout is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.attribution import EAP
from metamodel.circuits.base_run import INTERVENTIONS, BaseRun, Intervention, base_run
from metamodel.circuits.exact import Exact
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import Measure
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, unstack

SHAPE = SubjectConfig(n_layers=2, n_heads=4, d_model=32, d_head=8, d_mlp=128, d_vocab=64, n_ctx=16)
N_PROMPTS, N_POS = 64, 16
N_SUBJECTS, N_TASKS = 500, 3
"""What a zoo's sweep is measured on, under all interventions."""


def random_subject(seed: int, config: SubjectConfig = SHAPE) -> Subject:
    """Untrained, with weights large enough that every path moves the logits."""
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(seed)], init_std=0.3), 0)
    return Subject(config=config, weights=weights, name=f"random-{seed}")


def random_prompts(seed: int, *, everywhere: bool = False, n: int = N_PROMPTS) -> Prompts:
    """Random tokens; answers are asked at the last position, or at all of them."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(SHAPE.d_vocab, (2, n, N_POS), generator=generator)
    answer = torch.randint(SHAPE.d_vocab, (n,), generator=generator)
    return Prompts(
        clean=clean,
        corrupt=corrupt,
        position=torch.full((n,), N_POS - 1),
        answer=answer,
        corrupt_answer=(answer + 1) % SHAPE.d_vocab,
        slice=torch.zeros(n, dtype=torch.int64),
        slice_names=("all",),
        targets=clean.roll(-1, dims=1) if everywhere else None,
    )


def naive_effects(run: BaseRun, measure: Measure, chunk: int) -> Float[Tensor, "edge batch"]:
    """A whole forward for each edge: `chunk` edges into one destination at once, stacked along the batch."""
    c, edges, delta = run.config, component_edges(run.config), run.delta
    reference, made = measure(run.logits), []
    by_destination: dict[str, list[int]] = {}
    for i, edge in enumerate(edges.edges):
        by_destination.setdefault(edge.destination.name, []).append(edges.source_node[i])
    destination = {d.name: d for d in edges.destinations}
    for name, sources in by_destination.items():
        reader = destination[name]
        for part in torch.tensor(sources).split(chunk):
            change = delta[part].flatten(0, 1)
            if reader.component.kind == "head":
                addend = change.new_zeros(*change.shape[:2], c.n_heads, c.d_model)
                addend[:, :, reader.component.head] = change
            else:
                addend = change
            tokens = run.tokens.repeat(len(part), 1)
            logits = forward(run.subject.stacked, c, tokens, addends={reader.site: addend[None]}).logits[0]
            logits = logits.unflatten(0, (len(part), -1))
            made.append(measure(run.suffix.at_answer(logits)) - reference)
    return torch.cat(made)


def exactness() -> dict[str, float]:
    """Largest difference of sweep and naive loop, over interventions and one or all answers."""
    found = {}
    for name, subject in (("float32", random_subject(0)), ("float64", random_subject(0).double())):
        worst = 0.0
        for intervention in INTERVENTIONS:
            for everywhere in (False, True):
                prompts = random_prompts(1, everywhere=everywhere, n=8)
                run = base_run(subject, prompts, intervention)
                fast = Exact().score(subject, prompts, "margin", intervention).per_prompt
                assert fast is not None
                difference = fast - naive_effects(run, run.measure("margin"), 16)
                worst = max(worst, float(difference.mean(1).abs().max()))
        found[name] = worst
    return found


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each way, all run once a round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if i:  # the first round warms up
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in taken.items()}


def speed(rounds: int) -> dict[str, object]:
    """Sweeps against forwards and the naive loop, at one and at all answer positions."""
    subject, one, every = random_subject(0), random_prompts(1), random_prompts(1, everywhere=True)
    run, run_every = base_run(subject, one, "noising"), base_run(subject, every, "noising")
    ways: dict[str, Callable[[], object]] = {"forward": lambda: subject.run(one.clean)}
    for intervention in INTERVENTIONS:
        ways[intervention] = lambda how=intervention: Exact().score(subject, one, "margin", how)
        ways[f"{intervention}, all positions"] = lambda how=intervention: Exact().score(
            subject, every, "margin", how
        )
    ways["naive"] = lambda: naive_effects(run, run.measure("margin"), 8)
    ways["naive, all positions"] = lambda: naive_effects(run_every, run_every.measure("margin"), 8)
    taken = in_turn(ways, rounds)
    for name, milliseconds in taken.items():
        print(f"{name}: {milliseconds:.1f} ms", file=sys.stderr)
    forwards = {name: taken[name] / taken["forward"] for name in ways}
    every_way = [f"{how}, all positions" for how in INTERVENTIONS]
    return {
        "forward_equivalents": round(max(forwards[how] for how in INTERVENTIONS), 1),
        "forward_equivalents_all_positions": round(max(forwards[how] for how in every_way), 1),
        "forward_equivalents_by_arithmetic": round(Exact().score(subject, one, "margin", "zero").forwards, 1),
        "ratio_to_naive": round(taken["naive"] / taken["noising"], 1),
        "ratio_to_naive_all_positions": round(
            taken["naive, all positions"] / taken["noising, all positions"], 1
        ),
        "milliseconds": {name: round(value, 2) for name, value in taken.items()},
    }


def zoo_minutes(n_sweeps: int) -> float:
    """Minutes that all interventions of 500 subjects on 3 tasks take, from a share of the sweeps."""
    start = time.perf_counter()
    for i in range(n_sweeps):
        how: Intervention = INTERVENTIONS[i % len(INTERVENTIONS)]
        Exact().score(random_subject(i // len(INTERVENTIONS)), random_prompts(i), "margin", how)
    whole = N_SUBJECTS * N_TASKS * len(INTERVENTIONS)
    return (time.perf_counter() - start) * whole / n_sweeps / 60


def gpt2_bridge(subject: Subject):
    """A TransformerBridge around a GPT-2 with a subject's weights."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    from metamodel.subjects.interchange.gpt2 import to_gpt2

    module = to_gpt2(subject)
    return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config)


def against_transformer_lens(rounds: int, n_prompts: int) -> dict[str, float]:
    """Their edge attribution and ours, edge by edge, and their time against the exact sweep's.

    Their metric sees logits without the prompt, so that all prompts here have the same two answers.
    """
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    plain = random_subject(0)
    plain = plain.with_weights({**plain.weights, "unembed.b_U": torch.zeros(SHAPE.d_vocab)})
    bridge = gpt2_bridge(plain)
    subject = Subject.from_bridge(bridge)
    drawn = random_prompts(1, n=n_prompts)
    prompts = replace(drawn, answer=torch.full((n_prompts,), 3), corrupt_answer=torch.full((n_prompts,), 5))

    def theirs():
        return attribution_patch(
            bridge,
            prompts.clean,
            prompts.corrupt,
            lambda logits: logits[0, -1, 3] - logits[0, -1, 5],
            config=EdgeAttributionConfig(granularity="edge"),
        )

    ours = EAP().score(subject, prompts, "logit_difference", "denoising")
    summed: dict[tuple[str, str], float] = {}
    for (writer, reader), value in theirs().edge_scores.items():
        pair = _names(writer, reader)
        summed[pair] = summed.get(pair, 0.0) + value
    difference = [
        abs(float(value) - summed.get((edge.source.name, edge.destination.name), 0.0))
        for edge, value in zip(ours.edges.edges, ours.value, strict=True)
    ]
    assert len(summed) == len(difference) - len(ours.edges.destinations), "all edges but those of positions"
    ways: dict[str, Callable[[], object]] = {
        "theirs": theirs,
        "exact": lambda: Exact().score(subject, prompts, "logit_difference", "denoising"),
        "eap": lambda: EAP().score(subject, prompts, "logit_difference", "denoising"),
    }
    taken = in_turn(ways, rounds)
    for name, milliseconds in taken.items():
        print(f"GPT-2 bridge, {name}: {milliseconds:.1f} ms", file=sys.stderr)
    return {
        "eap_vs_transformer_lens_max_error": max(difference),
        "ratio_to_transformer_lens": round(taken["theirs"] / taken["exact"], 1),
        "eap_ratio_to_transformer_lens": round(taken["theirs"] / taken["eap"], 1),
    }


def _names(writer, reader) -> tuple[str, str]:
    """Our names of an edge between two of TransformerLens's nodes."""
    source = {
        "embed": "token_embedding",
        "attn_head_out": f"L{writer.layer}H{writer.head}",
        "mlp_out": f"MLP{writer.layer}",
    }[writer.kind]
    match reader.kind:
        case "mlp_in":
            return source, f"MLP{reader.layer}"
        case "logits":
            return source, "unembedding"
    return source, f"L{reader.layer}H{reader.head}.{reader.kind[0]}"


def measure(*, rounds: int, n_sweeps: int, n_bridge_prompts: int = N_PROMPTS) -> dict[str, object]:
    """All figures of this file."""
    errors = exactness()
    with torch.no_grad():
        found = speed(rounds)
    return {
        "exact_vs_naive_max_error": errors["float32"],
        "exact_vs_naive_max_error_float64": errors["float64"],
        **against_transformer_lens(max(1, rounds // 4), n_bridge_prompts),
        **found,
        "minutes_500_subjects_3_tasks_4_interventions": round(zoo_minutes(n_sweeps), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="timings of each way")
    parser.add_argument("--sweeps", type=int, default=600, help="of the 6,000 of a whole zoo")
    given = parser.parse_args()
    print(json.dumps(measure(rounds=given.rounds, n_sweeps=given.sweeps)))


if __name__ == "__main__":
    main()
