"""Train, decode and score one experiment, or a sweep of them.

    python train.py adapter=loda_plus approx=rank300
    python train.py -m adapter=lora,loda,loda_plus adapter.r=2,4,8 seed=0,1,2
    python train.py -m hydra/launcher=submitit_slurm adapter=lora,loda seed=0,1,2
    torchrun --nproc_per_node 2 train.py model=gpt2_large

Groups and their options are the folders of `configs/`. Finished stages are not repeated, so any launcher only does
what is missing. A training that was interrupted goes on from its last state. Exit codes: 0, all is done; 2, something
failed; 75, stopped by SIGTERM, SIGUSR1 or Ctrl-C, repeat the command.
"""

import os
import sys
import traceback
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from loda.errors import LodaError
from loda.lab.config import compose, resolve
from loda.lab.interrupt import REQUEUE, Interrupted, listening
from loda.lab.processes import is_main_process, process_count

if TYPE_CHECKING:
    from loda.lab.run import RunDir


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one job; a failing job of a sweep is recorded and the sweep goes on."""
    run = None
    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN and process_count() > 1:
            raise LodaError(
                f"a sweep runs in one process, this launch has {process_count()}; start it with plain python, or one "
                "run at a time over several processes"
            )
        experiment = resolve(config)
        from loda.lab.run import Outputs  # torch and transformers: not before the settings are known to be right

        run = Outputs.of(experiment).run(experiment)
        run_job(config)
    except Exception as error:
        message = f"error: {error}" if isinstance(error, LodaError) else traceback.format_exc()
        if HydraConfig.get().mode == RunMode.RUN:
            print(message, file=sys.stderr)
            if run is not None and run.path.exists():  # not for what was refused before it began
                keep_failure(message, run)
            sys.exit(2)
        print(f"{' '.join(HydraConfig.get().overrides.task)}: {message}", file=sys.stderr)
        if run is not None:
            keep_failure(message, run)
        # Hydra's launchers hand this to the process that started the sweep, once all jobs have ended.
        raise LodaError("at least one job of the sweep failed; the messages are above and in failed.json") from None


def run_job(config: DictConfig) -> None:
    """Do what is missing of an experiment and print what it scored."""
    from eval.completion import summary
    from eval.pipeline import run_experiment
    from eval.results import collect

    experiment = resolve(config)
    records = run_experiment(experiment)
    if is_main_process():
        for record in records:
            print(summary(record))
        collect(experiment.outputs)


def keep_failure(message: str, run: "RunDir") -> None:
    """Leave what went wrong as `failed.json` in the run's folder."""
    from eval.pipeline import record_failure

    record_failure(run, " ".join(HydraConfig.get().overrides.task), message)


def check_settings(arguments: list[str]) -> None:
    """Let a misspelt setting of a single run end in one sentence, where Hydra would print several lines.

    Raises:
        LodaError: the settings do not compose.
    """
    if not any(argument.startswith("-") for argument in arguments):
        compose(arguments)


if __name__ == "__main__":
    # Hydra would cut a traceback short and exit by itself; here every exception arrives whole.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with listening():
            check_settings(sys.argv[1:])
            main()
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as signal:
        print(f"stopped by {signal}; the same command goes on from here", file=sys.stderr)
        sys.exit(REQUEUE)
