"""One process composes, parses, loads and hashes everything once."""

from collections import Counter

import pytest

import loda.checkpoint
import loda.lab.base.model
import loda.lab.data.source
import loda.lab.data.toy
from loda.lab.config import compose
from loda.lab.data import _parse
from tests.conftest import run_experiment

SHORT = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "optim.epochs=2", "optim.checkpoint_epochs=[1]",
         "decode.num_beams=1", "decode.max_new_tokens=4", "dataset.metrics=[bleu]", "seed=0"]  # fmt: skip


@pytest.fixture
def counts(monkeypatch) -> Counter[str]:
    """How often each of the expensive things is done."""
    found: Counter[str] = Counter()

    def count(target, name: str, label) -> None:
        real = getattr(target, name)

        def counted(*arguments, **options):
            found[label(*arguments) if callable(label) else label] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(target, name, counted)

    loda.lab.base.model.get_base.cache_clear()
    loda.lab.data.source._hash.cache_clear()
    _parse.cache_clear()
    count(loda.lab.base.model, "load_base", "base loaded")
    count(loda.lab.base.model, "fingerprint", "weights hashed")
    count(loda.checkpoint, "fingerprint", "weights hashed")
    count(loda.lab.data.toy, "pairs", "data parsed")
    count(loda.lab.data.source, "sha256", lambda path: f"{path.name} hashed")
    return found


@pytest.mark.parametrize("approx", ["none", "rank38", "keep40"])
def test_a_run_of_two_checkpoints_does_everything_once(approx, counts, tmp_path):
    records = run_experiment(compose([*SHORT, f"approx={approx}", f"outputs={tmp_path}"]))
    assert [record.epoch for record in records] == [1, 2]
    assert counts.pop("data parsed") == 3  # train, valid and test
    assert set(counts.values()) == {1}, counts
    assert {"base loaded", "weights hashed", "model.safetensors hashed"} <= set(counts)


def test_all_runs_of_a_process_share_the_base(counts, tmp_path):
    for adapter in ("none", "lora", "finetune", "loda_plus"):
        run_experiment(compose([*SHORT, f"adapter={adapter}", "trainer.max_steps=2", f"outputs={tmp_path}"]))
    assert counts["base loaded"] == counts["weights hashed"] == 1
    assert counts["data parsed"] == 3


def test_a_finished_run_loads_nothing(counts, tmp_path):
    experiment = compose([*SHORT, "trainer.max_steps=2", f"outputs={tmp_path}"])
    records = run_experiment(experiment)
    counts.clear()
    assert run_experiment(experiment) == records
    assert not counts
