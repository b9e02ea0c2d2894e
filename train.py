"""Train, decode and score one experiment, or a sweep of them.

    python train.py adapter=loda_plus approx=rank300
    python train.py -m adapter=lora,loda,loda_plus adapter.r=2,4,8 seed=0,1,2

Groups and their options are the folders of `configs/`. Finished stages are not repeated.
"""

import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from eval.pipeline import run_experiment, summary
from eval.records import collect
from loda.errors import LodaError
from loda.lab.config import Experiment, resolve
from loda.lab.files import write_json
from loda.lab.paths import Outputs

failures: list[str] = []


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one job; a failing job of a sweep is recorded and the sweep goes on."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    overrides = " ".join(HydraConfig.get().overrides.task)
    try:
        experiment = resolve(config)
    except LodaError as error:
        fail(overrides, f"error: {error}")
        return
    try:
        for record in run_experiment(experiment):
            print(summary(record))
        collect(experiment.outputs)
    except LodaError as error:
        fail(overrides, f"error: {error}", experiment if sweep else None)
    except Exception:
        if not sweep:
            raise
        fail(overrides, traceback.format_exc(), experiment)


def fail(overrides: str, message: str, experiment: Experiment | None = None) -> None:
    """Say what went wrong; in a sweep leave it as `failed.json` in the run's folder too."""
    print(message, file=sys.stderr)
    failures.append(overrides)
    if experiment is not None:
        run = Outputs.of(experiment).run(experiment)
        write_json(run.failed, {"overrides": overrides, "message": message})


if __name__ == "__main__":
    main()
    if failures:
        print(f"{len(failures)} failed: " + "; ".join(failures), file=sys.stderr)
        sys.exit(2)
