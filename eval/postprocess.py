"""From generated ids to texts that a scorer reads (LoRA's gpt2_decode.py).

A text ends at the first end-of-text mark or blank line. The WebNLG and DART recipes then lower-case, put spaces
around every character that is not part of a word, and give each context the same number of references, the first one
repeated where there are fewer.
"""

import re
from collections.abc import Sequence

END = re.compile(r"<\|endoftext\|>|\n\n")
NUM_REFERENCES = 6


def clean(text: str) -> str:
    """Cut at the first end-of-text mark, then at the first blank line; strip.

    A single line break inside a text becomes a space (the reference leaves it, which breaks its files of one text per
    line).
    """
    return " ".join(END.split(text, maxsplit=1)[0].strip().split("\n"))


def tokenize(text: str) -> str:
    """Put spaces around every non-word character: "3.5" becomes "3 . 5"; white space is collapsed."""
    return " ".join(re.sub(r"(\W)", r" \1 ", text).split())


def prepare(protocol: str, texts: Sequence[str]) -> list[str]:
    """Texts as the protocol's scorer expects them: as they are for e2e, lower-cased and tokenised otherwise."""
    cleaned = [clean(text) for text in texts]
    return cleaned if protocol == "e2e" else [tokenize(text.lower()) for text in cleaned]


def pad_references(references: Sequence[str]) -> list[str]:
    """Exactly `NUM_REFERENCES` references: the first is repeated for missing ones, those beyond are dropped."""
    missing = NUM_REFERENCES - len(references)
    return [*references[:NUM_REFERENCES], *[references[0]] * missing]
