"""E2E NLG Challenge: `context||completion ` per line, tokenised (`family - friendly`), as LoRA trains on it.

Source: microsoft/LoRA, examples/NLG/data/e2e.
"""

from loda.lab.data import Pair
from loda.lab.data.source import SourceFile

_URL = (
    "https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a368d7bb5af5273b8e42810cdef90/examples/NLG/data/e2e/"
)
FILES = {
    "train": SourceFile("train.txt", "2f92a2790c00a48574dcc89465a326f33d7e7cc6", 42_061, _URL + "train.txt"),
    "valid": SourceFile("valid.txt", "94f87112e11198710d65a1d5dc7d0b8d9155a07d", 4_672, _URL + "valid.txt"),
    "test": SourceFile("test.txt", "084da9f4409d98058bcb020614afa83824440484", 4_693, _URL + "test.txt"),
}


def pairs(data: bytes) -> list[Pair]:
    """One pair per line; the line is stripped, then split at `||`."""
    rows = (line.strip().split("||") for line in data.decode("utf-8").removesuffix("\n").split("\n"))
    return [Pair(row[0], row[1]) for row in rows]
