"""Rebuild the toy world: its data set, and its base model with tokenizer and card.

    python -m scripts.toy               # everything, 20 to 30 minutes on two cores
    python -m scripts.toy --data-only   # the data set alone, a second

The data set comes out byte for byte as shipped. The base comes out nearly the same: sums of floating-point numbers
depend on the number of threads and on the machine.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from loda.lab.command_line import run_command
from scripts.toy import pretrain, restaurants

TOY = Path(__file__).resolve().parents[2] / "loda" / "lab" / "toy"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.toy", description="Rebuild the toy world.")
    parser.add_argument("--data-only", action="store_true", help="write the data set alone, leave the base as it is")
    parser.add_argument("--to", type=Path, default=TOY, help="folder for data/ and base/ (default: where they ship)")
    options = parser.parse_args(arguments)
    restaurants.write(options.to / "data")
    if options.data_only:
        return 0
    start = time.monotonic()
    tokenizer = pretrain.train_tokenizer()
    model = pretrain.pretrain(tokenizer)
    pretrain.save(options.to / "base", tokenizer, model, minutes=(time.monotonic() - start) / 60)
    return 0


if __name__ == "__main__":
    run_command(main)
