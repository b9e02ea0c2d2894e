"""Text files of references and hypotheses, in the two forms of the official scripts.

e2e             one file of references, one on a line; a blank line ends the group of one instance, and without
                any each line is the only reference of its instance; or .tsv, .csv with a header
webnlg, dart    PREFIX0, PREFIX1, ...: line i of file j is reference j of instance i, and may be empty;
                PREFIX itself where there is only one reference
hypotheses      one on a line; for e2e also .tsv, .csv

A final newline ends the last line and starts no new one. (GenerationEval takes it for one more, empty
instance, on which its METEOR fails.) e2e-metrics ends lines where str.splitlines does and strips them; GenerationEval
ends them at newlines alone.
"""

import csv
import re
from collections import defaultdict
from itertools import groupby
from pathlib import Path

from eval.score.corpus import Corpus
from loda.errors import LodaError

# How a column of a table begins, in any case, and what it holds.
SOURCE = r"mr|src|source|meaning|da|dial(ogue)?[_ .-]act"
OUTPUT = r"out|ref|sys"
REFERENCE = r"ref|trg|tgt|target|human"


def read_corpus(scorer: str, references: Path, hypotheses: Path) -> Corpus:
    """Read the files of one system; `references` is a file, or the common prefix of the numbered files."""
    if scorer == "e2e":
        lines, groups = _read_e2e(references, hypotheses)
        expected = f"{len(groups)} groups of references (all references of one instance) in {references}"
    else:
        lines, groups = _trimmed(_read_lines(hypotheses)), _read_columns(references)
        expected = f"{len(groups)} instances (lines of each file of references) in {references}*"
    if len(lines) != len(groups):
        raise LodaError(
            f"{hypotheses} holds {len(lines)} hypotheses for {expected}; write one hypothesis per line, an "
            "empty one as an empty line, and a newline after the last"
        )
    return Corpus(scorer, lines, groups)


def _read_e2e(references: Path, hypotheses: Path) -> tuple[list[str], list[list[str]]]:
    if _is_table(hypotheses):
        sources, lines = _read_table(hypotheses, OUTPUT)
    else:
        sources, lines = [], _read_stripped(hypotheses)
    if _is_table(references):
        return lines, _group(references, sources)
    groups = _read_groups(references)
    return lines, [[text] for text in groups[0]] if len(groups) == 1 < len(lines) else groups


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".tsv", ".csv")


def _read_table(path: Path, wanted: str) -> tuple[list[str], list[str]]:
    """The columns SOURCE and `wanted` of a table with a header; blank lines do not count."""
    lines = [line for line in _read_stripped(path) if line]
    lines[:1] = [line.replace("\ufeff", "") for line in lines[:1]]
    for broken, whole in (("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é")):
        lines = [line.replace(broken, whole) for line in lines]
    try:
        rows = list(csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ","))
    except csv.Error as error:
        raise LodaError(f"{path} is not a table ({error}); are its quotes closed?") from error
    columns = []
    for pattern in (SOURCE, wanted):
        found = [i for i, name in enumerate(rows[0] if rows else []) if re.match(pattern, name, re.IGNORECASE)]
        if len(found) != 1:
            raise LodaError(
                f"{path} has {len(found)} columns whose name begins with {pattern.replace('|', ', ')}; "
                "write a header that names one, such as mr and ref, or mr and output"
            )
        columns.append(found[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise LodaError(
                f"{path}, row {number}: {len(row)} values for {len(rows[0])} columns; quote what holds commas"
            )
    sources, texts = ([row[column] for row in rows[1:]] for column in columns)
    return sources, texts


def _group(path: Path, wanted: list[str]) -> list[list[str]]:
    """The references of each source of the outputs, or, where those have none, of each run of one source."""
    pairs = list(zip(*_read_table(path, REFERENCE), strict=True))
    if not any(wanted):
        return [[text for _, text in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]
    groups = defaultdict(list)
    for source, text in pairs:
        groups[source].append(text)
    if unknown := [source for source in wanted if source not in groups]:
        raise LodaError(f"{path} has no reference for {unknown[0]!r}; write the sources as in the file of hypotheses")
    return [groups[source] for source in wanted]


def _read_stripped(path: Path) -> list[str]:
    return [line.strip() for line in _read_text(path).splitlines()]


def _read_groups(path: Path) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    lines = _read_stripped(path)
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
    """PREFIX, or PREFIX0, PREFIX1, ... without a gap."""
    if prefix.is_file():
        first = prefix.with_name(f"{prefix.name}0")
        if first.exists():
            raise LodaError(f"{prefix} can mean itself, or {first.name} and what follows; rename one of the two")
        return [prefix]
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
    return _read_text(path).split("\n")


def _read_text(path: Path) -> str:
    try:
        # read_text would turn a single carriage return into a line break.
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise LodaError(f"{path} cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError as error:
        raise LodaError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from None
    if not text:
        raise LodaError(f"{path} is empty; write one text per line")
    return text


def _trimmed(lines: list[str]) -> list[str]:
    """Without the empty string that split() leaves after a final newline."""
    return lines[:-1] if lines[-1] == "" else lines
