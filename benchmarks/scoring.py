"""Scoring two systems on a test set: the official way, this project.

The official scripts cannot be shipped. `official` does what they do for every system, with the same libraries:

    e2e     n-grams of the references counted anew, PTB tokens of references and outputs by two Java processes,
            METEOR by another Java process, ROUGE-L and CIDEr by pycocoevalcap
    dart    BLEU, NLTK tokens of everything, METEOR by a Java process, TER by pyter for every reference

The comparison favours it: measure_scores.py counts the references' n-grams ten times, `official` once. This project's
first system pays for the tokens of the references and the start of METEOR. The scores are compared. Without the
reference data the texts are random words, for as many instances as E2E's test set has.
"""

import argparse
import math
import os
import random
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import mean

import pyter
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from sacrebleu.metrics.bleu import BLEU

from benchmarks.timing import Row, take_turns
from eval.score import DEFAULT_METRICS, check_metrics, score
from eval.score.corpus import Corpus
from eval.score.text_files import read_corpus
from eval.score.tokenizers import java, mteval, nltk_words
from loda.errors import LodaError


def run(scorer: str, options: argparse.Namespace) -> list[Row]:
    """Seconds of a system's scores."""
    metrics = DEFAULT_METRICS[scorer]
    check_metrics(scorer, metrics)
    # The wrappers of pycocoevalcap start the first `java` of the path.
    os.environ["PATH"] = f"{java.runtime().parent}{os.pathsep}{os.environ['PATH']}"
    theirs, ours = [], []
    official = _official_e2e if scorer == "e2e" else _official_dart
    for corpus in _corpora(scorer, options.instances or (300 if scorer == "dart" else None)):
        steps = {"official": partial(official, corpus, metrics), "loda": partial(score, corpus, metrics)}
        timings = take_turns(steps, repeats=1, warm_up=0)
        theirs += timings["official"].seconds
        ours += timings["loda"].seconds
        _compare(timings["official"].result, timings["loda"].result)
    rows: list[Row] = [{"name": "official", "seconds": mean(theirs), "repeats": theirs}]
    for name, seconds in zip(("loda, first system", "loda, each further system"), ours, strict=True):
        rows.append(
            {"name": name, "seconds": seconds, "official over it": mean(theirs) / seconds, "repeats": [seconds]}
        )
    return rows


def _corpora(scorer: str, instances: int | None) -> list[Corpus]:
    """Two systems with the same references, of the reference data or made."""
    folder = Path(os.environ.get("LODA_SHARED", "../shared")) / "goldens" / "metrics" / scorer
    if not folder.is_dir():
        return _made(scorer, instances or 630)
    if scorer == "e2e":
        files = [(folder / "references.txt", path) for path in sorted((folder / "outputs").glob("*.txt"))]
    else:
        files = [(path / "reference", path / "hypothesis") for path in sorted(folder.iterdir())] * 2
    corpora = [read_corpus(scorer, *pair) for pair in files[:2]]
    return [Corpus(scorer, c.hypotheses[:instances], c.references[:instances]) for c in corpora]


def _made(scorer: str, instances: int) -> list[Corpus]:
    generator = random.Random(0)

    def text() -> str:
        return " ".join(f"w{generator.randrange(300)}" for _ in range(20)) + " ."

    references = tuple(tuple(text() for _ in range(7)) for _ in range(instances))
    # Two thirds of a reference, so that every n-gram order has matches.
    return [Corpus(scorer, tuple(group[0][:60] + text()[:30] for group in references), references)] * 2


def _official_e2e(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    mteval.count_references.cache_clear()
    scores = score(corpus, ["bleu", "nist"])
    texts: list[Sequence[Sequence[str]]] = [corpus.references, [(text,) for text in corpus.hypotheses]]
    captions = [{i: [{"caption": text} for text in group] for i, group in enumerate(part)} for part in texts]
    references, hypotheses = (PTBTokenizer().tokenize(part) for part in captions)
    for name, scorer in (("METEOR", Meteor), ("ROUGE_L", Rouge), ("CIDEr", Cider)):
        if name.lower() in metrics:
            scores[name] = float(scorer().compute_score(references, hypotheses)[0])
    return scores


def _official_dart(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    streams = [list(stream) for stream in zip_longest(*corpus.references)]
    bleu = BLEU(tokenize="13a", smooth_method="none", force=True).corpus_score(corpus.hypotheses, streams).score
    references = [nltk_words.tokenise(group) for group in corpus.references]
    hypotheses = nltk_words.tokenise(corpus.hypotheses)
    joined = dict(enumerate(references))
    outputs = {i: [words] for i, words in enumerate(hypotheses)}
    meteor = {"METEOR": float(Meteor().compute_score(joined, outputs)[0])} if "meteor" in metrics else {}
    rates = [
        min(pyter.ter(text.split(), one.split()) for one in group)
        for text, group in zip(hypotheses, references, strict=True)
    ]
    return {"BLEU": bleu, "TER": mean(rates)} | meteor


def _compare(official: dict[str, float], ours: dict[str, float]) -> None:
    for name, value in official.items():
        if not math.isclose(value, ours[name], rel_tol=1e-9):
            raise LodaError(f"{name}: the official way gives {value}, this project {ours[name]}; one of them is wrong")
