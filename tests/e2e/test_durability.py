"""Altered, missing and swapped artefacts of a real run: named by `verify`, refused or made again by what reads them."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eval.pipeline import find_records
from eval.report import write as write_report
from eval.results import SCORES, collect, keep, read_statistics
from loda.adapter_files import APPROXIMATION_FILE, load_tensors, save_tensors
from loda.errors import LodaError
from loda.lab.base import approximation
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.stage import MANIFEST, all_places, read_stage
from loda.lab.training import loop
from loda.lab.training.state import load_state
from loda.manifest import hash_files, write_manifest
from scripts import verify
from tests.conftest import run_experiment

SHORT = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "adapter=lora", "approx=rank38", "trainer.max_steps=2",
         "decode.num_beams=1", "decode.max_new_tokens=4", "dataset.metrics=[bleu]"]  # fmt: skip
FOR_PEOPLE = ("lock", "metrics.jsonl", "README.md", "results.jsonl")


def run_in(outputs: Path, seed: int = 0) -> Run:
    return Run(compose([*SHORT, f"seed={seed}", f"outputs={outputs}"]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two finished runs that differ in their seed."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    for seed in (0, 1):
        run_experiment(run_in(outputs, seed).experiment)
    return outputs


@pytest.fixture
def outputs(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "outputs"))


def files(outputs: Path) -> list[Path]:
    return sorted(path for path in outputs.rglob("*") if path.is_file() and path.name not in FOR_PEOPLE)


def kind_of(outputs: Path, place: str) -> str:
    return read_stage(outputs, place).stage


def places(outputs: Path, seed: int) -> dict[str, str]:
    """The place of each kind of stage of one run, and of the caches."""
    mine = (p for p in all_places(outputs) if not p.startswith("runs/") or p.startswith(run_in(outputs, seed).place))
    return {kind_of(outputs, place): place for place in mine}


def test_a_finished_tree_is_sound(outputs, capsys):
    assert verify.main([str(outputs)]) == 0
    assert "12 stages and records are sound, 0 are not, 0 leftovers" in capsys.readouterr().out
    assert set(places(outputs, 0)) == {
        *("examples", "approximation", "settings", "checkpoint", "training", "decoding", "scoring")
    }


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
def test_one_altered_bit_in_any_file_is_found_and_the_file_named(place, outputs, capsys):
    for path in files(outputs):
        original = path.read_bytes()
        altered = bytearray(original)
        altered[int(place * (len(altered) - 1))] ^= 1
        path.write_bytes(altered)
        assert verify.main([str(outputs)]) == 1, path
        assert str(path) in capsys.readouterr().out
        path.write_bytes(original)


def test_a_missing_file_is_found(outputs):
    for path in files(outputs):
        if path.name == "manifest.json" and read_stage(outputs, path.parent.relative_to(outputs).as_posix()).stage in (
            *("settings", "training", "scoring", "examples", "approximation"),
        ):
            continue  # nothing is made from these, so without a manifest they are simply not there
        original = path.read_bytes()
        path.unlink()
        assert verify.main([str(outputs)]) == 1, path
        path.write_bytes(original)


@pytest.mark.parametrize("kind", ["settings", "checkpoint", "training", "decoding", "scoring"])
def test_a_stage_of_another_run_is_refused_by_every_reader(kind, outputs, capsys):
    mine, theirs = (outputs / places(outputs, seed)[kind] for seed in (0, 1))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    assert verify.main([str(outputs)]) == 1
    assert "is a copy of" in capsys.readouterr().out
    if kind == "settings":
        return  # for people and `status`; no result is read from it
    with pytest.raises(LodaError, match="is a copy of"):
        run_experiment(run_in(outputs).experiment)
    if kind in ("decoding", "scoring"):
        (record,) = collect(outputs)
        assert record.seed == 1
        assert "left out: " in capsys.readouterr().err


def test_a_whole_run_folder_copied_over_anothers_is_refused(outputs, capsys):
    mine, theirs = (run_in(outputs, seed) for seed in (0, 1))
    shutil.rmtree(mine.path)
    shutil.copytree(theirs.path, mine.path)
    with pytest.raises(LodaError, match="is a copy of"):
        run_experiment(mine.experiment)
    (record,) = collect(outputs)
    assert record.seed == 1
    assert "is a copy of" in capsys.readouterr().err
    assert verify.main([str(outputs)]) == 1


def test_a_decoding_under_another_decodings_key_is_refused(outputs):
    run = run_in(outputs)
    other = Run(compose([*SHORT, "seed=0", "decode.length_penalty=0.5", f"outputs={outputs}"]))
    shutil.copytree(run.path / "decode" / run.decode_key, run.path / "decode" / other.decode_key)
    with pytest.raises(LodaError, match="is a copy of"):
        run_experiment(other.experiment)


@pytest.mark.parametrize(
    ("kind", "other"), [("examples", "dataset.max_length=200"), ("approximation", "approx.rank=20")]
)
def test_examples_and_approximations_of_something_else_are_refused(kind, other, outputs):
    mine = places(outputs, 0)[kind]
    run_experiment(compose([*SHORT, "seed=2", other, f"outputs={outputs}"]))
    (theirs,) = [place for place in all_places(outputs) if kind_of(outputs, place) == kind and place != mine]
    shutil.rmtree(outputs / mine)
    shutil.copytree(outputs / theirs, outputs / mine)
    shutil.rmtree(run_in(outputs).path)
    with pytest.raises(LodaError, match="is a copy of"):
        run_experiment(run_in(outputs).experiment)


def test_an_adapter_over_another_rounding_of_its_approximation_is_trained_again(outputs, capsys):
    run = run_in(outputs)
    stage, before = run.approximation(), run.checkpoint(run.checkpoints[-1]).load()
    other = {name: 1.01 * tensor for name, tensor in load_tensors(stage.path / APPROXIMATION_FILE).items()}
    shutil.rmtree(stage.path)
    stage.write(lambda folder: save_tensors(other, folder / APPROXIMATION_FILE))
    approximation._tensors.cache_clear()
    assert verify.main([str(outputs)]) == 1
    assert f"was made from another {stage.place}" in capsys.readouterr().out
    assert find_records(run) is None
    run_experiment(run.experiment)
    assert run.checkpoint(run.checkpoints[-1]).load().digest != before.digest


def test_a_training_state_of_another_seed_is_refused(outputs, monkeypatch):
    class Killed(Exception):
        pass

    def kill(*arguments):
        raise Killed

    for seed in (0, 1):
        shutil.rmtree(run_in(outputs, seed).path)
        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "_end", kill)  # the last state is saved by then
            with pytest.raises(Killed):
                run_experiment(run_in(outputs, seed).experiment)
    mine, theirs = (run_in(outputs, seed).path / "state" for seed in (0, 1))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    with pytest.raises(LodaError, match="is a copy of"):
        load_state(run_in(outputs))
    with pytest.raises(LodaError, match="is a copy of"):
        run_experiment(run_in(outputs).experiment)
    assert verify.main([str(outputs)]) == 1


@pytest.mark.parametrize("kind", ["checkpoint", "training", "decoding", "scoring", "examples", "approximation"])
def test_what_is_missing_is_made_again_and_the_scores_are_the_same(kind, outputs):
    run = run_in(outputs)
    before = find_records(run)
    shutil.rmtree(outputs / places(outputs, 0)[kind])
    (after,) = run_experiment(run.experiment)
    assert after.scores == before[0].scores
    assert find_records(run) == [after]


@pytest.mark.parametrize("kind", ["checkpoint", "decoding", "scoring", "examples", "approximation"])
def test_a_stage_that_lacks_a_file_is_made_again(kind, outputs):
    run = run_in(outputs)
    before, stage = find_records(run), read_stage(outputs, places(outputs, 0)[kind])
    for name in stage.files:
        (outputs / stage.place / name).unlink()
    shutil.rmtree(run.path / "training")  # so that the examples and the approximation are needed
    (after,) = run_experiment(run.experiment)
    assert after.scores == before[0].scores
    assert verify.main([str(outputs)]) == 0


def test_a_score_that_is_not_that_of_its_statistics_is_found_under_a_new_seal(outputs, capsys):
    manifest = read_stage(outputs, places(outputs, 0)["scoring"])
    path = outputs / manifest.place / SCORES
    record = json.loads(path.read_text())
    record["scores"]["BLEU"] += 1e-12
    path.write_text(json.dumps(record))
    content = asdict(manifest) | {"files": hash_files(path.parent, MANIFEST)}
    write_manifest(path.parent / MANIFEST, content)
    assert verify.main([str(outputs)]) == 1
    assert "is not that of its statistics" in capsys.readouterr().out


def test_a_loss_that_is_not_that_of_its_checkpoint_is_found_under_a_new_seal(outputs, capsys):
    manifest = read_stage(outputs, places(outputs, 0)["scoring"])
    path = outputs / manifest.place / SCORES
    record = json.loads(path.read_text())
    record["scores"]["LOSS"] -= 0.1
    path.write_text(json.dumps(record))
    write_manifest(path.parent / MANIFEST, asdict(manifest) | {"files": hash_files(path.parent, MANIFEST)})
    assert verify.main([str(outputs)]) == 1
    assert "LOSS is not that of its checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("adapter", "loda"), ("model", "gpt2")])
def test_a_record_that_is_not_of_its_settings_is_found_under_a_new_seal(name, value, outputs, capsys):
    manifest = read_stage(outputs, places(outputs, 0)["scoring"])
    path = outputs / manifest.place / SCORES
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    write_manifest(path.parent / MANIFEST, asdict(manifest) | {"files": hash_files(path.parent, MANIFEST)})
    assert verify.main([str(outputs)]) == 1
    assert f"has {name}={value!r} over settings of" in capsys.readouterr().out


def test_a_kept_record_under_another_name_is_a_copy(outputs, tmp_path, capsys):
    (record, _), kept = collect(outputs), tmp_path / "kept"
    keep(record, read_statistics(outputs, record), kept)
    (path,) = kept.glob("*.json")
    shutil.copy(path, kept / "copy.json")
    assert collect(kept) == [replace(record, settings=record.settings | {"outputs": "outputs"})]
    assert "copy.json is a copy of" in capsys.readouterr().err
    assert verify.main([str(kept)]) == 1


def test_a_damaged_journal_leaves_one_line_out_of_the_report(outputs, capsys):
    row = ["adapter=loda", "optim.epochs=6", "optim.checkpoint_epochs=[3]"]
    run = Run(compose([*SHORT, *row, "seed=0", f"outputs={outputs}"]))
    run_experiment(run.experiment)
    run.metrics_file.write_text("{}\n")
    write_report(["table1"], "toy", outputs, [setting for setting in SHORT if "." in setting])
    assert "metrics.jsonl is damaged (a line lacks step or loss)" in capsys.readouterr().err


def test_what_a_killed_process_left_is_listed_and_cleared_away_by_the_next(outputs, capsys):
    run = run_in(outputs)
    leftover = run.path / "checkpoints" / ".step-2.x8.partial"
    leftover.mkdir()
    (leftover / "half").touch()
    assert verify.main([str(outputs)]) == 0
    assert f"left by a killed process, of no use: {leftover}" in capsys.readouterr().out
    shutil.rmtree(outputs / places(outputs, 0)["scoring"])
    run_experiment(run.experiment)
    assert not list(run.path.rglob(".*"))
