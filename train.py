"""Train, decode and score one experiment, or a sweep of them.

    python train.py adapter=loda_plus approx=rank300 optim=paper_approx
    python train.py -m adapter=lora,loda,loda_plus adapter.r=2,4,8 seed=0,1,2
    python train.py -m hydra/launcher=submitit_slurm adapter=lora,loda seed=0,1,2
    torchrun --nproc_per_node 2 train.py model=gpt2_large

Groups and their options are the folders of `configs/`. Finished stages are not repeated, so any launcher does only what
is missing, and an interrupted training continues from its last state. Exit codes: 0, all is done; 2, something failed;
75, stopped by SIGTERM, SIGUSR1 or Ctrl-C: run the same command again.
"""

import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from eval.pipeline import complete, record_failure
from eval.results import collect, summary
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import resolve
from loda.lab.interrupt import listening
from loda.lab.processes import is_main_process, process_count
from loda.lab.run import Run


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one job. A failing job of a sweep is recorded and the sweep continues."""
    is_sweep, run = HydraConfig.get().mode == RunMode.MULTIRUN, None
    try:
        if is_sweep and process_count() > 1:
            raise LodaError(
                f"a sweep runs in one process, this launch has {process_count()}; start it with plain python, or one "
                "run at a time over several processes"
            )
        run = Run(resolve(config))
        records = complete(run)
    except Exception as error:
        overrides = " ".join(HydraConfig.get().overrides.task)
        message = str(error) if isinstance(error, LodaError) else traceback.format_exc()
        if run is not None and (is_sweep or run.path.exists()):  # not for what was refused before it began
            record_failure(run, overrides, message)
        if not is_sweep:
            raise
        print(f"{overrides}: error: {message}", file=sys.stderr)
        # Hydra's launchers hand this to the process that started the sweep, when all jobs have ended.
        raise LodaError("at least one job of the sweep failed; the messages are above and in failed.json") from None
    if is_main_process():
        for record in records:
            print(summary(record))
        collect(run.root)


def start(arguments: object) -> int:
    """Hydra reads the arguments of the process itself."""
    with listening():
        main()
    return 0


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would cut a traceback short and exit by itself
    run_command(start)
