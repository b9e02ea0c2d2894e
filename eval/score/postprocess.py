"""From generated ids to texts that a scorer reads (LoRA's gpt2_decode.py).

A text ends at the first of the marks that end a hypothesis (`decode.stop`; LoRA's: the end-of-text mark, a blank line).
The WebNLG and DART recipes then lower-case and put spaces around every character that is not part of a word. They
differ in what is scored against which references:

    webnlg, dart        every distinct context; exactly six references, the first one repeated where there are fewer
    dart_leaderboard    every entry of the test file; its first three references, an empty line where there are fewer

The first is LoRA's, and the LoDA paper's. The second gives the reference files of Yale-LILY/dart, whose leaderboard
they are: BLEU takes an empty line for a reference of length 0, which is worth about one point (48.56 instead of 47.60
for the same outputs), so that numbers of the two recipes cannot be compared.
"""

import re
from collections.abc import Sequence

NUM_REFERENCES = 6
LEADERBOARD = "dart_leaderboard"
LEADERBOARD_REFERENCES = 3


def clean(text: str, stop: Sequence[str]) -> str:
    """Cut at the first of the marks `stop`; strip.

    A line break inside a text becomes a space (the reference leaves it, which breaks its files of one text per
    line).
    """
    end = re.compile("|".join(map(re.escape, stop)))
    return " ".join(end.split(text, maxsplit=1)[0].strip().split("\n"))


def tokenize(text: str) -> str:
    """Put spaces around every non-word character: "3.5" becomes "3 . 5"; white space is collapsed."""
    return " ".join(re.sub(r"(\W)", r" \1 ", text).split())


def prepare(protocol: str, texts: Sequence[str], stop: Sequence[str]) -> list[str]:
    """Texts as the protocol's scorer expects them: as they are for e2e, lower-cased and tokenised otherwise."""
    cleaned = [clean(text, stop) for text in texts]
    return cleaned if protocol == "e2e" else [tokenize(text.lower()) for text in cleaned]


def pad_references(protocol: str, references: Sequence[str]) -> list[str]:
    """The references that the protocol's scorer is given: all for e2e, a fixed number otherwise (see above)."""
    if protocol == "e2e":
        return list(references)
    number, filler = (LEADERBOARD_REFERENCES, "") if protocol == LEADERBOARD else (NUM_REFERENCES, references[0])
    return [*references[:number], *[filler] * (number - len(references))]
