"""Invented proper names: about 90,000 words built from syllables.

The supply is too large to be learned by heart, so a model that predicts these names well has
learned to copy them from the record in front of it. That skill is what the adapters re-route.
"""

from loda.lab.toy.dice import Dice

_FIRST = [
    "Al",
    "Ar",
    "Bal",
    "Bar",
    "Bel",
    "Ber",
    "Bor",
    "Bra",
    "Cal",
    "Can",
    "Cor",
    "Cra",
    "Dal",
    "Dar",
    "Del",
    "Dor",
    "Dra",
    "El",
    "Er",
    "Fal",
    "Far",
    "Fen",
    "Fin",
    "Gal",
    "Gar",
    "Gla",
    "Gor",
    "Hal",
    "Har",
    "Hel",
    "Hol",
    "Il",
    "Jan",
    "Jor",
    "Kal",
    "Kar",
    "Kel",
    "Kor",
    "Lan",
    "Lar",
    "Len",
    "Lor",
    "Mal",
    "Mar",
    "Mel",
    "Mor",
    "Nal",
    "Nar",
    "Nel",
    "Nor",
    "Ol",
    "Or",
    "Pal",
    "Par",
    "Pel",
    "Por",
    "Ral",
    "Ram",
    "Ros",
    "Sal",
    "San",
    "Sel",
    "Sor",
    "Tal",
    "Tar",
    "Tel",
    "Tor",
    "Ul",
    "Val",
    "Var",
    "Vel",
    "Vor",
    "Wal",
    "Wen",
    "Yar",
    "Zel",
    "Zor",
]
_MIDDLE = ["a", "e", "i", "o", "u", "an", "en", "in", "on", "er", "ar", "or", "il", "ol", "us"]
_LAST = [
    "bak",
    "bury",
    "by",
    "dale",
    "den",
    "dine",
    "dor",
    "fell",
    "field",
    "ford",
    "gate",
    "gen",
    "go",
    "ham",
    "hurst",
    "ka",
    "kin",
    "la",
    "land",
    "len",
    "ley",
    "lin",
    "low",
    "ma",
    "man",
    "mere",
    "mon",
    "mont",
    "more",
    "nia",
    "nor",
    "o",
    "pool",
    "port",
    "ra",
    "ria",
    "ro",
    "sel",
    "shaw",
    "son",
    "stead",
    "sten",
    "ta",
    "thorpe",
    "ton",
    "va",
    "vel",
    "vik",
    "well",
    "wick",
    "win",
    "wold",
    "wood",
    "worth",
]
_PLACE = ["House", "Hall", "Park", "Bridge", "Mill", "Square", "Garden", "Court", "Tower", "Gate"]


def word(dice: Dice) -> str:
    """One capitalised invented word, such as `Kelmere`."""
    middle = dice.pick(_MIDDLE) if dice.chance(0.15) else ""
    return dice.pick(_FIRST) + middle + dice.pick(_LAST)


def name(dice: Dice) -> str:
    """A name of one to three words: `Kelmere`, `The Kelmere`, `Kelmere Hall`, `Kelmere Borton`."""
    shape = dice.below(10)
    if shape < 5:
        return word(dice)
    if shape < 7:
        return f"The {word(dice)}"
    if shape < 9:
        return f"{word(dice)} {dice.pick(_PLACE)}"
    return f"{word(dice)} {word(dice)}"


def person(dice: Dice) -> str:
    """First and last name."""
    return f"{word(dice)} {word(dice)}"
