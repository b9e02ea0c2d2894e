"""Penn Treebank tokens as the E2E challenge uses them: METEOR, ROUGE-L and CIDEr see only these.

Stanford PTBTokenizer 3.4.1 with `-preserveLines -lowerCase`, then punctuation tokens dropped. The step is not
optional: on untokenised text the challenge baseline loses half of its CIDEr. One Java process per call, about
half a second.
"""

import subprocess
from collections.abc import Sequence

from eval.score.tokenizers import java
from loda.errors import LodaError

# Upper case as in the official scripts: the brackets come out lower-cased and so are never dropped.
_QUOTES = ("''", "'", "``", "`")
_BRACKETS = ("-LRB-", "-RRB-", "-LCB-", "-RCB-")
_DROPPED = frozenset((*_QUOTES, *_BRACKETS, ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_SECONDS = 600


def check() -> None:
    """Raise LodaError unless the tokeniser can be started."""
    java.command(java.CORENLP_JAR)


def identity() -> dict[str, str]:
    """Nothing but the packages: the jar is always the same."""
    return {}


def tokenise(texts: Sequence[str]) -> list[str]:
    """The tokens of each text, joined by single spaces; a text may come out empty."""
    # One line is one text for the tokeniser, and it breaks lines where str.splitlines does.
    lines = _run("\n".join(" ".join(text.splitlines()) for text in texts)).split("\n")
    if len(lines) != len(texts):
        raise LodaError(
            f"the PTB tokeniser returned {len(lines)} lines for {len(texts)} texts; remove markup "
            "that runs from one text into the next, such as an unclosed `<`"
        )
    return [" ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED) for line in lines]


def _run(lines: str) -> str:
    tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
    command = java.command(java.CORENLP_JAR, tokenizer, "-preserveLines", "-lowerCase")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=java.ENVIRONMENT) as process:
        _started.append(process)
        if is_stopped:
            process.kill()
        try:
            found, errors = process.communicate(lines.encode(), _SECONDS)
        except subprocess.TimeoutExpired:
            raise LodaError(f"the PTB tokeniser gave no answer within {_SECONDS} seconds; try again") from None
        finally:
            _started.remove(process)
            process.kill()
    if process.returncode != 0:
        last_words = errors.decode(errors="replace").strip()[-300:]
        raise LodaError(f"the PTB tokeniser ended with code {process.returncode}: {last_words}")
    return found.decode()


_started: list[subprocess.Popen[bytes]] = []
is_stopped = False


def stop() -> None:
    """Let every tokenisation that another thread waits for end at once, with an error, until `is_stopped` is unset."""
    global is_stopped
    is_stopped = True
    for process in _started:
        process.kill()
