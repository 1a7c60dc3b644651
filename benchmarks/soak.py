"""Does a build that is killed at random moments end in the bytes of an undisturbed one?

    python benchmarks/soak.py

Builds a small zoo undisturbed; then, in every round, kills builds of it with all their workers (SIGKILL) at
random moments, goes on until one ends, and compares the manifest's fingerprint and the hash of every file.
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
import time
from pathlib import Path

from builds import finished, hashes, small_zoo, start

from metamodel.triples import read_manifest

AGAIN = 0.5
"""How likely a build that goes on is killed too."""


def killed(build: subprocess.Popen[str], after: float) -> bool:
    """Kills a build and its workers after so many seconds; False if it ended before."""
    try:
        build.communicate(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(build.pid, signal.SIGKILL)
        build.communicate()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--subjects", type=int, default=16, help="of the zoo, in shards of four")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = folder / "soak.yaml"
        config.write_text(
            small_zoo("soak", n_subjects=options.subjects, subjects_per_shard=4, steps=options.steps)
        )
        finished(start(config, folder / "undisturbed", "--workers", options.workers))
        whole = time.monotonic() - began
        expected = hashes(folder / "undisturbed")
        fingerprint = read_manifest(folder / "undisturbed").fingerprint
        sys.stderr.write(f"undisturbed: {len(expected)} files in {whole:.1f} s, {fingerprint[:12]}\n")
        kills = identical = 0
        left: list[int] = []
        for number in range(options.rounds):
            out = folder / f"round-{number}"
            n_kills = 0
            while n_kills == 0 or rng.random() < AGAIN:
                if not killed(
                    start(config, out, "--workers", options.workers), rng.uniform(0.1, 1.0) * whole
                ):
                    break
                n_kills += 1
                left.append(len(list(out.glob("shards/*.json"))))
            finished(start(config, out, "--workers", options.workers))
            same = hashes(out) == expected and read_manifest(out).fingerprint == fingerprint
            kills, identical = kills + n_kills, identical + same
            sys.stderr.write(f"round {number}: {n_kills} kills, {'identical' if same else 'DIFFERENT'}\n")
    found = {
        "rounds": options.rounds,
        "kills": kills,
        "kills_by_shards_done": {str(n): left.count(n) for n in sorted(set(left))},
        "identical": identical,
        "fingerprint": fingerprint,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(found))
    raise SystemExit(0 if identical == options.rounds else 1)


if __name__ == "__main__":
    main()
