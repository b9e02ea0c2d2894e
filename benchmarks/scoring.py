"""Scoring a test set, each further system of many: a re-enactment of the official scripts, this project.

    python -m benchmarks.scoring --systems 3
    python -m benchmarks.scoring --protocol dart --instances 300

The official scripts cannot be shipped. `official` does for every system what they do, in the same libraries:

    e2e     n-grams of the references counted anew, PTB tokens of references and outputs by two Java processes,
            METEOR by a Java process of its own, ROUGE-L and CIDEr by pycocoevalcap
    dart    BLEU, NLTK tokens of everything, METEOR by a Java process of its own, TER by pyter for every reference

It is favoured: measure_scores.py counts the references' n-grams ten times, here once. `loda` scores the same systems in
one process; its first system pays for the tokens of the references and the start of METEOR. The scores are compared.
Without the reference data the texts are made ones, of as many instances as E2E's test set has.
"""

import math
import os
import random
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

import nltk

from benchmarks.report import Row, begin, finish, parser
from benchmarks.timing import timed
from benchmarks.workload import reference_data
from eval.score import DEFAULT_METRICS, check_metrics, score
from eval.score.corpus import Corpus
from eval.score.text_files import read_corpus
from eval.score.tokenizers import java, mteval


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("scoring", "Scoring systems against a re-enactment of the official scripts.")
    options.add_argument("--protocol", default="e2e", choices=["e2e", "dart"])
    options.add_argument("--systems", type=int, default=3, help="how many systems are scored one after another")
    options.add_argument("--instances", type=int, default=None, help="only so many of each system's outputs")
    options.add_argument("--without-meteor", action="store_true", help="leave out METEOR, whose Java takes its time")
    arguments = options.parse_args(argv)
    metrics = [m for m in DEFAULT_METRICS[arguments.protocol] if m != "meteor" or not arguments.without_meteor]
    started = begin(arguments)
    data = reference_data()
    if data is not None:
        nltk.data.path.append(str(data / "nltk_data"))
    check_metrics(arguments.protocol, metrics)
    systems, source = corpora(arguments.protocol, arguments.systems, arguments.instances)
    official, ours = [], []
    for corpus in systems:  # in turns
        seconds, theirs = timed(partial(_official, corpus, metrics))
        official.append(seconds)
        seconds, found = timed(partial(score, corpus, metrics))
        ours.append(seconds)
        _compare(theirs, found)
    further = sum(ours[1:]) / max(1, len(ours) - 1)
    mean = sum(official) / len(official)
    lines = [
        Row("official, each system", mean, note=f"{len(systems[0].hypotheses)} {source}"),
        Row("loda, the first system", ours[0], mean / ours[0], "faster", "Java and the references' tokens included"),
    ]
    if len(ours) > 1:
        lines.append(Row("loda, each further system", further, mean / further, "faster"))
        lines.append(Row("loda, all systems", sum(ours), sum(official) / sum(ours), "faster", f"{len(ours)} systems"))
    finish(f"scoring_{arguments.protocol}", arguments, started, lines, {"official": official, "loda": ours})


def corpora(protocol: str, count: int, instances: int | None) -> tuple[list[Corpus], str]:
    """Systems that are scored against the same references: those of the reference data, or made ones."""
    data = reference_data()
    folder = data and data.parent / "goldens" / "metrics" / protocol
    if folder is None or not folder.is_dir():
        return _made(protocol, count, instances or 630), "made outputs"
    if protocol == "e2e":
        files = [(folder / "references.txt", path) for path in sorted((folder / "outputs").glob("*.txt"))]
    else:
        files = [(path / "reference", path / "hypothesis") for path in sorted(folder.iterdir())] * count
    read = [read_corpus(protocol, *pair) for pair in files[:count]]
    return [
        Corpus(protocol, c.hypotheses[:instances], c.references[:instances]) for c in read
    ], "outputs of real systems"


def _made(protocol: str, count: int, instances: int) -> list[Corpus]:
    generator = random.Random(0)
    words = [f"w{i}" for i in range(300)]

    def text() -> str:
        return " ".join(generator.choices(words, k=20)) + " ."

    references = tuple(tuple(text() for _ in range(7)) for _ in range(instances))
    # Two thirds of a reference, so that every n-gram order has matches.
    return [
        Corpus(protocol, tuple(group[0][:60] + text()[:30] for group in references), references) for _ in range(count)
    ]


def _official(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    # The wrappers of pycocoevalcap start whatever is called `java`.
    os.environ["PATH"] = f"{java.runtime().parent}{os.pathsep}{os.environ['PATH']}"
    return _official_e2e(corpus, metrics) if corpus.protocol == "e2e" else _official_dart(corpus, metrics)


def _official_e2e(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

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
    import pyter
    from pycocoevalcap.meteor.meteor import Meteor
    from sacrebleu.metrics.bleu import BLEU

    streams = [list(stream) for stream in zip_longest(*corpus.references)]
    bleu = BLEU(tokenize="13a", smooth_method="none", force=True).corpus_score(corpus.hypotheses, streams).score
    references = [[nltk.word_tokenize(text) for text in group] for group in corpus.references]
    hypotheses = [nltk.word_tokenize(text) for text in corpus.hypotheses]
    joined = {i: [" ".join(words) for words in group] for i, group in enumerate(references)}
    outputs = {i: [" ".join(words)] for i, words in enumerate(hypotheses)}
    meteor = {"METEOR": float(Meteor().compute_score(joined, outputs)[0])} if "meteor" in metrics else {}
    rates = [min(pyter.ter(text, one) for one in group) for text, group in zip(hypotheses, references, strict=True)]
    return {"BLEU": bleu, "TER": sum(rates) / len(rates)} | meteor


def _compare(official: dict[str, float], ours: dict[str, float]) -> None:
    for name, value in official.items():
        if not math.isclose(value, ours[name], rel_tol=1e-9):
            raise RuntimeError(f"{name}: the re-enactment has {value}, this project {ours[name]}")


if __name__ == "__main__":
    main()
