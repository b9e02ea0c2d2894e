"""NLTK word tokens as GenerationEval uses them: METEOR and TER of DART and WebNLG see only these.

`nltk.word_tokenize` splits into sentences first, for which it needs the English Punkt data, a separate download.
Without that step (`preserve_line=True`) only the last full stop of a text becomes a token ("He left. She came." gives
`left.`).
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loda.errors import LodaError
from loda.lab.data.source import cache_folder
from loda.lab.stage import digest

_DOWNLOAD_SECONDS = 20


def check() -> None:
    """Raise LodaError unless the Punkt data is found, or can be downloaded within 20 seconds."""
    if _found() is not None:
        return
    import nltk

    cache = cache_folder("nltk_data")
    nltk.data.path.append(str(cache))
    if _found() is None:
        _download(cache)
    if _found() is None:
        raise LodaError(
            "the NLTK data punkt_tab (English) is missing and could not be downloaded from "
            "raw.githubusercontent.com/nltk/nltk_data; run `python -m nltk.downloader punkt_tab` on "
            "a connected machine and set NLTK_DATA to the folder that holds tokenizers/punkt_tab"
        )


def identity() -> dict[str, str]:
    """The content of the Punkt data, which has no version."""
    check()
    found = _found()
    names = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
    hashes = {name: hashlib.sha256(found.join(name).open().read()).hexdigest() for name in names}
    return {"punkt_tab": digest(hashes)}


def tokenise(texts: Sequence[str]) -> list[str]:
    """The tokens of each text, joined by single spaces; a blank text comes out empty."""
    import nltk  # here, because it takes seconds and whoever prints a table does not need it

    return [" ".join(nltk.word_tokenize(text)) for text in texts]


def _found() -> Any:
    """NLTK's pointer to the folder of the English data, which may lie in a zip file; None without."""
    import nltk

    try:
        return nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return None


def _download(folder: Path) -> None:
    # In a process: NLTK's downloader has no time limit, and a limit on sockets does not cover the name look-up.
    command = [sys.executable, "-m", "nltk.downloader", "-q", "-d", str(folder), "punkt_tab"]
    try:
        subprocess.run(command, capture_output=True, timeout=_DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        return
