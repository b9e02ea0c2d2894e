"""The generated restaurant data set that ships with the project, in E2E's text form (see `loda/lab/toy`)."""

from pathlib import Path

from loda.lab.data.e2e import pairs as pairs
from loda.lab.data.source import SourceFile, blob_id

_FOLDER = Path(__file__).resolve().parents[1] / "toy" / "data"
FILES = {
    split: SourceFile(
        f"{split}.txt",
        blob_id((_FOLDER / f"{split}.txt").read_bytes()),
        (_FOLDER / f"{split}.txt").read_bytes().count(b"\n"),
        folder=_FOLDER,
    )
    for split in ("train", "valid", "test")
}
