"""Text files of references and hypotheses, in the two forms of the official scripts.

e2e             one file of references, one on a line; a blank line ends the group of one instance
webnlg, dart    PREFIX0, PREFIX1, ...: line i of file j is reference j of instance i, and may be empty;
                PREFIX itself where there is only one reference
hypotheses      one on a line

A final newline ends the last line and starts no new one. (GenerationEval takes it for one more, empty
instance, on which its METEOR fails.)
"""

import re
from pathlib import Path

from eval.score.corpus import Corpus
from loda.errors import LodaError


def read_corpus(scorer: str, references: Path, hypotheses: Path) -> Corpus:
    """Read the files of one system; `references` is a file, or the common prefix of the numbered files."""
    lines = _trimmed(_read_lines(hypotheses))
    if scorer == "e2e":
        groups = _read_groups(references)
        lines = [line.strip() for line in lines]
        expected = f"{len(groups)} groups of references (all references of one instance) in {references}"
    else:
        groups = _read_columns(references)
        expected = f"{len(groups)} instances (lines of each file of references) in {references}*"
    if len(lines) != len(groups):
        raise LodaError(
            f"{hypotheses} holds {len(lines)} hypotheses for {expected}; write one hypothesis per line, an "
            "empty one as an empty line, and a newline after the last"
        )
    return Corpus(scorer, lines, groups)


def _read_groups(path: Path) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    lines = [line.strip() for line in _read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line:
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
        else:
            raise LodaError(
                f"{path}, line {number}: group {len(groups)} has no reference; write exactly one "
                "blank line between two groups and none before the first"
            )
    return groups


def _read_columns(prefix: Path) -> list[list[str]]:
    paths = _column_paths(prefix)
    columns = [_read_lines(path) for path in paths]
    trimmed = [_trimmed(lines) for lines in columns]
    # In files without final newlines, an empty last line looks like one.
    for candidate in (trimmed, columns):
        if len(set(map(len, candidate))) == 1:
            return [list(group) for group in zip(*candidate, strict=True)]
    counts = ", ".join(f"{len(lines)} in {path.name}" for path, lines in zip(paths, trimmed, strict=True))
    raise LodaError(
        f"the reference files {prefix}* differ in their number of lines ({counts}); give each one line "
        "per instance, an empty one where a reference is missing"
    )


def _column_paths(prefix: Path) -> list[Path]:
    """PREFIX0, PREFIX1, ... without a gap, or only PREFIX."""
    pattern = re.compile(re.escape(prefix.name) + r"(0|[1-9][0-9]*)")
    matches = [pattern.fullmatch(path.name) for path in prefix.parent.glob("*")]
    numbers = sorted(int(match[1]) for match in matches if match)
    for expected, number in enumerate(numbers):
        if number != expected:
            raise LodaError(
                f"{prefix}{expected} is missing, although {prefix}{number} exists; number the files without a gap"
            )
    return [prefix.with_name(f"{prefix.name}{number}") for number in numbers] or [prefix]


def _read_lines(path: Path) -> list[str]:
    try:
        # read_text would turn a single carriage return into a line break.
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise LodaError(f"{path} cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError as error:
        raise LodaError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from None
    if not text:
        raise LodaError(f"{path} is empty; write one text per line")
    return text.split("\n")


def _trimmed(lines: list[str]) -> list[str]:
    """Without the empty string that split() leaves after a final newline."""
    return lines[:-1] if lines[-1] == "" else lines
