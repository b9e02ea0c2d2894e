"""Every benchmark, one after another: `python -m benchmarks`, or `make bench`."""

import argparse

from benchmarks import decoding, growth, inference, scoring, start_up, train_step
from benchmarks.workload import SHAPES


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", default=None, choices=SHAPES, help="of training, decoding and approximation")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    chosen = parser.parse_args()
    model = ["--model", chosen.model] if chosen.model else []
    device = ["--device", chosen.device]
    train_step.main([*model, *device, "--repeats", "2"])
    decoding.main([*model, *device, "--repeats", "1"])
    inference.main(device)
    start_up.main(model)
    scoring.main(["--systems", "2"])
    scoring.main(["--protocol", "dart", "--systems", "2", "--instances", "100"])
    growth.main(device)


if __name__ == "__main__":
    main()
