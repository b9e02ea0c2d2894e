"""Score text files: `python -m eval.score`.

    python -m eval.score --scorer e2e  --refs refs.txt  --hyps hyps.txt --json scores.json
    python -m eval.score --scorer dart --refs reference --hyps hypothesis      # reference0, reference1, ...

All input is checked before the first metric starts. A mistake ends with one line on stderr, exit code 2 and no JSON.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from eval.score import DEFAULT_METRICS, Corpus, score
from eval.score.text_files import read_corpus
from loda.atomic import check_writable, write_text
from loda.lab.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    corpus = read_corpus(options.scorer, options.refs, options.hyps)
    if options.json:
        check_writable(options.json)
    scores = score(corpus, options.metrics or DEFAULT_METRICS[options.scorer])
    print(_readable(corpus, scores))
    if options.json:
        write_text(options.json, json.dumps(scores, indent=2) + "\n")
    return 0


def _readable(corpus: Corpus, scores: dict[str, float]) -> str:
    references = sum(map(len, corpus.references))
    width = max(map(len, scores))
    return "\n".join(
        [
            f"{corpus.scorer}: {len(corpus.hypotheses)} hypotheses, {references} references",
            *(f"{name:<{width}} {value:9.4f}" for name, value in scores.items()),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description="Score a file of hypotheses as the official scripts of E2E, DART and WebNLG do.",
    )
    parser.add_argument("--scorer", "--protocol", required=True, choices=list(DEFAULT_METRICS))
    parser.add_argument(
        "--refs",
        required=True,
        type=Path,
        help="e2e: file with a blank line between the references of two instances, or .tsv, .csv; "
        "otherwise: prefix of the files reference0, reference1, ...",
    )
    parser.add_argument("--hyps", required=True, type=Path, help="file with one hypothesis per line")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    parser.add_argument("--metrics", nargs="+", help="metrics to compute instead of the scorer's own, such as bleu ter")
    return parser


if __name__ == "__main__":
    run_command(main)
