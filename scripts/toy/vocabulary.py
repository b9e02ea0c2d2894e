"""The words of the toy world, read from world.yaml, and the values that are invented rather than listed there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from scripts.toy.dice import Dice

Values = Sequence[str] | str
Domain = dict[str, Any]


def read(name: str) -> dict[str, Any]:
    """The content of a YAML file of this folder."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name(name))))


VOCABULARY = read("world.yaml")
_NAMES = {kind: words.split() for kind, words in VOCABULARY["names"].items()}


def draw_name(dice: Dice) -> str:
    """A name such as `Amber Falcon` or, in three of ten cases, `The Amber Falcon`."""
    words = f"{dice.pick(_NAMES['first'])} {dice.pick(_NAMES['second'])}"
    return f"The {words}" if dice.chance(0.3) else words


def draw_person(dice: Dice) -> str:
    return f"{dice.pick(_NAMES['given'])} {dice.pick(_NAMES['family'])}"


def _pounds(dice: Dice) -> str:
    amount = 5 * (1 + dice.below(9))
    form = dice.below(4)
    if form == 2:
        low = 5 * (1 + dice.below(9))
        return f"£ {low} - {low + 5}"
    return ("less than ", "more than ", "", "")[form] + f"£ {amount}"


def _price(dice: Dice) -> str:
    return dice.pick(("cheap", "moderate", "high", "low")) if dice.chance(0.5) else _pounds(dice)


def _rating(dice: Dice) -> str:
    return dice.pick(("low", "average", "high")) if dice.chance(0.4) else f"{1 + dice.below(5)} out of 5"


_INVENTED: dict[str, Callable[[Dice], str]] = {
    "name": draw_name,
    "person": draw_person,
    "town": lambda dice: dice.pick(_NAMES["town"]),
    "pounds": _pounds,
    "price": _price,
    "rating": _rating,
}


def draw(values: Values, dice: Dice) -> str:
    """One of a list, an invented value, or a number of a range such as `1700 to 2029`."""
    if not isinstance(values, str):
        return dice.pick(values)
    if values in _INVENTED:
        return _INVENTED[values](dice)
    low, high = map(int, values.split(" to "))
    return str(low + dice.below(high - low + 1))
