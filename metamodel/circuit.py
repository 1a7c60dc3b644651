"""Finds the circuit of a subject on given prompts, prints it, and writes JSON and a picture.

    python -m metamodel.circuit SUBJECT --prompts prompts.jsonl [--out DIR] [--json]

SUBJECT is a folder in transformers' format, a name on the hub, or ZOO#ID; architectures other than GPT-2 run
through TransformerLens, slower. Prompts are JSON lines of token ids with `clean`, `corrupt`, `answer` and
`corrupt_answer`; `python -m data_gen.prompts ZOO#ID` writes some for a subject of a zoo.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.circuits.circuit import Circuit

SHOWN = 40
"""Most members that are printed; the JSON holds all."""


def main(arguments: list[str]) -> None:
    """Prints a table, or JSON."""
    parser = command_parser(prog="metamodel.circuit", description=__doc__ or "")
    parser.add_argument("subject", type=str, help="folder in transformers' format, hub name, or ZOO#ID")
    parser.add_argument("--prompts", type=str, required=True, help="JSON lines of token ids")
    parser.add_argument("--method", type=str, default="exact", help="how edges are scored")
    parser.add_argument("--metric", type=str, default="margin", help="what an edge's patch changes")
    parser.add_argument("--intervention", type=str, default="noising", help="what a patched edge carries")
    parser.add_argument("--faithful", type=float, default=0.9, help="share of the effect to recover")
    parser.add_argument("--edges", type=int, default=None, help="take this many edges instead")
    parser.add_argument("--out", type=str, default=None, help="folder for circuit.json and circuit.png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parse_options(parser, arguments)
    folder = None if options.out is None else Path(options.out)
    require(
        folder is None or not folder.exists() or not any(folder.iterdir()),
        "--out",
        expected="a new or an empty folder",
        got=options.out,
        do="Choose another one: nothing is overwritten.",
    )
    from metamodel.circuits.circuit import discover
    from metamodel.circuits.methods import method_named
    from metamodel.circuits.prompt_file import read_prompts
    from metamodel.read import subject_in
    from metamodel.subjects.interchange import resolve_network

    method = method_named(options.method)
    prompts = read_prompts(Path(options.prompts))
    circuit = discover(
        resolve_network(options.subject, read_zoo=subject_in),
        prompts,
        metric=options.metric,
        intervention=options.intervention,
        method=method,
        faithful=options.faithful,
        n_edges=options.edges,
    )
    if options.json:
        sys.stdout.write(circuit.to_json() + "\n")
    else:
        show(circuit)
    if folder is not None:
        write(circuit, folder)
        sys.stderr.write(f"written: {folder}/circuit.json, {folder}/circuit.png\n")


def write(circuit: "Circuit", folder: Path) -> None:
    """Raises: InputError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "circuit.json").write_text(circuit.to_json() + "\n")
        circuit.plot().savefig(folder / "circuit.png", dpi=200)
    except OSError as error:
        reason = error.strerror or str(error)
        require(False, str(folder), expected="a folder to write to", got=reason, do="Choose another --out.")


def show(circuit: "Circuit") -> None:
    """Prints the members, and what the circuit does alone."""
    from rich.console import Console
    from rich.table import Table

    scores, curve = circuit.scores, circuit.curve
    table = Table(title=f"{circuit.subject}: {len(circuit)} of {len(scores)} edges", title_justify="left")
    for name in ("from", "to", "input"):
        table.add_column(name, no_wrap=True)
    table.add_column(_column(circuit), justify="right")
    table.add_column("± se", justify="right")
    table.add_column("redundant")
    members = circuit.to_pandas()
    for row in members.head(SHOWN).to_dict("records"):
        ends = (str(row[name]) for name in ("source", "destination", "channel"))
        table.add_row(*ends, f"{row['value']:+.3f}", f"{row['se']:.3f}", "yes" if row["redundant"] else "")
    Console().print(table)
    if len(members) > SHOWN:
        sys.stdout.write(f"and {len(members) - SHOWN} more: see --json\n")
    low, high = (float(circuit.kl.quantile(q)) for q in (0.5, 0.95))
    metric = scores.metric.replace("_", " ")
    stable = "" if circuit.stability != circuit.stability else f"; {circuit.stability:.2f} stable (Jaccard)"
    for note in circuit.notes:
        sys.stdout.write(f"note: {note}\n")
    sys.stdout.write(
        f"alone they recover {circuit.recovered:.1%} of the {metric} ({curve.empty:.3f} with nothing, "
        f"{curve.full:.3f} with all); the rest alone {circuit.complement:.1%}\n"
        f"KL from the whole subject: median {low:.3f}, 95th percentile {high:.3f} nats over "
        f"{len(circuit.kl)} prompts\n"
        f"{circuit.redundant_share:.0%} of the edges are redundant one by one (bar "
        f"{circuit.redundancy.bar:.3f}){stable}\n"
        f"all sizes: CPR {curve.cpr:.3f} (log {curve.cpr_log:.3f}), CMD {curve.cmd:.3f} "
        f"(log {curve.cmd_log:.3f}); cost {scores.forwards:.0f} forwards\n"
    )


def _column(circuit: "Circuit") -> str:
    """What the numbers of a method are."""
    scores = circuit.scores
    metric, how = scores.metric.replace("_", " "), scores.intervention
    match scores.quantity:
        case "effect":
            return f"{metric} when patched ({how})"
        case "estimate":
            return f"estimated {metric} when patched ({how})"
        case "threshold":
            return f"largest change of the {metric} at which it is kept ({how})"
        case "norm":
            return "norm of the weights along it"
    return "random number"


if __name__ == "__main__":
    run_command(main)
