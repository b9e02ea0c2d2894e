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
    references = [prepare(scorer, instance.references, stop) for instance in instances]
    if scorer != "e2e":
        references = [[*group, *[group[0]] * NUM_REFERENCES][:NUM_REFERENCES] for group in references]
    return Corpus(scorer, prepare(scorer, texts, stop), references)


def prepare(scorer: str, texts: Sequence[str], stop: Sequence[str]) -> list[str]:
    """Texts up to the first mark of `stop`, on one line; for webnlg and dart in lower case, "3.5" as "3 . 5"."""
    end = re.compile("|".join(map(re.escape, stop)))
    cleaned = [end.split(text, maxsplit=1)[0].strip().replace("\n", " ") for text in texts]
    return cleaned if scorer == "e2e" else [" ".join(re.sub(r"(\W)", r" \1 ", t.lower()).split()) for t in cleaned]
