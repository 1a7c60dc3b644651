"""The worked example of docs/circuits.md: induction, indirect objects, and movers that back each other up.

    python -m data_gen.build --config configs/zoo/circuits.yaml
    python benchmarks/circuit_examples.py data/circuits

For each subject its circuit on fresh prompts of its task; for recall and indirect objects also the pairs of
heads of different layers whose joint ablation costs most beyond the two alone, and how far the later head's
direct write to the answer grows when the earlier one is ablated, with the final LayerNorm's scale as it was
before; for subjects of two tasks what one task's circuit costs the other. The last line of stdout is one JSON
object.
"""

import json
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.harvesting import task_prompts
from data_gen.seeds import generator_for
from data_gen.subject_task import task_of
from metamodel.circuits import (
    Circuit,
    CircuitRunner,
    Prompts,
    component_oracle,
    damage,
    discover,
    interactions,
    selectivity,
)
from metamodel.circuits.base_run import base_run
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.subjects import Subject, components
from metamodel.subjects.config import Component
from metamodel.subjects.forward import forward
from metamodel.triples import Zoo

N_PROMPTS = 128
N_PAIRS = 3
"""Pairs that are printed for each subject."""
BACKED = ("ioi", "recall")
"""Families whose heads are searched for backups."""


@torch.no_grad()
def direct_writes(subject: Subject, prompts: Prompts, ablated: Component | None) -> Float[Tensor, " head"]:
    """What each head writes to answer minus corrupt answer where it is read, mean over prompts.

    Args:
        ablated: head whose output is replaced by its mean over prompts, position by position.
    """
    run = base_run(subject, prompts, "mean", freeze_norm=True)
    whole, config = run.subject, run.config
    names = [f"blocks.{layer}.attn.hook_result" for layer in range(config.n_layers)]

    def mean(value: Tensor) -> Tensor:
        assert ablated is not None
        changed = value.clone()
        own = value[:, :, :, ablated.head]
        changed[:, :, :, ablated.head] = own.mean(1, keepdim=True)
        return changed

    replace = {} if ablated is None else {names[ablated.layer]: mean}
    taps = forward(whole.stacked, config, prompts.clean, taps=names, replace=replace).taps
    unembed = whole.weights["unembed.W_U"]
    direction = (unembed[:, prompts.answer] - unembed[:, prompts.corrupt_answer]).T
    if run.suffix.scales is not None:
        direction = direction / run.suffix.at_answer(run.suffix.scales["ln_final"])
    written = torch.cat([taps[name][0].permute(2, 0, 1, 3) for name in names])
    return torch.einsum("hbm,bm->h", run.suffix.at_answer(written), direction) / len(prompts)


def backups(subject: Subject, prompts: Prompts) -> list[dict[str, object]]:
    """Pairs of heads of different layers that miss each other most."""
    heads = [node for node in components(subject.config) if node.kind == "head"]
    layer = {node.name: node for node in heads}
    oracle = component_oracle(subject, prompts, [node.name for node in heads], intervention="mean")
    table = interactions(oracle, order=2).to_pandas().to_dict("records")
    alone = {row["items"]: row["damage"] for row in table if row["size"] == 1}
    pairs = [(*str(row["items"]).split(" + "), row) for row in table if row["size"] == 2]
    pairs = [(a, b, row) for a, b, row in pairs if layer[a].layer < layer[b].layer]
    before, found = direct_writes(subject, prompts, None), []
    for first, second, row in sorted(pairs, key=lambda pair: -pair[2]["value"])[:N_PAIRS]:
        after = direct_writes(subject, prompts, layer[first])
        at = heads.index(layer[second])
        found.append(
            {
                "ablated": first,
                "backup": second,
                "damage_of_first": round(alone[first], 2),
                "damage_of_second": round(alone[second], 2),
                "damage_of_both": round(row["damage"], 2),
                "beyond_the_sum": round(row["value"], 2),
                "se": round(row["se"], 2),
                "backup_writes_before": round(float(before[at]), 2),
                "backup_writes_after": round(float(after[at]), 2),
            }
        )
    return found


def selectivities(zoo: Zoo, circuits: dict[str, Circuit], prompts: dict[str, Prompts]) -> dict[str, object]:
    """Of subjects with several tasks: what patching one task's circuit costs that task and the others."""
    found: dict[str, object] = {}
    for own, circuit in circuits.items():
        for other in circuits:
            if other != own and zoo.info(other).subject == zoo.info(own).subject:
                mine, theirs = (CircuitRunner.of(zoo.subject(own), prompts[id]) for id in (own, other))
                found[f"{own} against {other}"] = {
                    "damage_to_own": round(damage(mine, circuit.kept), 3),
                    "damage_to_other": round(damage(theirs, circuit.kept), 3),
                    "selectivity": round(selectivity(mine, theirs, circuit.kept), 3),
                    "shared_edges": int((circuit.kept & circuits[other].kept).sum()),
                }
    return found


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.circuit_examples", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of the zoo of configs/zoo/circuits.yaml")
    zoo = Zoo.open(Path(parse_options(parser, arguments).zoo))
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    circuits: dict[str, Circuit] = {}
    asked: dict[str, Prompts] = {}
    for id in zoo.ids:
        info, subject = zoo.info(id), zoo.subject(id)
        task = task_of(info, int(zoo.manifest.config["seed"]))
        prompts = task_prompts(task, generator_for("examples", id), N_PROMPTS)
        circuit = circuits[id] = discover(subject, prompts)
        asked[id] = prompts
        row: dict[str, object] = {
            "edges": f"{len(circuit)} of {len(circuit.scores)}",
            "recovered": round(circuit.recovered, 3),
            "complement": round(circuit.complement, 3),
            "stability": round(circuit.stability, 3),
            "redundant": round(circuit.redundant_share, 3),
            "strongest": [edge.name for edge in circuit.members[:12]],
        }
        if info.family in BACKED:
            row["backups"] = backups(subject, prompts)
        found[id] = row
        print(f"{id}: {json.dumps(row)}", file=sys.stderr)
    found["selectivity"] = selectivities(zoo, circuits, asked)
    print(json.dumps(found["selectivity"]), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    run_command(main)
