"""E2E NLG Challenge, in two forms with the same pairs, line by line.

    text    `context||completion ` per line, tokenised (`family - friendly`): what LoRA and Prefix-Tuning train on
    csv     the official release: `name[...], eatType[...]` and the reference as it was written

Sources: microsoft/LoRA, examples/NLG/data/e2e; tuetschek/e2e-dataset.
"""

import csv
import io

from loda.lab.data import Pair, Variant
from loda.lab.data.source import SourceFile

_URL = (
    "https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a368d7bb5af5273b8e42810cdef90/examples/NLG/data/e2e/"
)
_CSV = "https://raw.githubusercontent.com/tuetschek/e2e-dataset/ab0d967dd5729ce455ef14ba9ffafc456a335264/"
FILES = {
    "train": SourceFile("train.txt", "2f92a2790c00a48574dcc89465a326f33d7e7cc6", 42_061, _URL + "train.txt"),
    "valid": SourceFile("valid.txt", "94f87112e11198710d65a1d5dc7d0b8d9155a07d", 4_672, _URL + "valid.txt"),
    "test": SourceFile("test.txt", "084da9f4409d98058bcb020614afa83824440484", 4_693, _URL + "test.txt"),
}
CSV_FILES = {
    "train": SourceFile("trainset.csv", "fa3a5e1124d2aa0d768881e38f8ee73e63d5880d", 42_061, _CSV + "trainset.csv"),
    "valid": SourceFile("devset.csv", "c45950a0771c769d787a33fdf56439cb890005d7", 4_672, _CSV + "devset.csv"),
    "test": SourceFile(
        "testset_w_refs.csv", "86733864c96dc18cbaa5f18042356296ef679302", 4_693, _CSV + "testset_w_refs.csv"
    ),
}


def pairs(data: bytes) -> list[Pair]:
    """One pair per line; the line is stripped, then split at `||`."""
    rows = (line.strip().split("||") for line in data.decode("utf-8").removesuffix("\n").split("\n"))
    return [Pair(row[0], row[1]) for row in rows]


def csv_pairs(data: bytes) -> list[Pair]:
    """One pair per row below the header; the reference is stripped, as a line of the text form is."""
    _, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
    return [Pair(meaning, reference.strip()) for meaning, reference in rows]


VARIANTS = {"text": Variant(FILES, pairs), "csv": Variant(CSV_FILES, csv_pairs)}
