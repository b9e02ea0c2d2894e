"""Penn Treebank tokens as the E2E challenge uses them: METEOR, ROUGE-L and CIDEr see only these.

Stanford PTBTokenizer 3.4.1 with `-preserveLines -lowerCase`, then 17 punctuation tokens dropped. The
step is not optional: on untokenised text the challenge baseline loses half of its CIDEr. One Java
process per call, about half a second; texts go in and out through pipes, nothing is written to disk.
"""

import subprocess
from collections.abc import Sequence

from eval.score.tokenizers import java
from loda.errors import LodaError

# Upper case as in the official scripts: the brackets come out lower-cased and so are never dropped.
_QUOTES = ("''", "'", "``", "`")
_BRACKETS = ("-LRB-", "-RRB-", "-LCB-", "-RCB-")
_DROPPED = frozenset((*_QUOTES, *_BRACKETS, ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_SECONDS = 300


def check() -> None:
    """Raise LodaError unless the tokeniser can be started."""
    java.check(java.CORENLP_JAR)


def tokenise(texts: Sequence[str]) -> list[str]:
    """The tokens of each text, joined by single spaces; a text may come out empty."""
    # One line is one text for the tokeniser, and it breaks lines where str.splitlines does.
    lines = "\n".join(" ".join(text.splitlines()) for text in texts)
    answers = _run(lines).split("\n")
    if len(answers) != len(texts):
        raise LodaError(
            f"The PTB tokeniser returned {len(answers)} lines for {len(texts)} texts: remove markup "
            "that runs from one text into the next, such as an unclosed `<`."
        )
    return [_without_punctuation(answer) for answer in answers]


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED)


def _run(lines: str) -> str:
    tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
    command = java.command(java.CORENLP_JAR, tokenizer, "-preserveLines", "-lowerCase")
    try:
        done = subprocess.run(command, input=lines.encode(), capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise LodaError(f"The PTB tokeniser gave no answer within {_SECONDS} seconds.") from None
    if done.returncode != 0:
        last_words = done.stderr.decode(errors="replace").strip()[-300:]
        raise LodaError(f"The PTB tokeniser ended with code {done.returncode}: {last_words}")
    return done.stdout.decode()
