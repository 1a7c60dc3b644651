"""Which programs can subjects be taught in a circuit of their own, and does exact patching find it?

    python benchmarks/siit.py --programs first histogram induction --subjects 4

Teaches the same number of subjects each program with the same recipe, and certifies them. Progress goes to
stderr; the last line of stdout is one JSON object. For each program: the share of subjects that is accepted,
the certificate's worst component of each subject beside the mean over its heads and MLPs, processor seconds a
subject, and how well the exact sweep ranks the edges of both truths in those accepted: |effect on the margin|
of noising and of zero ablation, as AUROC and average precision, averaged over subjects. The sweep is
reported, never a filter. `--uniform` teaches the programs once more, drawing the component that must not
matter instead of taking the worst.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from ranking import SWEEPS, TRUTHS, agreement

from data_gen.config import RecipeConfig
from data_gen.programs.library import MAKE
from data_gen.programs.task import PREFIX, make_program_task
from data_gen.seeds import derived_seed, generator_for
from data_gen.siit import Taught, teach
from data_gen.siit_training import HostChoice
from data_gen.tasks.base import D_VOCAB
from metamodel.circuits.exact import edge_scores
from metamodel.subjects.config import SubjectConfig, components

N_HEADS, N_CTX = 4, 16
N_PROMPTS = 48
"""Pairs of prompts on which edges are scored."""


def taught(program: str, options: argparse.Namespace, choice: HostChoice) -> tuple[tuple[Taught, ...], float]:
    """Subjects of one program, and processor seconds for each."""
    task = make_program_task(f"{PREFIX}{program}", "base", 0)
    shape = SubjectConfig(
        n_layers=options.layers,
        n_heads=N_HEADS,
        d_model=options.width,
        d_head=options.width // N_HEADS,
        d_mlp=2 * options.width,
        d_vocab=D_VOCAB,
        n_ctx=N_CTX,
        attention_dir="causal" if task.program.causal else "bidirectional",
    )
    recipe = RecipeConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    seeds = [derived_seed("benchmark", program, i) for i in range(options.subjects)]
    began = time.process_time()
    found = teach(shape, recipe, [task] * len(seeds), seeds, choice=choice)
    return found, (time.process_time() - began) / len(seeds)


def ranking(one: Taught, seed: int) -> dict[str, float]:
    """How well the exact sweep ranks the edges of one subject: 'intervention/truth/metric' -> value."""
    assert one.subject is not None
    assert one.truth is not None
    prompts = one.task.prompts(generator_for("sweep", seed), N_PROMPTS)
    found = {}
    for intervention in SWEEPS:
        scores = edge_scores(one.subject, prompts, intervention).margin
        for truth in TRUTHS:
            ranked = agreement(getattr(one.truth, truth), scores)
            found |= {f"{intervention}/{truth}/{metric}": value for metric, value in ranked.items()}
    return found


def certificates(subjects: Sequence[Taught]) -> dict[str, object]:
    """Share that is accepted, and accuracy of the worst component and of the mean one."""
    truths = [one.truth for one in subjects if one.truth is not None]
    whole = [one.subject for one in subjects if one.subject is not None]
    inner = torch.tensor([node.layer >= 0 for node in components(whole[0].config)]) if whole else None
    return {
        "accepted": sum(not one.rejected for one in subjects) / len(subjects),
        "worst": [round(truth.worst, 3) for truth in truths],
        "mean": [round(float(truth.node_accuracy[inner].nanmean()), 3) for truth in truths],
        "rejected": [one.rejected for one in subjects if one.rejected],
    }


def measured(program: str, options: argparse.Namespace, choice: HostChoice) -> dict[str, object]:
    """All figures of one program."""
    subjects, seconds = taught(program, options, choice)
    sweeps = [ranking(one, i) for i, one in enumerate(subjects) if not one.rejected]
    names = sweeps[0] if sweeps else ()
    return certificates(subjects) | {
        "seconds_per_subject": round(seconds, 1),
        "sweep": {name: round(statistics.mean(s[name] for s in sweeps), 3) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", nargs="+", default=["histogram"], choices=sorted(MAKE))
    parser.add_argument("--subjects", type=int, default=4, help="subjects of each program")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=32, help="d_model")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--uniform", action="store_true", help="also draw hosts instead of taking the worst")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, object]] = {}
    for program in options.programs:
        choices: tuple[HostChoice, ...] = ("worst", "uniform") if options.uniform else ("worst",)
        for choice in choices:
            name = program if choice == "worst" else f"{program}/{choice}"
            figures[name] = measured(program, options, choice)
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    print(json.dumps({"options": vars(options), "programs": figures}))


if __name__ == "__main__":
    main()
