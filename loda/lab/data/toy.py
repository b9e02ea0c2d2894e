"""The generated restaurant data set that ships with the project, in E2E's text form (made by `scripts/toy`)."""

from pathlib import Path

from loda.lab.data.e2e import pairs as pairs
from loda.lab.data.source import SourceFile

_FOLDER = Path(__file__).resolve().parents[1] / "toy" / "data"
FILES = {
    "train": SourceFile("train.txt", "cbd05661804a626ae5cb66fae9dc2daa03471c28", 240, folder=_FOLDER),
    "valid": SourceFile("valid.txt", "0c0b88917bb549f59ef774bbecf694d32ec458dc", 48, folder=_FOLDER),
    "test": SourceFile("test.txt", "26239792e41ef833a6f0aafab80d2347f01be909", 120, folder=_FOLDER),
}
