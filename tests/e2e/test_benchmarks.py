"""Each benchmark runs at a tiny size, writes its file and says what machine it ran on. No time is asserted."""

import json

import pytest

from benchmarks import decoding, growth, inference, scoring, start_up, train_step
from benchmarks.workload import reference_data

TINY = ["--repeats", "1"]
ARGUMENTS = {
    "train_step": (train_step, ["--model", "gpt2_tiny", "--batches", "1", "--variants", "fast"]),
    "decoding": (decoding, ["--model", "gpt2_tiny", "--contexts", "2", "--beams", "2", "--optimize"]),
    "inference": (inference, ["--width", "320", "--tokens", "2"]),
    "start_up": (start_up, ["--model", "gpt2_tiny", "--commands", "python -c 'import loda'"]),
    "scoring_e2e": (scoring, ["--systems", "1", "--instances", "5", "--without-meteor"]),
    "scoring_dart": (scoring, ["--protocol", "dart", "--systems", "1", "--instances", "5", "--without-meteor"]),
    "growth": (growth, ["--model", "gpt2_tiny", "--width", "16"]),
}


NEEDS_DATA = pytest.mark.skipif(reference_data() is None, reason="needs the NLTK data of ../shared or LODA_SHARED")


@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDS_DATA) if n == "scoring_dart" else n for n in ARGUMENTS])
def test_it_runs(name, tmp_path, capsys):
    module, arguments = ARGUMENTS[name]
    module.main([*arguments, *TINY, "--outputs", str(tmp_path)])
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"]["cores"] > 0
    assert written["rows"]
    assert all(row["seconds"] is None or row["seconds"] > 0 for row in written["rows"])
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in written["rows"])
