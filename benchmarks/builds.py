"""Builds of small zoos as users start them, and what lies in their folders: for the benchmarks of builds."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HARVEST = (
    "harvest: {n_prompts: 4, n_behavior_prompts: 16, n_probes: 2, n_shown: 8, n_random: 8, n_null_copies: 20}"
)
"""As little as a harvest takes."""


def small_zoo(name: str, *, n_subjects: int, subjects_per_shard: int, steps: int = 200) -> str:
    """YAML of a zoo of sorters of one layer and two heads, of which about half learn in 200 steps."""
    return f"""\
name: {name}
n_ctx: 16
sizes:
  s: {{n_layers: 1, n_heads: 2, d_model: 16, d_head: 8}}
recipes:
  r: {{steps: {steps}, batch_size: 16, learning_rate: 0.03, warmup_steps: 10}}
cells:
  - {{family: sorting, variant: short, sizes: [s], recipe: r, n_subjects: {n_subjects}}}
subjects_per_shard: {subjects_per_shard}
{HARVEST}
"""


def start(config: Path, out: Path, *options: object) -> subprocess.Popen[str]:
    """A build in a process group of its own."""
    words = [sys.executable, "-m", "data_gen.build", "--config", config, "--out", out, *options]
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        process_group=0,
    )


def finished(build: subprocess.Popen[str]) -> str:
    """What a build says, once it has ended well.

    Raises: RuntimeError with what it says, if it has not.
    """
    said, _ = build.communicate()
    if build.returncode != 0:
        raise RuntimeError(f"the build ended with code {build.returncode}:\n{said}")
    return said


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
