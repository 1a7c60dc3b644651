"""Do one worker, two workers and Ray build the same bytes?

    python benchmarks/executors.py [--config configs/zoo/tiny.yaml]

Progress goes to stderr; the last line of stdout is one JSON object: by executor the manifest's fingerprint
and the seconds it took. Without Ray installed its line is missing. Ends with code 1 if any file differs.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

from builds import ROOT, finished, hashes, start

from metamodel.triples import read_manifest

WAYS = {
    "local, 1 worker": ("--workers", 1),
    "local, 2 workers": ("--workers", 2),
    "ray, 2 workers": ("--executor", "ray", "--workers", 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs/zoo/tiny.yaml")
    config = parser.parse_args().config.resolve()
    fingerprints: dict[str, str] = {}
    seconds: dict[str, float] = {}
    folders: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for way, options in WAYS.items():
            if "ray" in options and importlib.util.find_spec("ray") is None:
                sys.stderr.write(f"{way}: left out, for ray is not installed\n")
                continue
            out, began = Path(temporary) / way.replace(" ", "-"), time.monotonic()
            finished(start(config, out, *options))
            seconds[way] = round(time.monotonic() - began, 1)
            fingerprints[way] = read_manifest(out).fingerprint
            folders.append(hashes(out))
            sys.stderr.write(f"{way}: {fingerprints[way][:12]} in {seconds[way]} s\n")
    identical = all(folder == folders[0] for folder in folders)
    print(json.dumps({"fingerprints": fingerprints, "seconds": seconds, "identical": identical}))
    raise SystemExit(0 if identical else 1)


if __name__ == "__main__":
    main()
