"""Text files of references and hypotheses, in the two forms of the official scripts.

e2e             one references file: one reference per line, a blank line between two groups, a group
                being the references of one instance
webnlg, dart    PREFIX0, PREFIX1, ...: line i of file j is reference j of instance i, and an empty
                line a reference of length 0; PREFIX itself where there is only one reference
hypotheses      one per line

A final newline ends the last line and starts no new one. (GenerationEval takes it for one more, empty
instance, and its METEOR fails on that.)
"""

import re
from pathlib import Path

from eval.score.corpus import Corpus, check_protocol
from loda.errors import LodaError


def read_corpus(protocol: str, references: Path, hypotheses: Path) -> Corpus:
    """Read the files of one system.

    Args:
        protocol: `e2e`, `webnlg` or `dart`.
        references: the references file, or the common prefix of the numbered files.
        hypotheses: the outputs of the system.

    Raises:
        LodaError: a file is missing, empty or not UTF-8, a group has no reference, or the numbers
            of lines do not fit together.
    """
    check_protocol(protocol)
    if protocol == "e2e":
        groups = _read_groups(references)
        lines = [line.strip() for line in _trimmed(_read_lines(hypotheses))]
        expected = f"{len(groups)} groups of references (all references of one instance) in {references}"
    else:
        groups = _read_columns(references)
        lines = _trimmed(_read_lines(hypotheses))
        expected = f"{len(groups)} instances (lines of each file of references) in {references}*"
    if len(lines) != len(groups):
        raise LodaError(
            f"{hypotheses} holds {len(lines)} hypotheses for {expected}: write one hypothesis per line, an "
            "empty one as an empty line, and a newline after the last."
        )
    return Corpus(protocol, tuple(lines), groups)


def _read_groups(path: Path) -> tuple[tuple[str, ...], ...]:
    groups: list[list[str]] = [[]]
    for number, line in enumerate(_read_text(path).rstrip().split("\n"), start=1):
        if line.strip():
            groups[-1].append(line.strip())
        elif groups[-1]:
            groups.append([])
        else:
            raise LodaError(
                f"{path}, line {number}: group {len(groups)} has no reference; write exactly one "
                "blank line between two groups and none before the first."
            )
    return tuple(map(tuple, groups))


def _read_columns(prefix: Path) -> tuple[tuple[str, ...], ...]:
    paths = _column_paths(prefix)
    columns = [_read_lines(path) for path in paths]
    trimmed = [_trimmed(lines) for lines in columns]
    # Where files are written without a final newline, one whose last line is empty seems to have one.
    for candidate in (trimmed, columns):
        if len(set(map(len, candidate))) == 1:
            return tuple(zip(*candidate, strict=True))
    counts = ", ".join(f"{len(lines)} in {path.name}" for path, lines in zip(paths, trimmed, strict=True))
    raise LodaError(
        f"The reference files {prefix}* differ in their number of lines ({counts}): give each one line "
        "per instance, an empty one where a reference is missing."
    )


def _column_paths(prefix: Path) -> list[Path]:
    """PREFIX0, PREFIX1, ... without a gap, or PREFIX alone."""
    pattern = re.compile(re.escape(prefix.name) + r"(0|[1-9][0-9]*)")
    matches = [pattern.fullmatch(path.name) for path in prefix.parent.glob("*")]
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        return [prefix]
    for expected, number in enumerate(numbers):
        if number != expected:
            raise LodaError(f"{prefix}{expected} is missing although {prefix}{number} exists.")
    return [prefix.with_name(f"{prefix.name}{number}") for number in numbers]


def _read_lines(path: Path) -> list[str]:
    return _read_text(path).split("\n")


def _read_text(path: Path) -> str:
    try:
        # Not read_text, which would turn a lone carriage return into a line of its own.
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise LodaError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise LodaError(f"{path} is not UTF-8 (byte {error.start}): convert it first.") from None
    if not text:
        raise LodaError(f"{path} is empty: it must hold one text per line.")
    return text


def _trimmed(lines: list[str]) -> list[str]:
    """Without the empty string that split() leaves after a final newline."""
    return lines[:-1] if lines[-1] == "" else lines
