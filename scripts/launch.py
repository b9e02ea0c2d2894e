"""Hand runs to one of Hydra's launchers: Slurm, or processes of this machine."""

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode

from loda.errors import LodaError
from loda.lab.config import CONFIG_FOLDER, explain
from train import run_job


def launch(jobs: Sequence[Sequence[str]], launcher: str, settings: Sequence[str] = ()) -> None:
    """Do what `python train.py OVERRIDES` does for the overrides of every job, as one sweep, and wait for the end.

    `-m` sweeps over all combinations of values, and the rows of a table are none, so the launcher is called directly.

    Args:
        jobs: overrides of each run.
        launcher: a file in configs/hydra/launcher, or a launcher that is installed.
        settings: overrides of the launcher, such as hydra.launcher.partition=NAME, and outputs=FOLDER.

    Raises:
        LodaError: there is no such launcher or setting.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), job_name="train", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config("train", [f"hydra/launcher={launcher}", *settings], RunMode.MULTIRUN)
            context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
            Plugins.instance().instantiate_launcher(context, run_job, config).launch(jobs, initial_job_idx=0)
    except HydraException as error:
        raise LodaError(explain(error)) from error
