"""What does it cost to read a network of GPT-2's size?

    python benchmarks/reading_large.py CHECKPOINT [--layers 12] [--threads 2]

Builds a GPT-2 from a configuration (by default that of GPT-2 small, weights drawn with a seed), saves it to a
temporary folder, and measures processes of their own: the whole command `python -m metamodel.read CHECKPOINT
FOLDER --json`, and a process that loads reader and subject and then times the reading alone. Wall and
processor seconds, and the peak of resident memory in GiB. The bars are for the whole command at GPT-2 small
on 2 cores.

This process imports no torch: a child's peak of memory counts what its parent held when it was started.
Progress goes to stderr, the last line of stdout is one JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamodel.config.command import run_command
from metamodel.config.errors import InputError, require
from metamodel.config.parser import command_parser, parse_options

BAR_SECONDS, BAR_GIB = 60.0, 4.0
SIZES = ("layers", "heads", "width", "vocabulary", "context")
MAKE = """
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging
logging.disable_progress_bar()
folder, (layers, heads, width, vocabulary, context, seed) = sys.argv[1], map(int, sys.argv[2:])
torch.manual_seed(seed)
GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width, vocab_size=vocabulary,
                           n_positions=context, bos_token_id=None, eos_token_id=None)).save_pretrained(folder)
"""
READ = """
import json, sys, time
from pathlib import Path
from metamodel import from_pretrained, load
reader, subject = load(sys.argv[1]), from_pretrained(sys.argv[2])
reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
def resident(key):
    if not status.is_file():
        return None
    return int(next(x.split()[1] for x in status.read_text().splitlines() if x.startswith(key))) / 2**20
before = resident("VmRSS:")
if reset.exists():
    reset.write_text("5")  # from here on the peak is that of the reading
wall, cpu = time.perf_counter(), time.process_time()
reading = reader.read(subject)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_gib": resident("VmHWM:"), "before_gib": before,
                  "parameters": sum(w.numel() for w in subject.weights.values()),
                  "components": len(reading.nodes)}))
"""


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.reading_large", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of a function reader")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="d_model")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS of what is measured")
    given = parse_options(parser, arguments)
    for key in (*SIZES, "threads"):
        value = getattr(given, key)
        require(value >= 1, f"--{key}", expected="at least 1", got=value, do="Give more.")
    expected = f"a divisor of --width {given.width}"
    fits = given.width % given.heads == 0
    require(fits, "--heads", expected=expected, got=given.heads, do="Choose another number.")
    do = "Name the folder of a checkpoint."
    there = Path(given.checkpoint).is_dir()
    require(there, "checkpoint", expected="a folder", got=f"no folder {given.checkpoint}", do=do)
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "subject")
        print("building the subject", file=sys.stderr)
        sizes = [str(getattr(given, key)) for key in (*SIZES, "seed")]
        measured("-c", MAKE, folder, *sizes, threads=given.threads)
        print("reading it, loading included", file=sys.stderr)
        command = ("-m", "metamodel.read", given.checkpoint, folder, "--json")
        whole, _ = measured(*command, threads=given.threads)
        print("reading it again, in parts", file=sys.stderr)
        _, said = measured("-c", READ, given.checkpoint, folder, threads=given.threads)
    alone: dict[str, Any] = json.loads(said.splitlines()[-1])
    shape = {key: getattr(given, key) for key in SIZES}
    shape |= {key: alone.pop(key) for key in ("parameters", "components")}
    found = {
        "checkpoint": given.checkpoint,
        "subject": shape,
        "threads": given.threads,
        "load_average": round(os.getloadavg()[0], 2),
        "command": rounded(whole),
        "reading": rounded(alone),
        "bars": {"wall_s": BAR_SECONDS, "peak_gib": BAR_GIB},
        "within": whole["wall_s"] < BAR_SECONDS and whole["peak_gib"] < BAR_GIB,
    }
    for name in ("command", "reading"):
        print(f"{name}: {found[name]}", file=sys.stderr)
    print(json.dumps(found))


def measured(*words: str, threads: int) -> tuple[dict[str, float], str]:
    """Wall and processor seconds and peak memory of one Python process, and what it printed.

    Raises: InputError with the last line that it wrote to stderr if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, *words], stdout=out, stderr=errors, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        lines = errors.read().strip().splitlines()
        if child.returncode:
            got = lines[-1].rstrip(".") if lines else f"exit code {child.returncode}"
            do = "Run the command by hand to see the rest."
            raise InputError(" ".join(words[:2]), expected="a run without error", got=got, do=do)
        # Linux counts in KiB, macOS in bytes
        unit = 2**30 if sys.platform == "darwin" else 2**20
        took = {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_gib": usage.ru_maxrss / unit}
        return took, out.read()


def rounded(took: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in took.items()}


if __name__ == "__main__":
    run_command(main)
