"""A small learning-rate sweep for every trained row of a table, under one budget, judged on the validation split.

    python -m scripts.tune table1 --profile toy --row LoRA --row LoDA --row LoDA+
    python -m scripts.tune table1 --profile paper --factors 0.5,1,2 trainer.max_steps=5000

Each row is trained at the same multiples of its own learning rate, by one seed and with the same settings otherwise;
the test split has no say. Prints the scores with the best rate of each row and the command that runs the row with it,
and writes them to `outputs/tables/tune-<table>-<profile>.{md,json}` with a figure in `outputs/figures`. Runs that are
there are not repeated.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from eval.aggregate import train_command
from eval.completion import is_complete
from eval.figures import rates
from eval.figures.style import save
from eval.jobs import Job
from eval.table_spec import TableSpec, read, seeds
from eval.tuning import FACTORS, SPLIT, Sweep, Tuned, sweeps, tuned
from loda.errors import LodaError
from loda.files import write_text
from loda.lab.paths import Outputs
from scripts.run_table import check_gpu, run


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tune", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as table1")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as trainer.max_steps=5000")
    parser.add_argument("--profile", required=True, help="paper or toy")
    parser.add_argument("--row", action="append", help="label of a row; may be repeated; default: all trained ones")
    parser.add_argument("--factors", type=_numbers, default=FACTORS, help="of each row's own learning rate")
    parser.add_argument("--seed", type=int, help="of all runs; default: the first of the profile")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (on one GPU: 1)")
    parser.add_argument("--insist", action="store_true", help="run the paper's settings without a GPU")
    options = parser.parse_intermixed_args(argv)
    try:
        if options.processes < 1:
            raise LodaError(f"--processes {options.processes} must be at least 1")
        spec = read(options.table)
        if options.profile not in spec.profiles:
            raise LodaError(f"unknown profile {options.profile!r}; choose one of {', '.join(spec.profiles)}")
        seed = spec.profiles[options.profile].seeds[0] if options.seed is None else options.seed
        planned = sweeps(spec, options.profile, options.settings, options.row or [], options.factors, seed)
        todo = jobs(planned, seed)
        remedy = "to run it all the same, add --insist (with make: INSIST=1)"
        check_gpu(f"tuning {options.table}", todo, options.profile, options.insist, remedy)
        print(f"{sum(len(one.trials) for one in planned)} runs, {len(todo)} to do")
        failed = run(todo, options.processes)
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the runs that are missing", file=sys.stderr)
        return 130
    found = [tuned(one, spec) for one in planned]
    report(spec, options.profile, found, seed, Outputs.of(planned[0].trials[0].experiment))
    if failed:
        print(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _numbers(text: str) -> list[float]:
    """`0.5,1,2` as numbers."""
    return [float(number) for number in text.split(",")]


def jobs(planned: Sequence[Sweep], seed: int) -> list[Job]:
    """The trials that have not been run, once each."""
    found = {
        tuple(trial.overrides): Job(
            f"{sweep.row.label} at lr {trial.rate:g}", [*trial.overrides, f"seed={seed}"], [trial.experiment]
        )
        for sweep in planned
        for trial in sweep.trials
        if not is_complete(trial.experiment)
    }
    return list(found.values())


def report(spec: TableSpec, profile: str, found: Sequence[Tuned], seed: int, outputs: Outputs) -> None:
    """Print the sweeps and write them, with their figure."""
    name = f"tune-{spec.name}-{profile}"
    text = markdown(spec, profile, found, seed)
    print(text)
    column = spec.columns[spec.select_by]
    label = f"{column.label or spec.select_by} ({column.unit}), {SPLIT} split"
    picture = save(rates.draw(found, label, column.scale, f"{profile} profile, seed {seed}"), outputs.figures, name)
    write_text(outputs.tables / f"{name}.md", text)
    write_text(outputs.tables / f"{name}.json", json.dumps([_plain(one) for one in found], indent=2) + "\n")
    print(f"written: {outputs.tables / name}.md, .json; {', '.join(map(str, picture))}")


def markdown(spec: TableSpec, profile: str, found: Sequence[Tuned], seed: int) -> str:
    """A table of scores by factor, then the commands that run each row at its best rate."""
    column = spec.columns[spec.select_by]
    factors = list(dict.fromkeys(trial.factor for one in found for trial in one.sweep.trials))
    lines = [
        f"**Learning rates of {spec.name}, {profile} profile**: {spec.select_by} ({column.unit}) on the {SPLIT} split, "
        f"seed {seed}, at multiples of each row's own rate; bold: the best, `!`: it is at the edge, try beyond.",
        "",
        "| Method | Approx. | own lr | " + " | ".join(f"x {factor:g}" for factor in factors) + " | best lr |",
        "|---" * (len(factors) + 4) + "|",
    ]
    for one in found:
        own = one.sweep.trials[0].rate / one.sweep.trials[0].factor
        best = "-" if one.best is None else f"{one.best.rate:g}{' `!`' if one.is_at_the_edge else ''}"
        cells = [_cell(one, place, column.scale, column.digits) for place in range(len(factors))]
        label = one.sweep.row.label + (f" (r={one.sweep.row.r})" if one.sweep.row.r else "")
        lines.append(f"| {label} | {one.sweep.row.approx} | {own:.3g} | {' | '.join(cells)} | {best} |")
    commands = [_command(spec, profile, one) for one in found if one.best is not None]
    return "\n".join([*lines, "", "The rows at their best rates, on the test split:", "", "```", *commands, "```", ""])


def _cell(one: Tuned, place: int, scale: float, digits: int) -> str:
    value = one.values[place]
    if value is None:
        return "-"
    text = f"{value * scale:.{digits}f}"
    return f"**{text}**" if one.sweep.trials[place] is one.best else text


def _command(spec: TableSpec, profile: str, one: Tuned) -> str:
    assert one.best is not None
    arguments = [argument for argument in one.best.overrides if argument != f"decode.split={SPLIT}"]
    listed = ",".join(map(str, seeds(one.sweep.row, spec.profiles[profile])))
    return train_command([*arguments, f"seed={listed}"], several="," in listed)


def _plain(one: Tuned) -> dict[str, object]:
    trials = [
        {"factor": trial.factor, "lr": trial.rate, "value": value, "overrides": trial.overrides}
        for trial, value in zip(one.sweep.trials, one.values, strict=True)
    ]
    row = one.sweep.row
    best = None if one.best is None else one.best.rate
    return {"method": row.label, "approx": row.approx, "r": row.r, "best_lr": best, "trials": trials}


if __name__ == "__main__":
    sys.exit(main())
