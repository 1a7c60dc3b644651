"""How well compiled circuits hold, and how well exact edge patching finds them.

    python benchmarks/certificates.py

Compiles, disguises, fine-tunes and certifies every program of the library and `--random` sampled ones. Beside
the certificate stands the exact sweep over all edges, by noising and by zero ablation: AUROC and average
precision of |score| against both truths. The sweep never filters. Progress goes to stderr; the last line of
stdout is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
from ranking import SWEEPS, TRUTHS, agreement

from data_gen.compiler import Compiled, make_compiled, minimal_size
from data_gen.programs import MAKE, Program, library_program, random_programs
from data_gen.seeds import generator_for
from metamodel.circuits.exact import edge_scores
from metamodel.config import InputError
from metamodel.subjects.config import SubjectConfig

N_HEADS, D_MODEL, D_HEAD, D_MLP = 4, 48, 8, 64
"""Size of the subjects, or more where a program needs it."""


def size_for(program: Program, n_layers: int) -> SubjectConfig:
    least = minimal_size(program)
    return replace(
        least,
        n_layers=max(least.n_layers, n_layers),
        n_heads=max(least.n_heads, N_HEADS),
        d_model=max(least.d_model, D_MODEL),
        d_head=max(least.d_head, D_HEAD),
        d_mlp=max(least.d_mlp, D_MLP),
    )


def sweep(made: Compiled, n_prompts: int) -> dict[str, dict[str, float]]:
    prompts = made.task.prompts(generator_for("sweep", made.task.program.name), n_prompts)
    found = {}
    for intervention in SWEEPS:
        scores = edge_scores(made.subject, prompts, intervention).margin
        for name in TRUTHS:
            ranked = agreement(getattr(made.truth, name), scores)
            found[f"{intervention}/{name}"] = {metric: round(value, 4) for metric, value in ranked.items()}
    return found


def row(program: Program, arguments: argparse.Namespace) -> dict:
    """All that is reported of one program."""
    start = time.perf_counter()
    size = size_for(program, arguments.layers)
    made = make_compiled(program, size, arguments.seed)
    report = made.report
    return {
        "accepted": not report.rejected,
        "why_not": report.rejected,
        "worst": round(report.worst, 4),
        "exact_compiled": report.exact_compiled,
        "exact_disguised": round(report.exact_disguised, 5),
        "exact": round(report.exact, 5),
        "noise": report.noise,
        "edges": {
            "all": len(made.truth.structural),
            "structural": int(made.truth.structural.sum()),
            "visible": int(made.truth.visible.sum()),
        },
        "sweep": sweep(made, arguments.prompts),
        "seconds": round(time.perf_counter() - start, 1),
    }


def summary(rows: dict[str, dict]) -> dict:
    worst = [r["worst"] for r in rows.values()]
    found: dict = {
        "programs": len(rows),
        "accepted": sum(r["accepted"] for r in rows.values()),
        "worst_quartiles": [round(float(x), 4) for x in np.quantile(worst, (0, 0.25, 0.5, 0.75, 1))],
    }
    for name in (f"{sweep}/{truth}" for sweep in SWEEPS for truth in TRUTHS):
        measured = [r["sweep"][name] for r in rows.values() if r["sweep"][name]]
        for metric in ("auroc", "average_precision"):
            values = [m[metric] for m in measured]
            found[f"{name}/{metric}"] = {
                "mean": round(statistics.mean(values), 4),
                "min": round(min(values), 4),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--random", type=int, default=20, help="sampled programs")
    parser.add_argument("--library", type=int, default=len(MAKE), help="programs of the library")
    parser.add_argument("--layers", type=int, default=2, help="layers of a subject, at least")
    parser.add_argument("--prompts", type=int, default=128, help="prompts of the exact sweep")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    programs = [library_program(name) for name in list(MAKE)[: arguments.library]]
    programs += random_programs(arguments.seed, arguments.random) if arguments.random else ()
    rows, unfit = {}, {}
    for i, program in enumerate(programs):
        try:
            rows[program.name] = row(program, arguments)
        except InputError as error:
            unfit[program.name] = str(error)
        line = rows.get(program.name, {"accepted": unfit.get(program.name)})
        print(f"{i + 1}/{len(programs)} {program.name}: {line}", file=sys.stderr)
    setting = vars(arguments) | {"least": [N_HEADS, D_MODEL, D_HEAD, D_MLP]}
    print(json.dumps({"summary": summary(rows), "programs": rows, "unfit": unfit, "setting": setting}))


if __name__ == "__main__":
    main()
