"""Start one run over several processes as torchrun does, with its options, and end with their exit code.

    python -m scripts torchrun --nproc_per_node 2 train.py model=gpt2_large

torchrun itself ends with 1 whatever its processes end with, so a batch script could not tell an interruption (75) from
a failure. It also dies of SIGUSR1 and its like, and leaves its processes behind.
"""

import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from loda.lab.command_line import run_command
from loda.lab.interrupt import REQUEUE, SIGNALS, Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    signals = (*SIGNALS, signal.SIGQUIT)  # the last one as torchrun does
    heard = [number.name for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    # torchrun kills after 30 seconds, but the processes agree on a stop only at every trainer.log_every.
    options = ["--signals-to-handle", ",".join(heard), "--shutdown-timeout", "120"]
    try:
        torchrun([*options, *given])
    except SignalException as error:  # torchrun has passed it on, and waited
        raise Interrupted(error.sigval.name) from None
    except ChildFailedError as error:
        interrupted = {REQUEUE, *(-number for number in SIGNALS)}  # below 0: before it could listen
        # When a process fails, torchrun stops the others by a signal, so only a failure tells why it ended.
        failed = {failure.exitcode for failure in error.failures.values()} - interrupted
        if not failed:
            raise Interrupted("a signal to one of the processes") from None
        print(error, file=sys.stderr)
        return max(1, *failed)  # below 0 for one that was killed
    return 0


if __name__ == "__main__":
    run_command(main)
