"""Train, decode and score one experiment, or a sweep of them.

    python train.py adapter=loda_plus approx=rank300 optim=paper_approx
    python train.py -m adapter=lora,loda,loda_plus adapter.r=2,4,8 seed=0,1,2
    python train.py -m hydra/launcher=slurm adapter=lora,loda seed=0,1,2
    python -m scripts torchrun --nproc_per_node 2 train.py model=gpt2_large

Groups and their options are the folders of `configs/`. Finished stages are not repeated, so any launcher does only what
is missing, and an interrupted training continues from its last state. Exit codes: 0, all is done; 2, an error that the
message explains; 75, stopped by a signal or Ctrl-C: run the same command again.
"""

from loda.lab.interrupt import REQUEUE, hold, listening

if __name__ == "__main__":
    hold()  # before the imports, which take seconds

import os
import sys
import traceback
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import Experiment, compose, explain, resolve
from loda.lab.processes import is_main_process, process_count
from loda.lab.run import Run


def main(arguments: Sequence[str] | None = None) -> int:
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument.startswith("-") for argument in overrides):
        sweep_with_hydra()
    else:
        run_experiment(compose(overrides), overrides)
    return 0


def run_experiment(experiment: Experiment, overrides: Sequence[str], in_sweep: bool = False) -> None:
    """Do what is missing of an experiment and print its scores. A failure is recorded in the folder of the run."""
    # Half of the import time, for which --help and a wrong setting need not wait.
    from eval.pipeline import complete, record_failure
    from eval.results import collect, summary

    run = Run(experiment)
    try:
        records = complete(run)
    except Exception as error:
        if in_sweep or run.path.exists():  # not for a single run that was refused before it started
            message = str(error) if isinstance(error, LodaError) else traceback.format_exc()
            record_failure(run, " ".join(overrides), message)
        raise
    if is_main_process():
        for record in records:
            print(summary(record))
        collect(run.root)


def sweep_with_hydra() -> None:
    """Let Hydra read its own options, such as -m and --help."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would cut a traceback short and exit by itself
    try:
        run_job()
    except HydraException as error:
        raise LodaError(explain(error)) from error


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def run_job(config: DictConfig) -> None:
    """Run one job of a sweep. A failing job is recorded and the sweep continues."""
    overrides = list(HydraConfig.get().overrides.task)
    try:
        if process_count() > 1:
            raise LodaError(
                f"a sweep runs in one process, this launch has {process_count()}; start it with plain python, or one "
                "run at a time over several processes"
            )
        with listening():
            run_experiment(resolve(config), overrides, in_sweep=True)
    except KeyboardInterrupt:
        if "SUBMITIT_EXECUTOR" not in os.environ:
            raise
        sys.exit(REQUEUE)  # of the job's process, in which nobody else turns an interruption into an exit code
    except Exception as error:
        message = f"error: {error}" if isinstance(error, LodaError) else traceback.format_exc()
        print(f"{' '.join(overrides)}: {message}", file=sys.stderr)
        # Hydra's launchers hand this to the process that started the sweep, when all jobs have ended.
        raise LodaError("at least one job of the sweep failed; the messages are above and in failed.json") from None


if __name__ == "__main__":
    run_command(main)
