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
from loda.lab.config import compose, resolve
from loda.lab.files import write_json
from loda.lab.paths import Outputs, RunDir

failures: list[str] = []


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one job; a failing job of a sweep is recorded and the sweep goes on."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    overrides = " ".join(HydraConfig.get().overrides.task)
    run = None
    try:
        experiment = resolve(config)
        run = Outputs.of(experiment).run(experiment)
        for record in run_experiment(experiment):
            print(summary(record))
        collect(experiment.outputs)
    except LodaError as error:
        fail(overrides, f"error: {error}", run if sweep else None)
    except Exception:
        if not sweep:
            raise
        fail(overrides, traceback.format_exc(), run)


def fail(overrides: str, message: str, run: RunDir | None) -> None:
    """Say what went wrong; in a sweep leave it as `failed.json` in the run's folder too."""
    print(message, file=sys.stderr)
    failures.append(overrides)
    if run is not None:
        write_json(run.failed, {"overrides": overrides, "message": message})


def check_settings(arguments: list[str]) -> None:
    """Let a misspelt setting of a single run end in one sentence, where Hydra would print several lines.

    Raises:
        LodaError: the settings do not compose.
    """
    if not any(argument.startswith("-") for argument in arguments):
        compose(arguments)


if __name__ == "__main__":
    try:
        check_settings(sys.argv[1:])
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    main()
    if failures:
        print(f"{len(failures)} failed: " + "; ".join(failures), file=sys.stderr)
        sys.exit(2)
