"""Does a build that is killed at random moments end in the bytes of an undisturbed one?

    python benchmarks/soak.py

Builds a small zoo undisturbed; then, in every round, kills builds of it with all their workers (SIGKILL) at
random moments (after so many files and so many seconds), goes on until one ends, and compares the manifest's
fingerprint and the hash of every file.
Progress goes to stderr; the last line of stdout is one JSON object. Ends with code 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from builds import finished, hashes, small_zoo, start

from metamodel.triples import read_manifest

AGAIN = 0.5
"""How likely a build that goes on is killed too."""
MOST_FILES = 16
"""New files of shards at most for which a kill waits; a shard has up to three."""
LONGEST = 1.5
"""Seconds at most between the file that a kill waits for and the kill: about as long as a shard takes."""
POLL = 0.002
"""Seconds between looks at the folder."""


def killed(build: subprocess.Popen[str], out: Path, n_files: int, after: float) -> bool:
    """Kills a build and its workers so many seconds after so many files of shards lie in its folder.

    Files are counted from the first part that is written, so that kills fall into writing too. False if the
    build ended before.
    """
    drained = threading.Thread(target=build.stdout.read if build.stdout else str)
    drained.start()
    until = None
    while build.poll() is None:
        if until is None and len(list(out.glob("shards/*"))) >= n_files:
            until = time.monotonic() + after
        if until is not None and time.monotonic() >= until:
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            drained.join()
            return True
        time.sleep(POLL)
    drained.join()
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--subjects", type=int, default=16, help="of the zoo, in shards of two")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = folder / "soak.yaml"
        config.write_text(
            small_zoo("soak", n_subjects=options.subjects, subjects_per_shard=2, steps=options.steps)
        )
        finished(start(config, folder / "undisturbed", "--workers", options.workers))
        whole = time.monotonic() - began
        expected = hashes(folder / "undisturbed")
        fingerprint = read_manifest(folder / "undisturbed").fingerprint
        sys.stderr.write(f"undisturbed: {len(expected)} files in {whole:.1f} s, {fingerprint[:12]}\n")
        kills = identical = n_cut = 0
        left: list[int] = []
        for number in range(options.rounds):
            out = folder / f"round-{number}"
            n_kills = 0
            while n_kills == 0 or rng.random() < AGAIN:
                there = len(list(out.glob("shards/*")))
                n_files = there + rng.randint(0, MOST_FILES)
                build = start(config, out, "--workers", options.workers)
                if not killed(build, out, n_files, after=rng.uniform(0, LONGEST)):
                    break
                n_kills += 1
                left.append(len(list(out.glob("shards/*.json"))))
                n_cut += len(list(out.glob("shards/*.part"))) > 0
            finished(start(config, out, "--workers", options.workers))
            same = hashes(out) == expected and read_manifest(out).fingerprint == fingerprint
            kills, identical = kills + n_kills, identical + same
            sys.stderr.write(f"round {number}: {n_kills} kills, {'identical' if same else 'DIFFERENT'}\n")
    found = {
        "rounds": options.rounds,
        "kills": kills,
        "kills_by_shards_done": {str(n): left.count(n) for n in sorted(set(left))},
        "kills_while_a_file_was_written": n_cut,
        "identical": identical,
        "fingerprint": fingerprint,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(found))
    raise SystemExit(0 if identical == options.rounds else 1)


if __name__ == "__main__":
    main()
