"""Builds what is missing of a zoo of edits, and says what a finished one holds."""

from collections import Counter
from functools import partial
from pathlib import Path

from data_gen.build_lock import claimed
from data_gen.episodes.config import EditZooConfig
from data_gen.episodes.shard import make_shard, shards_of
from data_gen.executor import Job, build_shards
from metamodel.config.parser import plain
from metamodel.triples.building import begin
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.manifest import read_manifest, valid_shard


def build(
    config: EditZooConfig,
    out: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    shards: tuple[int, int] = (0, 1),
) -> bool:
    """Builds a zoo of edits in `out`, and tells whether it is whole. See `data_gen.build.build`.

    Raises: InputError if `out` holds something else, or another builder is at work.
    """
    specs = shards_of(config)
    began = begin(out, name=config.name, config=plain(config), labels=(), n_shards=len(specs))
    jobs = {
        spec.index: Job(n_subjects=len(spec.names), cost=_cost(config, spec.index))
        for spec in specs
        if spec.index % shards[1] == shards[0]
    }
    if not (began.finished and all(valid_shard(out, index) is not None for index in jobs)):
        with claimed(out, shards):
            make = partial(make_shard, config, out.absolute())
            build_shards(began, out, make, jobs, workers=workers, progress=progress, card=lambda folder: None)
    return read_manifest(out).finished


def _cost(config: EditZooConfig, index: int) -> float:
    shard = shards_of(config)[index]
    size, recipe = config.sizes[shard.cell.size], config.recipes[shard.cell.recipe]
    width = size.d_model * (4 * size.d_model + 2 * size.d_mlp)
    return float(size.n_layers * width * recipe.steps * recipe.batch_size * len(shard.names))


def described(folder: Path) -> str:
    """Subjects and edits of a finished zoo, counted, and who was rejected."""
    zoo = EditZoo.open(folder)
    subjects = Counter((one.departs, one.family) for one in zoo.subjects)
    edits = Counter(edit.kind for one in zoo.subjects for edit in one.edits)
    lines = [f"{departs:8} {family:10} {n}" for (departs, family), n in sorted(subjects.items())]
    lines += [f"{n} edits: {kind}" for kind, n in sorted(edits.items())]
    for shard in zoo.manifest.shards:
        lines += [f"rejected {id}: {why}" for id, why in shard.rejected.items()]
    return "\n".join(lines) + "\n"
