"""Say in one sentence what is wrong with the overrides of a command line, with what there is instead."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException

# Files of configs/approx that people expect for every number, and how a number is given instead.
NUMBERED = {"approx/rank": "approx=low_rank approx.rank={}", "approx/keep": "approx=sparse approx.keep=0.{}"}


def describe(
    error: HydraException, overrides: Sequence[str], compose: Callable[[Sequence[str]], Mapping[str, Any]]
) -> str:
    """What is wrong with `overrides`, of which Hydra says `error`; `compose` makes the settings of others."""
    message = " ".join(str(error).partition("Config search path")[0].split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _missing_option(error.missing_cfg_file, error.options)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read; a value with spaces or signs such as ( or = needs two pairs of quotes, "
            "one for the shell and one for Hydra: 'dataset.path=\"my (old) data\"'"
        )
    if found := re.match(r"Could not override '([\w.]+)'", message):
        rest = [override for override in overrides if override.partition("=")[0] != found[1]]
        return _missing_setting(found[1], compose(rest))
    if found := re.match(r"Ambiguous value for argument '([^=]+=.*?)'", message):
        name, _, value = found[1].partition("=")
        return (
            f"{found[1]} has several values; add -m to run each of them (one list is written [a,b], one text with a "
            f"comma '{name}=\"{value}\"')"
        )
    return message


def _missing_option(file: str, options: Sequence[str]) -> str:
    group, _, option = file.rpartition("/")
    numbered = re.fullmatch(r"(\D+)(\d+)", file)
    if numbered and numbered[1] in NUMBERED:
        return f"{group}={option} has no file of its own; write {NUMBERED[numbered[1]].format(numbered[2])}"
    return f"{group}={option} is not an option, there are {', '.join(options)}{_guess(option, options)}"


def _missing_setting(key: str, known: Mapping[str, Any]) -> str:
    parent, _, name = key.rpartition(".")
    paths = list(_paths(known))
    # dataset.hparams only feeds other settings.
    elsewhere = [path for path in paths if path.rpartition(".")[2] == name and ".hparams." not in path]
    if elsewhere:
        return f"{key} is not a setting; did you mean {' or '.join(elsewhere)}?"
    there, place = known, ""
    for part in parent.split("."):
        inside = there.get(part)
        if isinstance(inside, Mapping):
            there, place = inside, f"{place}.{part}".removeprefix(".")
    if not place:
        return f"{key} is not a setting{_guess(key, paths)}; `python train.py --cfg job` shows them all"
    listed = f"{place} has {', '.join(there)}{_guess(name, list(there))}"
    return f"{key} is not in the file; {listed} (+{key}=VALUE adds a setting that the file leaves out)"


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")


def _guess(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
