"""WebNLG Challenge 2017: `subject : property : object | ...`, one pair per lexicalisation marked good.

Source: microsoft/LoRA, examples/NLG/data/webnlg_challenge_2017. Nothing is lower-cased, underscores stay. The
categories of the training split are the seen ones; about half of the test split is of others.
"""

import json
from typing import Any

from loda.lab.data import Pair
from loda.lab.data.source import SourceFile

_URL = (
    "https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a368d7bb5af5273b8e42810cdef90/examples/NLG/data/"
    "webnlg_challenge_2017/"
)
FILES = {
    "train": SourceFile("train.json", "461766d1fe902bd659b821a03f49310c22403686", 18_025, _URL + "train.json"),
    "valid": SourceFile("dev.json", "180f096ff49a7e597dd7c507ea0c5441e839b770", 2_258, _URL + "dev.json"),
    "test": SourceFile("test.json", "7f552799b7e3b5badf95b725c20d955e0886811e", 4_928, _URL + "test.json"),
}
SEEN = {
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
}


def pairs(data: bytes) -> list[Pair]:
    """One pair per good lexicalisation, in the order of the file."""
    entries: list[dict[str, Any]] = json.loads(data)["entries"]
    return [
        Pair(_context(entry["modifiedtripleset"]), text["lex"], entry["category"] in SEEN)
        for number, numbered in enumerate(entries, start=1)
        for entry in [numbered[str(number)]]
        for text in entry["lexicalisations"]
        if text["comment"] == "good"
    ]


def _context(triples: list[dict[str, str]]) -> str:
    return " | ".join(f"{t['subject']} : {t['property']} : {t['object']}" for t in triples)
