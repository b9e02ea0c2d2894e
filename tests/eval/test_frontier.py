"""The frontier: timed decoding steps are joined with the records of their runs, and drawn."""

import json

import pytest

from eval.figures import frontier
from eval.results import collect
from eval.tables.fill import fill
from eval.tables.spec import read
from tests.conftest import REPOSITORY


def step(record, **changes):
    decode = record.hashes["decode"]
    return {"run": record.run, "decode": decode, "macs": 5e7, "seconds": 0.04, "bytes": 3e8} | changes


@pytest.fixture(scope="module")
def table():
    return fill(read("frontier"), "small", collect(REPOSITORY / "results"))


def test_steps_are_joined_by_run_and_decoding(table, tmp_path):
    lora, loda_plus = (row.records for row in table.rows[:2])
    others = [step(loda_plus[0], decode="of another decoding"), step(loda_plus[0], run="another run")]
    steps = tmp_path / frontier.STEPS
    steps.parent.mkdir()
    steps.write_text(json.dumps({"rows": [step(lora[0], macs=1e8, seconds=0.05), *others]}))
    (point,) = frontier.points(table, tmp_path).to_dict("records")
    mean = sum(record.scores["BLEU"] for record in lora) / len(lora)
    assert (point["Method"], point["M MACs per token"], point["ms per step"]) == ("LoRA", 100, 50)
    assert point["BLEU"] == pytest.approx(100 * mean)


def test_the_front_has_the_points_that_no_other_beats_in_both(table, tmp_path):
    steps = tmp_path / frontier.STEPS
    steps.parent.mkdir()
    found = [row.records[0] for row in table.rows[:3]]
    # The third, the worst by far in both scores, is on the front only where it is the cheapest.
    macs, seconds = (1e8, 2e8, 5e7), (0.01, 0.02, 0.03)
    rows = [step(record, macs=m, seconds=s) for record, m, s in zip(found, macs, seconds, strict=True)]
    steps.write_text(json.dumps({"rows": rows}))
    points = frontier.points(table, tmp_path)
    drawn = frontier.draw(points)
    fronts = [axes.lines[-1].get_xydata() for axes in drawn.axes[:2]]
    worst = points["BLEU"].min()
    assert [worst in front[:, 1] for front in fronts] == [True, False]
    assert all(points["BLEU"].max() == front[-1, 1] for front in fronts)  # and on to the right edge
