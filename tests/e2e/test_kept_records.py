"""Records that the repository keeps: a table prints from them as from outputs, and altered ones are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eval.results import collect, keep, read_statistics
from eval.table import main as print_table
from loda.errors import LodaError
from scripts.results_page import page
from scripts.run_table import main as run_table
from tests.conftest import REPOSITORY

TABLE = ["table1", "--profile", "toy"]
SHORT = ["trainer.max_steps=2", "decode=greedy", "trainer.threads=1"]
ROWS = ["--rows", "LoRA", "LoDA+"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    assert run_table([*TABLE, *SHORT, *ROWS, "--results", str(root / "results"), f"outputs={root / 'outputs'}"]) == 0
    return root / "outputs", root / "results"


def printed(folder, capsys, *options):
    capsys.readouterr()
    print_table([*TABLE, *SHORT, "--outputs", str(folder), "--format", "json", *options])
    return json.loads(capsys.readouterr().out)


def test_tables_and_intervals_are_the_same_from_both_folders(folders, capsys):
    outputs, results = (printed(folder, capsys, "--against", "LoRA") for folder in folders)
    assert any(row["cells"]["BLEU"]["against"] is not None for row in results["rows"])
    assert results["rows"] == outputs["rows"]


def test_what_is_kept_is_not_run_again(folders, tmp_path, capsys):
    capsys.readouterr()
    again = [*TABLE, *SHORT, *ROWS, "--results", str(folders[1]), f"outputs={tmp_path / 'elsewhere'}"]
    assert run_table(again) == 0
    assert "4 of 4 runs are done, 0 to do" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere" / "runs").exists()


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(LodaError, match="table1 has no row 'LoDA-'; choose among "):
        run_table([*TABLE, "--rows", "LoDA-"])


def test_records_say_nothing_of_the_folder_and_hold_no_text(folders):
    outputs, results = folders
    texts = "".join(path.read_text() for path in results.glob("*.json"))
    assert str(outputs) not in texts
    assert "Phoenix" not in texts
    (record, *_), (kept, *_) = collect(outputs), collect(results)
    assert replace(kept, settings=record.settings) == record
    for name, values in read_statistics(outputs, record).items():
        np.testing.assert_array_equal(read_statistics(results, kept)[name], values)


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_an_altered_record_is_refused(folders, tmp_path, suffix, capsys):
    outputs, _ = folders
    record = collect(outputs)[0]
    keep(record, read_statistics(outputs, record), tmp_path)
    (path,) = tmp_path.glob(f"*.{suffix}")
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    if suffix == "json":
        assert collect(tmp_path) == []
        assert "was changed after it was written" in capsys.readouterr().err
    with pytest.raises(LodaError, match="was changed after it was written"):
        read_statistics(tmp_path, record)


def test_the_page_of_results_says_what_the_records_say(tmp_path):
    text = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    assert page(text, REPOSITORY / "results", tmp_path) == text
