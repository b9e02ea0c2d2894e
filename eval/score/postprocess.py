"""From generated texts to the texts that are scored (LoRA's gpt2_decode.py).

A text ends at the first mark of `decode.stop` (LoRA's: the end-of-text mark, a blank line). For WebNLG and DART, texts
are then lower-cased and split at every non-word character, and each context has exactly six references. DART's
leaderboard has three, missing ones empty. Its BLEU is a point higher for the same outputs (48.56 against 47.60), so the
two cannot be compared.
"""

import re
from collections.abc import Sequence

from eval.score.corpus import Corpus
from loda.errors import LodaError
from loda.lab.data import Instance

NUM_REFERENCES = 6


def make_corpus(scorer: str, texts: Sequence[str], instances: Sequence[Instance], stop: Sequence[str]) -> Corpus:
    """The corpus of the generated texts, one per instance, and the references."""
    if len(texts) != len(instances):
        raise LodaError(f"there are {len(texts)} predictions for {len(instances)} contexts; decode this split again")
    references = [pad_references(scorer, prepare(scorer, instance.references, stop)) for instance in instances]
    return Corpus(scorer, prepare(scorer, texts, stop), references)


def prepare(scorer: str, texts: Sequence[str], stop: Sequence[str]) -> list[str]:
    cleaned = [clean(text, stop) for text in texts]
    return cleaned if scorer == "e2e" else [tokenize(text.lower()) for text in cleaned]


def clean(text: str, stop: Sequence[str]) -> str:
    """Cut at the first of the marks `stop`; strip; make line breaks spaces, since files have one text per line."""
    end = re.compile("|".join(map(re.escape, stop)))
    return " ".join(end.split(text, maxsplit=1)[0].strip().split("\n"))


def tokenize(text: str) -> str:
    """Put spaces around every non-word character: "3.5" becomes "3 . 5"; white space is collapsed."""
    return " ".join(re.sub(r"(\W)", r" \1 ", text).split())


def pad_references(scorer: str, references: Sequence[str]) -> list[str]:
    """All references for e2e; otherwise six, the first one repeated where there are fewer."""
    if scorer == "e2e":
        return list(references)
    return [*references[:NUM_REFERENCES], *[references[0]] * (NUM_REFERENCES - len(references))]
