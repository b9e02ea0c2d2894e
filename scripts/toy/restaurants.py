"""The target data set: restaurant records with several references each, in E2E's file format.

The texts follow a house style that the base model has never seen: a guide book's voice that talks
about families first or last, and about guests and dinner in between. One of three sentence plans
and the wording of each key are drawn per reference, with one choice always the most likely, so
the references of a record agree in most words and differ in some.

Every name of the valid and test split is absent from the training split.
"""

from dataclasses import dataclass
from pathlib import Path

from scripts.toy import words
from scripts.toy.dice import Dice

SEED = 20250903
RECORDS = {"train": 80, "valid": 16, "test": 40}
REFERENCES = 3

Record = dict[str, str]

TYPES = ("pub", "restaurant", "coffee shop")
FOODS = ("French", "Italian", "Indian", "Chinese", "English", "Japanese")
PRICES = ("cheap", "moderate", "high", "less than £ 20", "£ 20 - 25", "more than £ 30")
RATINGS = ("low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5")
AREAS = ("riverside", "city centre")
FAMILIES = ("yes", "no")


class Names:
    """Invented names, none of them twice."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._seen: set[str] = set()

    def new(self) -> str:
        """A name that this object has not given out before."""
        while (name := words.name(self._dice)) in self._seen:
            pass
        self._seen.add(name)
        return name


def draw_record(dice: Dice, names: Names) -> Record:
    """Name and type, and each of the other keys with probability 0.65, in E2E's order."""
    record = {"name": names.new(), "Type": dice.pick(TYPES)}
    for key, values in (
        ("food", FOODS),
        ("price", PRICES),
        ("customer rating", RATINGS),
        ("area", AREAS),
        ("family friendly", FAMILIES),
    ):
        value = dice.pick(values)
        if dice.chance(0.65):
            record[key] = value
    if dice.chance(0.65):
        record["near"] = names.new()
    return record


@dataclass(frozen=True)
class Wordings:
    """The phrases of one reference; an empty string where the record lacks the key."""

    kind: str
    place: str
    rating: str
    price: str
    families: str


def _one_of(dice: Dice, usual: str, *others: str) -> str:
    """The usual wording in three of five cases, else one of the others."""
    return usual if dice.chance(0.6) else dice.pick(others)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "EI" else f"a {noun}"


def _wordings(record: Record, dice: Dice) -> Wordings:
    kind = f"{record['food']} {record['Type']}" if "food" in record else record["Type"]
    place = []
    if "area" in record:
        area = "by the river" if record["area"] == "riverside" else "in the city centre"
        place.append(area)
    if "near" in record:
        place.append(f"{_one_of(dice, 'near', 'close to', 'next to')} {record['near']}")
    rating = price = families = ""
    if "customer rating" in record:
        value = record["customer rating"]
        rating = _one_of(dice, f"guests rate it {value}", f"customers give it {value}", f"its rating is {value}")
    if "price" in record:
        value = record["price"]
        if "£" in value:
            price = _one_of(dice, f"dinner costs {value}", f"a meal costs {value}", f"you pay {value}")
        else:
            price = _one_of(dice, f"the prices are {value}", f"dinner is {value}", f"its price is {value}")
    if "family friendly" in record:
        if record["family friendly"] == "yes":
            families = _one_of(dice, "families are welcome", "children are welcome", "you can bring the family")
        else:
            families = _one_of(dice, "it is for adults only", "no kids are allowed", "leave the children at home")
    return Wordings(_article(kind), " ".join(place), rating, price, families)


def _sentence(*parts: str) -> str:
    """Join the parts that are there and close with a full stop; nothing if none is there."""
    text = " ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]} ." if text else ""


def _both(first: str, second: str) -> str:
    return f"{first} and {second}" if first and second else first or second


def write_reference(record: Record, dice: Dice) -> str:
    """One text for the record."""
    said = _wordings(record, dice)
    name = record["name"]
    verdict = _sentence(_both(said.rating, said.price))
    families = _sentence(said.families)
    at_name = _sentence("at", name, "you find", said.kind, said.place)
    plan = dice.below(10)
    if plan < 5:
        sentences = [at_name, verdict, families]
    elif plan < 8 and said.place:
        sentences = [_sentence(said.place, "you find", name, ",", said.kind), families, verdict]
    else:
        sentences = [families, at_name, verdict]
    return " ".join(sentence for sentence in sentences if sentence)


def render_record(record: Record) -> str:
    """`key : value | key : value`."""
    return " | ".join(f"{key} : {value}" for key, value in record.items())


def lines(seed: int = SEED) -> dict[str, list[str]]:
    """Lines `context||completion ` of each split, the references of a record in a row."""
    dice = Dice(seed)
    names = Names(dice)
    result: dict[str, list[str]] = {}
    for split, count in RECORDS.items():
        result[split] = []
        for _ in range(count):
            record = draw_record(dice, names)
            for _ in range(REFERENCES):
                reference = write_reference(record, dice)
                result[split].append(f"{render_record(record)}||{reference} ")
    return result


def write(folder: Path) -> None:
    """Write train.txt, valid.txt and test.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in lines().items():
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
