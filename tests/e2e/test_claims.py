"""`make claims`: docs/claims.md is what it writes, and only what was found as expected passes."""

import shutil
from dataclasses import replace

import pytest
import torch

from loda.lab.base.files import SHIPPED
from scripts import claim_checks, claims
from scripts.claims import judge
from scripts.paper_claims import AT_LEAST, EXACT, LESS, Claim, sections, within
from tests.library.models import wide_gpt2

CLAIMS = {claim.key: claim for group in sections().values() for claim in group}


def rows(document):
    """The lines of claims by claim and command, without those that were skipped where they were written."""
    cells = [line.split(" | ") for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {(line[0], line[-2].startswith("**NOT RUN**")): line for line in cells if "**SKIPPED**" not in line[-2]}


def test_the_document_is_what_the_command_writes(tmp_path, capsys):
    assert claims.main(["--document", str(tmp_path / "claims.md")]) == 0
    assert "FAIL" not in capsys.readouterr().out
    found, kept = rows(tmp_path / "claims.md"), rows(claims.DOCUMENT)
    assert len(found) > 40
    for key in found.keys() & kept.keys():
        assert found[key] == kept[key]
    # Besides, a line is missing only where the other machine had what the check needs.
    missing = {key[0].removeprefix("| ") for key in found.keys() ^ kept.keys()}
    assert missing <= {CLAIMS[key].text for key in ("energy", "e2e", "dart")}


def test_a_second_run_leaves_the_document_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "sections", lambda settings: {"Parameters": [CLAIMS["seventh"]]})
    arguments = ["--document", str(tmp_path / "claims.md")]
    assert [claims.main(arguments), claims.main(arguments)] == [0, 0]
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2::3]] == ["written", "unchanged"]


@pytest.mark.parametrize(
    ("key", "table", "change"),
    [
        ("macs", "table2", {"macs": "76.0M"}),
        ("table2-own", "table2", {"parameters": "0.39M"}),
        ("deviation", "table2", {"published": "47.3±.1 36.0±.0 0.480±.003"}),
        ("e2e-full-rank", "table1", {"published": "69.3±.3 8.83±.03 46.6±.1 71.6±.1 2.53±.01"}),
    ],
)
def test_another_published_value_fails(key, table, change, monkeypatch, tmp_path, capsys):
    spec = claim_checks.read(table)
    changed = [replace(row, **change) if (row.label, row.approx) == ("LoDA", "No") else row for row in spec.rows]
    monkeypatch.setattr(claim_checks, "read", lambda name: replace(spec, rows=tuple(changed)))
    monkeypatch.setattr(claims, "sections", lambda settings: {"Tables": [CLAIMS[key]]})
    assert claims.main(["--document", str(tmp_path / "claims.md")]) == 1
    assert capsys.readouterr().out.startswith("FAIL ")
    assert "**FAIL**" in (tmp_path / "claims.md").read_text()


def test_a_difference_is_known_or_a_failure():
    known = Claim("", "", "126", lambda: "128", known="128", why="a slip")
    assert judge(known).status == "DIFFERS"
    assert judge(replace(known, known="129")).status == "FAIL"


def test_what_was_skipped_or_not_run_is_not_verified(monkeypatch):
    monkeypatch.setattr(claim_checks, "try_to_load_from_cache", lambda *names, revision: None)
    skipped, not_run = judge(CLAIMS["energy"]), judge(CLAIMS["table1"])
    assert (skipped.status, not_run.status) == ("SKIPPED", "NOT RUN")
    assert "give model.path=FOLDER" in skipped.found
    for verdict in (skipped, not_run):
        (line,) = [line for line in claims.markdown({"": [verdict]}).splitlines() if verdict.claim.text in line]
        assert line.endswith(" | - |")
        assert "PASS" not in line


@pytest.mark.parametrize(("entries", "status"), [(1, "PASS"), (None, "FAIL")])
def test_the_energy_is_that_of_a_local_folder(entries, status, tmp_path):
    """One weight keeps all energy; of the model's normal ones 40 % keep about three quarters."""
    model = wide_gpt2()
    if entries is not None:
        with torch.no_grad():
            model.transformer.h[0].attn.c_attn.weight.view(-1)[entries:] = 0
    model.save_pretrained(tmp_path)
    shutil.copy(SHIPPED / "tokenizer.json", tmp_path)
    given = [f"model.path={tmp_path}", "model.parameters=null", "model.shape=null"]
    (claim,) = [claim for group in sections(given).values() for claim in group if claim.key == "energy"]
    assert judge(claim).status == status


def test_the_examples_of_e2e_are_counted(shared, monkeypatch):
    monkeypatch.setenv("LODA_CACHE", str(shared / "data"))
    assert judge(CLAIMS["e2e"]).status == "PASS"


@pytest.mark.parametrize(
    ("tolerance", "expected", "found", "accepted"),
    [
        (EXACT, "1/7", "1/7.0", False),
        (within(0.1), "350 GB, 35 MB", "349 GB, 38 MB", True),
        (within(0.1), "350 GB, 35 MB", "349 GB, 39 MB", False),
        (within(0.1), "42,000", "42,061, 1", False),
        (AT_LEAST, "93%", "93.0%", True),
        (AT_LEAST, "93%", "92.9%", False),
        (LESS, "75.5M", "75.5M", False),
        (LESS, "75.5M", "69.4M", True),
    ],
)
def test_tolerances_compare_number_by_number(tolerance, expected, found, accepted):
    assert tolerance.accepts(expected, found) is accepted
