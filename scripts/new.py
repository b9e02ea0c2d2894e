"""Write the file and the config of a new part, which pass the tests of its kind; fill them with your method.

python -m scripts new adapter my_adapter
python -m scripts new approximation|metric|data_set NAME
"""

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import CONFIG_FOLDER

ROOT = CONFIG_FOLDER.parent
TEMPLATES = Path(__file__).parent / "templates"
# Where the file belongs, where the config, and what uses the part.
KINDS = {
    "adapter": ("loda/adapters", "configs/adapter", "python train.py adapter={name}"),
    "approximation": ("loda/approx", "configs/approx", "python train.py approx={name}"),
    "metric": ("eval/score/metrics", None, "python train.py 'dataset.metrics=[bleu,nist,meteor,rouge_l,cider,{name}]'"),
    "data_set": ("loda/lab/data", "configs/dataset", "python train.py dataset={name} dataset.path=FOLDER"),
}


def files(kind: str, name: str, root: Path) -> dict[Path, str]:
    """The content of each file of a part, by its place below `root`.

    Raises:
        LodaError: the name is invalid or taken.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise LodaError(f"{name!r} cannot name a file and a class; use lower-case letters, digits and _")
    folder, config, _ = KINDS[kind]
    places = {root / folder / f"{name}.py": TEMPLATES / f"{kind}.py"}
    if config is not None:
        places[root / config / f"{name}.yaml"] = TEMPLATES / f"{kind}.yaml"
    if taken := [path for path in places if path.exists()]:
        raise LodaError(f"{name} is taken by {taken[0].relative_to(root)}; choose another name")
    words = {"template": name, "Template": name.title().replace("_", ""), "TEMPLATE": name.upper()}
    written = {}
    for path, template in places.items():
        text = template.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        written[path] = text
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts new", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="of the file, the config and the setting, such as my_adapter")
    options = parser.parse_args(arguments)
    for path, text in files(options.kind, options.name, ROOT).items():
        write_text(path, text)
        print(f"written: {path.relative_to(ROOT)}")
    print(f"test it: python -m pytest -k {options.name} tests")
    print(f"use it:  {KINDS[options.kind][2].format(name=options.name)}")
    return 0


if __name__ == "__main__":
    run_command(main)
