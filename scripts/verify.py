"""Has anything been altered? Check every file below an outputs folder against the hashes it was written with.

    python -m scripts.verify outputs/

Names every file that is damaged, and says how many are sound, how many have no hash, because an earlier version wrote
them, and what killed processes left behind. Nothing is changed. Exit code 1 if anything is damaged.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from eval.decode.stage import read_texts
from eval.results import read_record
from loda.atomic import PARTIAL, sha256
from loda.checkpoint import CONFIG_FILE, check_saved
from loda.errors import LodaError
from loda.lab.run import STATISTICS, Outputs, RunDir
from loda.sealed import check_folder, is_sealed, read_json


@dataclass
class Findings:
    """What a look at every artefact of an outputs folder found."""

    sound: int = 0
    without_hash: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    left_behind: list[Path] = field(default_factory=list)

    def look(self, path: Path, check: Callable[[], bool]) -> None:
        """Count the artefact at `path`; `check` raises if it is damaged and says whether it has a hash."""
        try:
            has_hash = check()
        except (LodaError, OSError, KeyError) as error:
            self.damaged.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            return
        if has_hash:
            self.sound += 1
        else:
            self.without_hash.append(path)


def verify(outputs: Outputs) -> Findings:
    """Look at everything below an outputs folder."""
    findings = Findings()
    for cache in (outputs.data, outputs.frozen):
        for folder in sorted(cache.glob("[!.]*/")):
            findings.look(folder, partial(_cache, folder))
    for folder in sorted(outputs.runs.glob("*/")):
        for path, check in _checks(RunDir(folder)):
            findings.look(path, check)
    findings.left_behind = sorted(outputs.root.rglob(f".*{PARTIAL}"))
    return findings


def _checks(run: RunDir) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """Every artefact of a run with what checks it."""
    for state in sorted(run.state.glob("step-*")):
        yield state, partial(_cache, state)
    others = (path for path in run.path.rglob("*.json") if path != run.running and run.state not in path.parents)
    for path in sorted(others):
        yield path, partial(_json, path)
    for config in sorted(run.path.glob(f"checkpoints/*/{CONFIG_FILE}")):
        yield config.parent, partial(check_saved, config.parent)
    if run.trained.exists():
        yield run.trained, partial(_checkpoints, run)
    for path in sorted(run.path.glob("decode/**/decode.json")):
        yield path.with_name("predictions.jsonl"), partial(_predictions, path.with_name("predictions.jsonl"))
    for path in sorted(run.path.glob("checkpoints/*/predictions.jsonl")):
        yield path, partial(_copied_predictions, path)
    for path in run.all_scores:
        yield path.with_name(STATISTICS), partial(_statistics, path)


def _cache(folder: Path) -> bool:
    check_folder(folder)
    return True


def _json(path: Path) -> bool:
    read_json(path)
    return is_sealed(path)


def _checkpoints(run: RunDir) -> bool:
    """Whether the checkpoints are those that the training saved."""
    saved: dict[str, str] = read_json(run.trained).get("checkpoints", {})
    for label, expected in saved.items():
        if run.adapter_hash(label) != expected:
            raise LodaError(f"{run.checkpoint(label) / CONFIG_FILE} is not what the training saved")
    return bool(saved)


def _predictions(path: Path) -> bool:
    """Whether the predictions are those that were decoded, from the adapter that is there."""
    read_texts(path)
    run, label = RunDir(path.parents[4]), path.parents[1].name
    decoded = read_json(path.with_name("decode.json")).get("adapter")
    if decoded not in (None, run.adapter_hash(label)):
        raise LodaError(
            f"{path} was decoded from another adapter than {run.checkpoint(label)} holds; repeat the command"
        )
    return True


def _copied_predictions(path: Path) -> bool:
    """Whether the predictions beside a model card are those of the scores there."""
    expected = read_json(path.with_name("scores.json"))["hashes"].get("predictions")
    if expected not in (None, sha256(path)):
        raise LodaError(f"{path} is not what was scored; restore it from a copy")
    return expected is not None


def _statistics(scores: Path) -> bool:
    path, expected = scores.with_name(STATISTICS), read_record(scores).hashes.get("statistics")
    if expected is not None and sha256(path) != expected:
        raise LodaError(f"{path} is not what the scores were made from; delete {scores} to score again")
    return expected is not None


def report(findings: Findings) -> str:
    """What is wrong, one line each, and the counts."""
    lines = [f"damaged: {message}" for message in findings.damaged]
    lines += [f"left by a killed process, of no use: {path}" for path in findings.left_behind]
    lines += [f"without a hash, from an earlier version: {path}" for path in findings.without_hash]
    return "\n".join(
        [
            *lines,
            f"{findings.sound} artefacts are as they were written, {len(findings.damaged)} are damaged, "
            f"{len(findings.without_hash)} have no hash, {len(findings.left_behind)} were left behind",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.verify", description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="folder that holds runs/")
    outputs = Outputs(parser.parse_args(arguments).outputs)
    if not outputs.root.is_dir():
        print(f"error: {outputs.root} is not a folder; name the outputs folder", file=sys.stderr)
        return 2
    findings = verify(outputs)
    print(report(findings))
    return 1 if findings.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
