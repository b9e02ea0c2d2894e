"""template: say where the data come from and what a line holds: `context<TAB>completion`."""

from loda.lab.data import Pair
from loda.lab.data.source import SourceFile

# With a URL, a git blob id (`git hash-object FILE`) and the number of pairs the files are downloaded and verified.
FILES = {split: SourceFile(f"{split}.tsv") for split in ("train", "valid", "test")}


def pairs(data: bytes) -> list[Pair]:
    """One pair per line."""
    rows = (line.split("\t") for line in data.decode("utf-8").removesuffix("\n").split("\n"))
    return [Pair(context, completion) for context, completion in rows]
