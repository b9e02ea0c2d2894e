"""Every benchmark, one after another, each in a process of its own: `python -m benchmarks`, or `make bench`."""

import argparse
import subprocess
import sys

from benchmarks.workload import SHAPES


def main() -> int:
    """Command line; returns how many benchmarks failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", default=None, choices=SHAPES, help="of training, decoding and approximation")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    chosen = parser.parse_args()
    model = ["--model", chosen.model] if chosen.model else []
    device = ["--device", chosen.device]
    commands = [
        ["train_step", *model, *device, "--repeats", "2"],
        ["decoding", *model, *device, "--repeats", "1"],
        ["inference", *device],
        ["start_up", *model],
        ["scoring", "--systems", "2"],
        ["scoring", "--protocol", "dart", "--systems", "2", "--instances", "300"],
        ["growth", *device],
    ]
    failed = 0
    for name, *options in commands:
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
