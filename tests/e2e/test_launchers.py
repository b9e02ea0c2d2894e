"""Hydra's launchers: what Slurm is asked for, and a table whose runs another process does."""

import yaml

from tests.conftest import python


def test_slurm_is_asked_for_a_gpu_memory_time_an_array_and_a_requeue_after_code_75():
    done = python("train.py", "hydra/launcher=slurm", "--cfg", "hydra", "--package", "hydra.launcher")
    asked = yaml.safe_load(done.stdout)
    assert asked["_target_"].endswith("SlurmLauncher")
    assert (asked["gpus_per_node"], asked["mem_gb"], asked["timeout_min"]) == (1, 32, 720)
    assert asked["array_parallelism"] == 8
    assert asked["additional_parameters"] == {"signal": "USR1@120", "requeue": True}
    assert "-ne 75 || scontrol requeue" in asked["setup"][0]


def test_joblib_runs_one_at_a_time_unless_told_otherwise():
    done = python("train.py", "hydra/launcher=joblib", "--cfg", "hydra", "--package", "hydra.launcher")
    assert yaml.safe_load(done.stdout)["n_jobs"] == 1


def test_a_launcher_runs_what_a_table_lacks(tmp_path):
    settings = [f"outputs={tmp_path}", "trainer.max_steps=2", "decode.num_beams=1", "dataset.metrics=[bleu]"]
    settings += ["decode.max_new_tokens=8", "dataset.max_length=64"]
    command = ["-m", "scripts", "table", "table1", "--profile", "toy", "--rows", "LoRA", "--launcher", "submitit_local"]
    first, second = (python(*command, *settings) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "0 of 2 runs are done, 2 to do" in first.stdout
    assert "2 of 2 runs are done, 0 to do" in second.stdout
    assert len(list(tmp_path.glob("multirun/.submitit/*/*_result.pkl"))) == 2  # both by the launcher, none here


def test_an_unknown_launcher_is_one_sentence(tmp_path):
    done = python(
        "-m",
        "scripts",
        "table",
        "table1",
        "--profile",
        "toy",
        "--rows",
        "LoRA",
        "--launcher",
        "slum",
        f"outputs={tmp_path}",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "slurm" in done.stderr
