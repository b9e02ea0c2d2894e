"""Every byte of every artefact counts: whatever is altered is named by `scripts.verify` and by what reads it."""

import json
import shutil
from pathlib import Path

import pytest

from eval.completion import is_complete
from eval.pipeline import run_experiment
from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.run import Outputs, RunDir
from loda.sealed import dumps, loads
from scripts import verify

SHORT = ["model=toy", "dataset=toy", "adapter=lora", "approx=rank38", "trainer.max_steps=2", "decode.num_beams=1",
         "decode.max_new_tokens=4", "dataset.metrics=[bleu]", "seed=0"]  # fmt: skip
UNFINISHED = ("experiment.json", "train.json", "decode.json", "scores.json", "results.jsonl")
"""Without these a run is not finished, which is no damage."""
READ_AGAIN = {
    "data/": ("train.json", "scores.json"),
    "frozen/": ("train.json", "scores.json"),
    "adapter_config.json": ("decode.json", "scores.json"),
    "adapter_model.safetensors": ("decode.json", "scores.json"),
    "predictions.jsonl": ("scores.json",),
    "decode.json": ("scores.json",),
    "scores.json": (),
}
"""What of a finished run has to go so that its command reads the file again."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    run_experiment(compose([*SHORT, f"outputs={outputs}"]))
    return outputs


@pytest.fixture
def outputs(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "outputs"))


def files(outputs: Path) -> list[Path]:
    """Every file that holds something; the lock is empty and the rest of these is for people."""
    loose = ("lock", "train.jsonl", "README.md")
    return sorted(path for path in outputs.rglob("*") if path.is_file() and path.name not in loose)


def copies(run: RunDir) -> list[Path]:
    """What lies beside a model card."""
    return [path for name in ("scores.json", "predictions.jsonl") for path in run.path.glob(f"checkpoints/*/{name}")]


def alter(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_a_finished_tree_is_sound(outputs, capsys):
    assert verify.main([str(outputs)]) == 0
    assert "0 are damaged, 0 have no hash, 0 were left behind" in capsys.readouterr().out
    assert len(files(outputs)) >= 12


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
def test_one_altered_bit_in_any_file_is_found_and_the_file_named(place, outputs, capsys):
    for path in files(outputs):
        original = path.read_bytes()
        alter(path, place)
        assert verify.main([str(outputs)]) == 1, path
        assert str(path) in capsys.readouterr().out
        path.write_bytes(original)
    assert verify.main([str(outputs)]) == 0


def test_a_missing_file_is_found(outputs, capsys):
    (run,) = map(RunDir, Outputs(outputs).runs.glob("*"))
    for path in files(outputs):
        if path in copies(run) or path.name in UNFINISHED:
            continue
        original = path.read_bytes()
        path.unlink()
        assert verify.main([str(outputs)]) == 1, path
        capsys.readouterr()
        path.write_bytes(original)


@pytest.mark.parametrize("name", READ_AGAIN)
def test_a_run_that_reads_an_altered_file_stops_and_names_it(name, outputs):
    run = Outputs(outputs).run(compose([*SHORT, f"outputs={outputs}"]))
    chosen = [path for path in files(outputs) if name in str(path) and path not in copies(run)]
    path = max(chosen, key=lambda path: path.stat().st_size)
    alter(path, 0.5)
    for gone in READ_AGAIN[name]:
        next(path for path in run.path.rglob(gone) if path not in copies(run)).unlink()
    with pytest.raises(LodaError) as error:
        run_experiment(compose([*SHORT, f"outputs={outputs}"]))
    assert path.name in str(error.value)


def test_what_a_killed_process_left_is_listed_and_cleared_away_by_the_next(outputs, capsys):
    run = Outputs(outputs).run(compose([*SHORT, f"outputs={outputs}"]))
    (run.path / "checkpoints" / ".step-2.x8.partial").mkdir()
    (run.path / "checkpoints" / ".step-2.x8.partial" / "half").touch()
    assert verify.main([str(outputs)]) == 0
    assert "left by a killed process, of no use: " in capsys.readouterr().out
    run.all_scores[0].unlink()
    run_experiment(compose([*SHORT, f"outputs={outputs}"]))
    assert not list(outputs.rglob(".*"))


def test_files_of_earlier_versions_are_read_and_counted(outputs, capsys):
    run = Outputs(outputs).run(compose([*SHORT, f"outputs={outputs}"]))
    run.trained.write_text(json.dumps(loads(run.trained.read_text())))
    assert verify.main([str(outputs)]) == 0
    assert f"from an earlier version: {run.trained}" in capsys.readouterr().out


def test_every_byte_of_sealed_json_counts():
    text = dumps({"a": 0.1, "b": {"c": [1, None, "é"]}})
    assert loads(text) == {"a": 0.1, "b": {"c": [1, None, "é"]}}
    whole = text.encode()
    for place in range(len(whole)):
        for bit in (1, 4, 32):
            altered = bytearray(whole)
            altered[place] ^= bit
            with pytest.raises(ValueError):  # noqa: PT011
                loads(altered.decode())


def test_scores_of_another_adapter_do_not_count(outputs):
    """A training that is repeated, by other threads or on a GPU, may end with another adapter: both splits are its."""
    experiment = compose([*SHORT, f"outputs={outputs}"])
    run = Outputs(outputs).run(experiment)
    assert is_complete(experiment)
    train = run.trained.read_bytes()
    run.trained.unlink()
    assert not is_complete(experiment)
    run.trained.write_bytes(train)
    (config,) = run.path.glob("checkpoints/*/adapter_config.json")
    before = config.read_bytes()
    config.write_bytes(before + b"\n")
    assert not is_complete(experiment)
    assert verify.main([str(outputs)]) == 1
    config.write_bytes(before)
    assert is_complete(experiment)
