"""Check every claim of the paper that needs no training, and write docs/claims.md.

    python -m scripts claims
    python -m scripts claims model.path=FOLDER        # with GPT2-medium's weights, for Figure 2

PASS: what was found is what the paper says, within the tolerance. DIFFERS: it is not, but exactly the difference that
is known and explained. FAIL: anything else; exit code 1. SKIPPED: something is not on this machine. NOT RUN: needs
a GPU.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import loda
from loda.atomic import write_text
from loda.lab.command_line import run_command
from scripts.claim_checks import NotAtHandError
from scripts.paper_claims import Claim, sections

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "claims.md"
COLUMNS = ("claim", "command", "cost", "expected", "tolerance", "what we found", "last verified by")
INTRODUCTION = """\
Written by `make claims`, not by hand. At every `make test`, `tests/e2e/test_claims.py` checks again what the machine
has everything for, and compares the lines. Each line is a claim of the paper (TR2025-130). Statements about other
papers and words without a measure are left out.

- **PASS**: found as the paper says, within the tolerance.
- **DIFFERS**: not as the paper says; the difference is known and explained.
- **FAIL**: anything else.
- **SKIPPED**: what the check needs was not on the machine that wrote this page.
- **NOT RUN**: needs training or decoding on a GPU. Nothing here says that such a claim holds. Where there
  are runs of a few hundred updates on a smaller model, their result is added; it neither confirms nor refutes it."""
Status = Literal["PASS", "DIFFERS", "FAIL", "SKIPPED", "NOT RUN"]


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    status: Status
    found: str

    @property
    def is_verified(self) -> bool:
        return self.status in ("PASS", "DIFFERS")


def judge(claim: Claim) -> Verdict:
    if claim.check is None:
        return Verdict(claim, "NOT RUN", claim.at_small_scale() if claim.at_small_scale else "")
    try:
        found = claim.check()
    except NotAtHandError as missing:
        return Verdict(claim, "SKIPPED", str(missing))
    if claim.tolerance.accepts(claim.expected, found):
        return Verdict(claim, "PASS", found)
    if found == claim.known:
        return Verdict(claim, "DIFFERS", f"{found} ({claim.why})")
    return Verdict(claim, "FAIL", found)


def markdown(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    parts = ["# The claims of the paper", INTRODUCTION]
    for title, lines in verdicts.items():
        table = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, lines)]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(cells)} |" for cells in table)]
    return "\n\n".join(parts) + "\n"


def _cells(verdict: Verdict) -> tuple[str, ...]:
    claim = verdict.claim
    found = f"**{verdict.status}**" + f": {verdict.found}" * bool(verdict.found)
    verified = f"`make claims`, loda {loda.__version__}" if verdict.is_verified else "-"
    command = claim.command if "`" in claim.command else f"`{claim.command}`"
    cells = (claim.text, command, claim.cost, claim.expected, claim.tolerance.text, found, verified)
    return tuple(cell.replace("|", "\\|") for cell in cells)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts claims", description=__doc__.splitlines()[0])
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="the page to write; docs/claims.md")
    parser.add_argument("settings", nargs="*", help="overrides, such as model.path=FOLDER for Figure 2")
    options = parser.parse_intermixed_args(arguments)
    verdicts: dict[str, list[Verdict]] = {}
    for title, claims in sections(options.settings).items():
        verdicts[title] = []
        for claim in claims:
            verdict = judge(claim)
            verdicts[title].append(verdict)
            print(f"{verdict.status:8} {claim.key:16} {verdict.found}".rstrip(), flush=True)
    text = markdown(verdicts)
    is_new = not options.document.is_file() or options.document.read_text(encoding="utf-8") != text
    if is_new:
        write_text(options.document, text)
    count = Counter(verdict.status for lines in verdicts.values() for verdict in lines)
    print(", ".join(f"{number} {status}" for status, number in count.items()))
    print(f"{options.document}: {'written' if is_new else 'unchanged'}")
    return 1 if count["FAIL"] else 0


if __name__ == "__main__":
    run_command(main)
