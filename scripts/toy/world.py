"""The pre-training text: records with a text each, in many domains and styles, and plain prose.

A record document is `key : value | key : value <eos> text`, the surface form of the fine-tuning data. Keys come in any
order and drop out at random, names are invented, and the text follows a `Style`: which key is told when, in which
words, in sentences of which shape. Nothing in a record gives its style away, so at a first record the base is undecided
between many, and an adapter has something to choose. Later records of a document often keep the style, so it pays to
attend to them. There is no restaurant among the domains.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scripts.toy.dice import Dice
from scripts.toy.vocabulary import VOCABULARY, Domain, draw

EOS = "<|endoftext|>"
PARAGRAPH = "\n\n"

Record = dict[str, str]
Document = list[tuple[str, bool]]
"""Pieces of text, each with whether it is to be learned (texts and prose) or given (records)."""


@dataclass(frozen=True)
class Style:
    """How a text is told. `variant` has the keys in telling order, and picks a wording (modulo their number)."""

    opener: int
    modifiers: int
    clauses: int
    variant: dict[str, int]
    joiner: str
    by_name: bool


def draw_style(domain: Domain, dice: Dice) -> Style:
    keys = dice.shuffled(list(domain["fields"]))
    return Style(
        opener=dice.below(8),
        modifiers=dice.below(4),
        clauses=1 + dice.below(3),
        variant={key: dice.below(60) for key in keys},
        joiner=dice.pick((" and ", " , ", " , and ")),
        by_name=dice.chance(0.25),
    )


def draw_record(domain: Domain, dice: Dice) -> Record:
    """A name, then some of the domain's other keys in random order."""
    keys = dice.shuffled(list(domain["fields"]))
    keep = 1 + dice.below(len(keys))
    values = {key: draw(domain["fields"][key]["values"], dice) for key in keys[:keep]}
    if dice.chance(0.8):
        values["Type"] = dice.pick(domain["nouns"])
    if "adjective" in domain and dice.chance(0.6):
        values[domain["adjective"]] = dice.pick(VOCABULARY["nationalities"])
    order = dice.shuffled(list(values))
    return {"name": draw(domain["name"], dice)} | {key: values[key] for key in order}


def render_record(record: Record) -> str:
    """`key : value | key : value`, E2E's surface form."""
    return " | ".join(f"{key} : {value}" for key, value in record.items())


def tell(record: Record, domain: Domain, style: Style) -> str:
    """The record as spaced text in the given style."""
    name = record["name"]
    keys = [key for key in style.variant if key in record]
    if style.opener == 0:  # the plainest style: `name Amber Falcon , area harbour .`
        return " , ".join(f"{key} {record[key]}" for key in ["name", *keys]) + " ."

    after = [_phrase(record, key, domain, style, "after") for key in keys[: style.modifiers]]
    says = [_phrase(record, key, domain, style, "says") for key in keys[style.modifiers :]]
    subject = name if style.by_name else domain.get("pronoun", "It")
    groups = [says[start : start + style.clauses] for start in range(0, len(says), style.clauses)]
    clauses = [f"{subject} {style.joiner.join(group)} ." for group in groups]
    return " ".join([_first_sentence(record, domain, style, after), *clauses])


def _phrase(record: Record, key: str, domain: Domain, style: Style, part: str) -> str:
    field = domain["fields"][key]
    ways: list[str] = field.get("special", {}).get(record[key], field)[part]
    return ways[style.variant[key] % len(ways)].format(record[key])


def _first_sentence(record: Record, domain: Domain, style: Style, after: list[str]) -> str:
    noun = record.get("Type", domain["nouns"][0])
    if nationality := record.get(domain.get("adjective", "")):
        noun = f"{nationality} {noun}"
    article = "an" if noun[0] in "aeiouAEIOU" else "a"
    details = " ".join(["", *after])
    place = details[1:2].upper() + details[2:]
    openers: list[str] = VOCABULARY["openers"]
    last = len(openers) - 1
    # The fifth opener begins with the details; the sixth serves where there are none, and for what is left of eight.
    opener = last if style.opener == last and not after else min(style.opener - 1, last)
    return openers[opener].format(
        name=record["name"], noun=noun, article=article, Article=article.capitalize(), details=details, place=place
    )


def _records(dice: Dice) -> Document:
    """One to four records of one domain with their texts, mostly in one style."""
    domain = dice.pick(VOCABULARY["domains"])
    style = draw_style(domain, dice)
    document = []
    for _ in range(1 + dice.below(4)):
        if dice.chance(0.2):
            style = draw_style(domain, dice)
        record = draw_record(domain, dice)
        document += [(render_record(record), False), (f" {tell(record, domain, style)}", True)]
    return document


def _sentence(dice: Dice) -> str:
    sentence: str = dice.pick(VOCABULARY["prose"])
    for slot, values in VOCABULARY["prose_words"].items():
        while f"{{{slot}}}" in sentence:
            sentence = sentence.replace(f"{{{slot}}}", draw(values, dice), 1)
    return sentence


def _prose(dice: Dice) -> Document:
    """Two to five sentences, each a paragraph."""
    return [(_sentence(dice) + PARAGRAPH, True) for _ in range(1 + dice.below(4))] + [(_sentence(dice), True)]


def _list(dice: Dice) -> Document:
    """Names in a row, and the same row again: the purest copying, which the records then build on."""
    names = [draw(dice.pick(("name", "person")), dice) for _ in range(2 + dice.below(6))]
    return [(" | ".join(names), False), (f" {' , '.join(names)} .", True)]


def documents(seed: int) -> Iterator[Document]:
    """Endless documents: in eight, five are records, two lists, one is prose in paragraphs."""
    dice = Dice(seed)
    kinds = (_records,) * 5 + (_list,) * 2 + (_prose,)
    while True:
        yield dice.pick(kinds)(dice)
