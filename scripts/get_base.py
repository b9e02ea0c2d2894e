"""Download and convert a base model, so that a training can start without a network: `python -m scripts base NAME`."""

import argparse
from collections.abc import Sequence

from loda.lab.base.files import locate
from loda.lab.command_line import run_command
from loda.lab.config import compose


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts base", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="file in configs/model, such as smollm2_135m")
    parser.add_argument("settings", nargs="*", help="overrides, such as model.path=FILE.gguf")
    options = parser.parse_args(arguments)
    print(locate(compose([f"model={options.name}", *options.settings]).model))
    return 0


if __name__ == "__main__":
    run_command(main)
