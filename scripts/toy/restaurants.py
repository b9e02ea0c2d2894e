"""The target data set: restaurant records with several references each, in E2E's file format.

The texts follow a house style that the base model has never seen: a guide book's voice that talks about families first
or last, and about guests and dinner in between. One of three sentence plans and the wording of each key are drawn per
reference, with one choice always the most likely, so the references of a record agree in most words and differ in some.
Every name of the valid and test splits is absent from the training split.
"""

from pathlib import Path

from scripts.toy.dice import Dice
from scripts.toy.vocabulary import draw_name, read
from scripts.toy.world import Record, render_record

SEED = 20250903
RECORDS = {"train": 80, "valid": 16, "test": 40}
REFERENCES = 3

WORDS = read("restaurants.yaml")


def draw_record(dice: Dice, seen: set[str]) -> Record:
    """Name and type, and each of the other keys with probability 0.65, in E2E's order."""
    record = {"name": _new_name(dice, seen), "Type": dice.pick(WORDS["types"])}
    for key, values in WORDS["values"].items():
        value = dice.pick(values)
        if dice.chance(0.65):
            record[key] = value
    if dice.chance(0.65):
        record["near"] = _new_name(dice, seen)
    return record


def _new_name(dice: Dice, seen: set[str]) -> str:
    while (name := draw_name(dice)) in seen:
        pass
    seen.add(name)
    return name


def write_reference(record: Record, dice: Dice) -> str:
    """One text for the record."""
    name = record["name"]
    kind = f"{record['food']} {record['Type']}" if "food" in record else record["Type"]
    kind = f"an {kind}" if kind[0] in "EI" else f"a {kind}"
    place = " ".join(filter(None, (WORDS["areas"].get(record.get("area", "")), _phrase(record, "near", dice))))
    rating, price = _phrase(record, "customer rating", dice), _phrase(record, "price", dice)
    families = _sentence(_phrase(record, "family friendly", dice))
    verdict = _sentence(" and ".join(filter(None, (rating, price))))
    at_name = _sentence("at", name, "you find", kind, place)
    plan = dice.below(10)
    if plan < 5:
        sentences = [at_name, verdict, families]
    elif plan < 8 and place:
        sentences = [_sentence(place, "you find", name, ",", kind), families, verdict]
    else:
        sentences = [families, at_name, verdict]
    return " ".join(filter(None, sentences))


def _phrase(record: Record, key: str, dice: Dice) -> str:
    """The key's usual wording in three of five cases, else one of the others; empty where the record lacks the key."""
    if key not in record:
        return ""
    value = record[key]
    wordings: list[str] = WORDS["wordings"]["pounds" if "£" in value else value if key == "family friendly" else key]
    usual, *others = wordings
    return (usual if dice.chance(0.6) else dice.pick(others)).format(value)


def _sentence(*parts: str) -> str:
    """The parts that are there with a capital and a full stop; empty if none is there."""
    text = " ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]} ." if text else ""


def lines() -> dict[str, list[str]]:
    """Lines `context||completion ` of each split, the references of a record in a row."""
    dice, seen = Dice(SEED), set[str]()
    result: dict[str, list[str]] = {split: [] for split in RECORDS}
    for split, count in RECORDS.items():
        for _ in range(count):
            record = draw_record(dice, seen)
            for _ in range(REFERENCES):
                result[split].append(f"{render_record(record)}||{write_reference(record, dice)} ")
    return result


def write(folder: Path) -> None:
    """Write train.txt, valid.txt and test.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in lines().items():
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
