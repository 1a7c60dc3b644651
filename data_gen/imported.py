"""Other people's networks as a zoo: each is read from its folder, harvested, and stored as its own shard."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from data_gen.config import HarvestConfig
from data_gen.harvesting import harvest
from data_gen.prompt_file import PromptFile, prompt_task
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError, require
from metamodel.subjects import Subject
from metamodel.triples.manifest import ShardRecord, sha256
from metamodel.triples.schema import SubjectInfo
from metamodel.triples.shard import write_shard


def model_folders(folder: Path) -> tuple[Path, ...]:
    """Folders in transformers' format: `folder` itself, or those inside it, by name.

    Raises: InputError if there is none.
    """
    require(folder.is_dir(), str(folder), expected="a folder of networks", got="none", do="Check the path.")
    inside = sorted(p for p in folder.iterdir() if (p / "config.json").is_file())
    found = (folder,) if (folder / "config.json").is_file() else tuple(inside)
    require(
        bool(found),
        str(folder),
        expected="networks in transformers' format, each in a folder with a config.json",
        got="none",
        do="Save them with save_pretrained, each in a folder of its own.",
    )
    return found


def fingerprint_of(network: Path) -> str:
    """Hash of the files of a network: another one under the same name is another zoo."""
    digest = hashlib.sha256()
    for path in sorted(network.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin"):
            digest.update(path.name.encode() + sha256(path).encode())
    return digest.hexdigest()[:16]


def harvest_config(task: PromptFile) -> HarvestConfig:
    """As much as the file of prompts allows."""
    n = len(task.given)
    return HarvestConfig(n_prompts=min(48, n), n_behavior_prompts=n, n_probes=min(16, n), n_shown=min(128, n))


def import_shard(
    networks: tuple[str, ...],
    prompts: str,
    most_edges: int,
    folder: Path,
    index: int,
    report: Callable[[float], None] | None = None,
) -> ShardRecord:
    """Harvests one network and stores its triple.

    A network that cannot be read, or whose circuit is too large to be swept, is rejected with its reason; the
    others go on.

    Args:
        networks: folders of all of them.
        prompts: the file of prompts.
        most_edges: edges of the largest circuit that is swept.
        folder: of the zoo.
    """
    torch.set_num_threads(1)
    source, task = Path(networks[index]), prompt_task(Path(prompts))
    try:
        subject = _readable(source, task, most_edges)
        triples = harvest([subject], [task], [_info(subject, Path(prompts))], harvest_config(task), seed=0)
    except InputError as error:
        return write_shard(folder, index, (), {source.name: str(error)})
    return write_shard(folder, index, triples, {})


def _readable(source: Path, task: PromptFile, most_edges: int) -> Subject:
    subject = Subject.from_pretrained(source)
    n_edges = len(component_edges(subject.config))
    require(
        n_edges <= most_edges,
        source.name,
        expected=f"at most {most_edges} edges, each of which is patched",
        got=n_edges,
        do="Raise --most-edges, and have patience: time grows with edges times the network's size.",
    )
    largest = max(int(t.max()) for t in (task.given.clean, task.given.corrupt, task.given.answer))
    require(
        largest < subject.config.d_vocab,
        source.name,
        expected=f"prompts of tokens below {subject.config.d_vocab}",
        got=largest,
        do="Tokenise the prompts for this network.",
    )
    return Subject(config=subject.config, weights=subject.weights, name=source.name, notes=subject.notes)


def _info(subject: Subject, prompts: Path) -> SubjectInfo:
    shape = subject.config
    return SubjectInfo(
        id=subject.name,
        subject=subject.name,
        family=prompts.stem,
        variant="base",
        size=f"l{shape.n_layers}h{shape.n_heads}d{shape.d_model}",
        recipe="unknown",
        seed=0,
        lineage=subject.fingerprint(),
        origin="imported",
        departs="origin",
    )
