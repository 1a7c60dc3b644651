"""Which recipe learns a task family? Accuracy of a few subjects of each variant, before anything is rejected.

    python benchmarks/learnability.py --families histogram recall --sizes l2h4-mlp --recipes medium

Sizes, recipes and seed are those of a configuration, so that subjects are the ones its zoo would train.
Progress goes to stderr; the last line of stdout is one JSON object: for each family, variant, size and recipe
the accuracies on fresh prompts, beside the threshold.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from data_gen.cells import CellConfig
from data_gen.config import ZooConfig
from data_gen.population import shard_specs
from data_gen.stacked_training import train
from data_gen.tasks import FAMILIES
from metamodel.config.parser import command_parser, parse_config

SMALL = Path(__file__).parents[1] / "configs/zoo/small.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--variants", nargs="+", help="all of each family by default")
    parser.add_argument("--sizes", nargs="+", default=["l2h4-mlp"])
    parser.add_argument("--recipes", nargs="+", default=["medium"])
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--zoo", default=str(SMALL), help="configuration of a zoo")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = tuple(
        CellConfig(family=family, variant=variant, sizes=(size,), recipe=recipe, n_subjects=options.subjects)
        for family in options.families
        for variant in options.variants or FAMILIES[family].variants
        for size in options.sizes
        for recipe in options.recipes
    )
    reader = command_parser(prog="benchmarks.learnability", description="Reads a zoo's configuration.")
    config, _ = parse_config(reader, ZooConfig, ["--config", options.zoo])
    zoo = replace(config, cells=cells, subjects_per_shard=options.subjects)
    found = {}
    for shard in shard_specs(zoo):
        name = "-".join((shard.family, shard.variant, shard.size_name, shard.cell.recipe))
        accuracy = train(shard).accuracy[:, 0]
        found[name] = {
            "threshold": FAMILIES[shard.family].threshold,
            "accuracy": [round(one, 3) for one in accuracy.tolist()],
        }
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
