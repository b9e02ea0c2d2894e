# ruff: noqa: SIM905  (a word list reads better as running text)
"""Invented proper names, put together from short lists of words.

There are thousands of combinations and each is rare, so a model that predicts these names well has learned to copy
them from the record in front of it, word by word. That skill is what the adapters re-route. The lists are short so
that a small model gets to know every word within minutes.
"""

from scripts.toy.dice import Dice

_FIRST = (
    "Amber Silver Golden Copper Ivory Velvet Scarlet Crystal Iron Stone Maple Cedar Willow Hazel Olive Lemon "
    "Cherry Pepper Saffron Ginger Lazy Happy Quiet Clever Proud Brave Hidden Broken Ancient Royal Noble Frozen "
    "Winter Summer Autumn Morning Midnight Thunder Ocean Desert Forest Mountain Valley Garden"
).split()
_SECOND = (
    "Lantern Anchor Falcon Badger Otter Raven Heron Tiger Dragon Rabbit Fox Wolf Lion Swan Crown Shield Sword Arrow "
    "Bell Candle Mirror Ladder Barrel Basket Kettle Spoon Table Window Compass Wheel Harp Drum Feather Ribbon Pearl "
    "Acorn Clover Thistle Orchid Tulip Mill Tower Bridge Gate"
).split()
_GIVEN = (
    "Anna Ben Clara David Emma Frank Greta Hugo Irene Jacob Karen Louis Maria Nils Olga Peter Quinn Rosa Simon Tina "
    "Ursula Victor Wendy Yusuf"
).split()
_FAMILY = (
    "Abbot Baker Carver Dalton Ellis Fisher Grant Holt Irving Jensen Keller Lund Morris Norton Owens Palmer Reed "
    "Sutton Turner Upton Vance Weaver York Ziegler"
).split()
_TOWN = (
    "Ashby Bexley Corby Dover Epsom Frome Goole Hythe Ilford Jarrow Kendal Luton Margate Newark Oldham Penrith Redcar "
    "Selby Tenby Upwell Ventnor Whitby Yeovil Zennor"
).split()


def name(dice: Dice) -> str:
    """A name such as `Amber Falcon` or, in three of ten cases, `The Amber Falcon`."""
    words = f"{dice.pick(_FIRST)} {dice.pick(_SECOND)}"
    return f"The {words}" if dice.chance(0.3) else words


def person(dice: Dice) -> str:
    """Given name and family name."""
    return f"{dice.pick(_GIVEN)} {dice.pick(_FAMILY)}"


def town(dice: Dice) -> str:
    """The name of a town."""
    return dice.pick(_TOWN)
