"""Rebuild the toy world: its data set, and its base model with tokenizer and card.

    python -m scripts.toy.__main__               # everything, 20 to 30 minutes on two cores
    python -m scripts.toy.__main__ --data-only   # the data set alone, a second

The data set comes out byte for byte as shipped. The base comes out nearly the same: sums of floating-point numbers
depend on the number of threads and on the machine.
"""

import argparse
import time
from pathlib import Path

import torch

from scripts.toy import pretrain, restaurants

TOY = Path(__file__).resolve().parents[2] / "loda" / "lab" / "toy"


def make_base(folder: Path, settings: pretrain.Pretraining) -> None:
    """Train tokenizer and model, measure them and write both with a card."""
    start = time.monotonic()
    tokenizer = pretrain.train_tokenizer(settings.seed)
    model = pretrain.pretrain(tokenizer, settings)
    minutes = (time.monotonic() - start) / 60
    pretrain.save(folder, tokenizer, model, settings, minutes)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data-only", action="store_true", help="write the data set alone, leave the base as it is")
    parser.add_argument("--threads", type=int, help="torch threads for the pre-training (default: torch's choice)")
    parser.add_argument("--to", type=Path, default=TOY, help="folder for data/ and base/ (default: where they ship)")
    options = parser.parse_args()

    restaurants.write(options.to / "data")
    if not options.data_only:
        if options.threads:
            torch.set_num_threads(options.threads)
        make_base(options.to / "base", pretrain.Pretraining())


if __name__ == "__main__":
    main()
