"""Each benchmark runs at its smallest size and writes its file. No time is asserted."""

import json

import pytest

from benchmarks import __main__ as benchmarks
from loda.errors import LodaError

SIZES = {"model": "gpt2_tiny", "repeats": 1, "batches": 1, "contexts": 1, "tokens": 2, "instances": 5}
SMALLEST = [f"--{option}={value}" for option, value in SIZES.items()]


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    """The fewest places of growth, the toy base, and no METEOR, whose Java takes its time."""
    metrics = {"e2e": ("bleu", "nist", "cider"), "dart": ("bleu", "ter")}
    monkeypatch.setattr(benchmarks.scoring, "DEFAULT_METRICS", metrics)
    for name, places in {"LENGTHS": (8, 16), "CONTEXTS": (1,), "RANKS": (2,), "RECORDS": (2,)}.items():
        monkeypatch.setattr(benchmarks.growth, name, places)
    toy = ["model=toy", "dataset=toy", "decode=beam10", "adapter=loda_plus", "trainer.max_steps=1"]
    monkeypatch.setattr(benchmarks.decoding_real, "SETTINGS", toy)
    monkeypatch.setattr(benchmarks.decoding_real, "ROWS", (1, 8))
    monkeypatch.setattr(benchmarks.train_step, "BASE", ["model=toy"])


def run(tmp_path, name):
    variants = ["--variants", *benchmarks.train_step.VARIANTS] if name == "train_step" else []  # the slow ones too
    return benchmarks.main([name, *SMALLEST, *variants, "--outputs", str(tmp_path)])


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_it_runs(name, tmp_path, capsys):
    assert run(tmp_path, name) == 0
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"]["cores"] > 0
    losses = [row["loss"] for row in written["rows"] if row.get("loss")]
    count = {"train_step": 5, "train_step_real": 3}.get(name, 0)  # hf_peft has none
    assert losses == pytest.approx(losses[:1] * count, rel=1e-6)
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in written["rows"])
    assert "ANOTHER" not in printed  # the reference's text is this project's
    assert (tmp_path / "growth.png").exists() == (name == "growth")


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(LodaError, match="fast is not a benchmark; there are train_step"):
        benchmarks.main(["fast"])
