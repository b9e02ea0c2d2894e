"""DART v1.1.1: `subject : relation : object | ...`, relation in lower case, one pair per annotation.

Source: microsoft/LoRA, examples/NLG/data/dart (the release of Yale-LILY/dart of July 2020). Entries of the test file
without annotations (the WebNLG 2017 blind test) have no reference and give no pair; the later release of Yale-LILY
(test file 3b663ea2..., with CRLF line ends) leaves them out and holds the same pairs.
"""

import json

from loda.lab.data import Pair
from loda.lab.data.source import SourceFile

_URL = (
    "https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a368d7bb5af5273b8e42810cdef90/examples/NLG/data/dart/"
    "dart-v1.1.1-full-"
)
FILES = {
    # Of the training file only the first digits of the blob id are known here; the number of pairs is exact.
    "train": SourceFile("dart-v1.1.1-full-train.json", "66d6ce4a", 62_659, _URL + "train.json"),
    "valid": SourceFile(
        "dart-v1.1.1-full-dev.json", "e3a7a497677e7edd9c45a3aaadb3ab8fd5493f75", 6_980, _URL + "dev.json"
    ),
    "test": SourceFile(
        "dart-v1.1.1-full-test.json",
        "c3de833701dcd475ff3bf0b72cd96e13aeeb6b68",
        12_552,
        _URL + "test.json",
        also=("c444b8344f573d62a4cf78c9370092675dc3ad63",),
    ),
}


def pairs(data: bytes) -> list[Pair]:
    """One pair per annotation, in the order of the file."""
    return [
        Pair(_context(entry["tripleset"]), annotation["text"])
        for entry in json.loads(data)
        for annotation in entry["annotations"]
    ]


def _context(triples: list[list[str]]) -> str:
    return " | ".join(f"{subject} : {relation.lower()} : {thing}" for subject, relation, thing in triples)
