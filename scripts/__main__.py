"""python -m scripts VERB [ARGUMENT ...]; `python -m scripts VERB --help` says more.

table      run every row of a table that is missing, then print and write it
torchrun   start one run over several processes, and end with their exit code
score      score text files as the official scripts do
compare    is the difference between two runs, or groups of seeds, more than chance?
status     list the runs: done, running, failed, stopped
verify     check every stage against its manifest
reproduce  run a finished result again and compare every byte
base       download and convert a base model
results    write the tables of results/ into docs/results.md
rates      choose the learning rate of each method of a table
claims     check the paper's claims that need no training, write docs/claims.md
figure2    energy kept by low-rank and sparse approximations
plan       which projection has how much of a budget of multiply-accumulates
frontier   time a decoding step of every row of the table `frontier`
linearize  how non-linear the adapters of a run are, and the nearest LoRA
report     all tables, figures and scores as one HTML file
new        write the file and the config of a new adapter, approximation, metric or data set
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.interrupt import deferred

VERBS = {
    "table": "scripts.run_table",
    "torchrun": "scripts.torchrun",
    "score": "eval.score.__main__",
    "compare": "scripts.compare_scores",
    "status": "scripts.status",
    "verify": "scripts.verify",
    "reproduce": "scripts.reproduce",
    "base": "scripts.get_base",
    "results": "scripts.results_page",
    "rates": "scripts.rates",
    "claims": "scripts.claims",
    "figure2": "scripts.figure2",
    "plan": "scripts.plan",
    "frontier": "scripts.frontier",
    "linearize": "scripts.linearize",
    "report": "scripts.report",
    "new": "scripts.new",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if given[0] not in VERBS:
        raise LodaError(f"{given[0]!r} is not a command; there are {', '.join(VERBS)}")
    with deferred():  # importing takes seconds, and may swallow an exception
        command = import_module(VERBS[given[0]])
    return int(command.main(given[1:]))


if __name__ == "__main__":
    run_command(main)
