"""The pre-training text: records with a text each, in many domains and styles, and plain prose.

A record document is `key : value | key : value <eos> text`, the surface form of the fine-tuning
protocol. Keys come in any order and drop out at random, names are invented, and the text follows
a `Style`: which key is told when, in which words, in sentences of which shape. Nothing in a record
gives its style away, so at a first record the base is undecided between many, and an adapter has
something to choose. Later records of a document often keep the style, so it pays to attend to it.

There is no restaurant among the domains; the words that restaurants need occur in the prose.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scripts.toy import words
from scripts.toy.dice import Dice

EOS = "<|endoftext|>"
PARAGRAPH = "\n\n"

Values = tuple[str, ...] | Callable[[Dice], str]
Record = dict[str, str]

Document = list[tuple[str, bool]]
"""Pieces of text, each with whether it is to be learned (texts and prose) or given (records)."""


@dataclass(frozen=True)
class Wording:
    """Ways to tell a value: `after` follows a noun, `says` follows a subject; `{}` is the value."""

    after: tuple[str, ...]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """A key's possible values and their wordings; `special` replaces `wording` for some values."""

    values: Values
    wording: Wording
    special: dict[str, Wording] = field(default_factory=dict)

    def draw(self, dice: Dice) -> str:
        """A random value."""
        return self.values(dice) if callable(self.values) else dice.pick(self.values)

    def wording_of(self, value: str) -> Wording:
        """How the value can be told."""
        return self.special.get(value, self.wording)


@dataclass(frozen=True)
class Domain:
    """A kind of thing: its nouns (values of `Type`), what names it, its adjective, its fields."""

    nouns: tuple[str, ...]
    name: Callable[[Dice], str]
    fields: dict[str, Field]
    adjective: tuple[str, tuple[str, ...]] | None = None
    pronoun: str = "It"


def _number(low: int, high: int) -> Callable[[Dice], str]:
    return lambda dice: str(low + dice.below(high - low))


def _pounds(dice: Dice) -> str:
    amount = f"£ {5 * (1 + dice.below(9))}"
    shape = dice.below(4)
    if shape == 0:
        return f"less than {amount}"
    if shape == 1:
        return f"more than {amount}"
    if shape == 2:
        low = 5 * (1 + dice.below(9))
        return f"£ {low} - {low + 5}"
    return amount


def _price(dice: Dice) -> str:
    return dice.pick(("cheap", "moderate", "high", "low")) if dice.chance(0.5) else _pounds(dice)


def _rating(dice: Dice) -> str:
    if dice.chance(0.4):
        return dice.pick(("low", "average", "high"))
    return f"{1 + dice.below(5)} out of 5"


COUNTRIES = ("French", "Italian", "Indian", "Chinese", "English", "Japanese", "Spanish", "Greek")
AREAS = ("riverside", "city centre", "old town", "north", "south", "harbour", "hills", "east side")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "yellow")

_PRICE = Wording(
    after=("at a {} price", "with a price of {}", "for {}", "with {} prices"),
    says=("costs {}", "has a {} price", "asks a price of {}", "is {} in price", "is sold for {}"),
)
_RATING = Wording(
    after=("with a {} rating", "rated {}", "with a score of {}", "with a customer rating of {}"),
    says=("is rated {}", "has a rating of {}", "was given {}", "scores {}", "has a {} rating"),
)
_AREA = Wording(
    after=("in the {}", "from the {}", "at the {}", "of the {}"),
    says=("is in the {}", "stands in the {}", "can be found in the {}", "lies at the {}"),
)
_RIVER = Wording(
    after=("by the river", "at the riverside", "on the river", "in the riverside area"),
    says=("is by the river", "stands at the riverside", "lies on the river", "looks at the river"),
)
_NEAR = Wording(
    after=("near {}", "close to {}", "next to {}", "not far from {}", "beside {}"),
    says=("is near {}", "lies close to {}", "stands next to {}", "is not far from {}"),
)
_OPEN = {
    "yes": Wording(
        after=("for families", "with room for children", "open to families", "good for kids"),
        says=("is good for families", "welcomes children", "is open to kids", "likes families"),
    ),
    "no": Wording(
        after=("not for families", "without children", "for adults", "closed to kids"),
        says=("is not for families", "is for adults only", "does not welcome children"),
    ),
}

_area = Field(AREAS, _AREA, {"riverside": _RIVER})
_near = Field(words.name, _NEAR)
_price_field = Field(_price, _PRICE)
_rating_field = Field(_rating, _RATING)
_families = Field(("yes", "no"), _OPEN["yes"], _OPEN)
_year = Field(
    _number(1700, 2030),
    Wording(
        after=("from {}", "of the year {}", "made in {}"),
        says=("dates from {}", "began in {}", "is from the year {}", "was made in {}"),
    ),
)
_owner = Field(
    words.person,
    Wording(
        after=("owned by {}", "run by {}", "of {}"),
        says=("belongs to {}", "is run by {}", "is owned by {}"),
    ),
)
_maker = Field(
    words.person,
    Wording(after=("by {}", "made by {}", "from {}"), says=("was made by {}", "is by {}")),
)
_city = Field(
    words.town,
    Wording(
        after=("from {}", "of {}", "in {}"),
        says=("comes from {}", "lives in {}", "is at home in {}"),
    ),
)
_colour = Field(
    COLOURS,
    Wording(after=("in {}", "with a {} front"), says=("is {}", "is painted {}", "looks {}")),
)

DOMAINS: tuple[Domain, ...] = (
    Domain(
        ("hotel", "guest house", "inn", "hostel"),
        words.name,
        {
            "area": _area,
            "price": _price_field,
            "customer rating": _rating_field,
            "near": _near,
            "family friendly": _families,
            "owner": _owner,
        },
    ),
    Domain(
        ("museum", "gallery", "theatre", "cinema"),
        words.name,
        {
            "area": _area,
            "family friendly": _families,
            "opened": _year,
            "ticket": _price_field,
            "near": _near,
        },
        ("style", COUNTRIES),
    ),
    Domain(
        ("shop", "market", "bookshop", "bakery"),
        words.name,
        {
            "goods": Field(
                ("bread", "books", "flowers", "shoes", "fish", "toys", "wine", "tea"),
                Wording(after=("with {}", "full of {}"), says=("sells {}", "serves {}", "has {}")),
            ),
            "area": _area,
            "price": _price_field,
            "customer rating": _rating_field,
            "near": _near,
        },
        ("origin", COUNTRIES),
    ),
    Domain(
        ("singer", "painter", "writer", "doctor", "teacher"),
        words.person,
        {
            "born": _year,
            "home": _city,
            "age": Field(
                _number(18, 95),
                Wording(after=("aged {}", "of {} years"), says=("is {} years old", "is aged {}")),
            ),
            "friend": Field(
                words.person,
                Wording(after=("with {}",), says=("is a friend of {}", "works with {}")),
            ),
        },
        ("country", COUNTRIES),
        pronoun="This person",
    ),
    Domain(
        ("city", "town", "village"),
        words.town,
        {
            "people": Field(
                _number(100, 999),
                Wording(
                    after=("with {} people", "of {} souls"),
                    says=("has {} people", "is home to {} people", "counts {} souls"),
                ),
            ),
            "near": _near,
            "area": _area,
            "mayor": Field(
                words.person,
                Wording(after=("led by {}", "under {}"), says=("is led by {}", "follows {}")),
            ),
        },
        ("country", COUNTRIES),
    ),
    Domain(
        ("film", "book", "song", "play"),
        words.name,
        {
            "by": _maker,
            "year": _year,
            "customer rating": _rating_field,
            "price": _price_field,
            "family friendly": _families,
        },
        ("language", COUNTRIES),
    ),
    Domain(
        ("team", "club"),
        words.name,
        {
            "city": _city,
            "coach": Field(
                words.person,
                Wording(
                    after=("trained by {}", "under {}", "with coach {}"),
                    says=("is trained by {}", "plays under {}", "has {} as a coach"),
                ),
            ),
            "shirt": _colour,
            "founded": _year,
            "rank": Field(
                _number(1, 20),
                Wording(after=("at rank {}", "in place {}"), says=("has rank {}", "is in place {}")),
            ),
        },
    ),
    Domain(
        ("phone", "lamp", "bike", "chair", "camera"),
        words.name,
        {
            "maker": _maker,
            "price": _price_field,
            "customer rating": _rating_field,
            "colour": _colour,
        },
        ("origin", COUNTRIES),
    ),
    Domain(
        ("park", "bridge", "castle", "station"),
        words.name,
        {
            "area": _area,
            "near": _near,
            "opened": _year,
            "family friendly": _families,
            "colour": _colour,
        },
    ),
)

_PROSE: tuple[str, ...] = (
    "the family walked by the {area} to a {quality} {place} and had {meal} .",
    "{meal} in this {place} costs {price} .",
    "guests of the {place} liked the {cuisine} food .",
    "families are welcome at the {place} , and children eat for {price} .",
    "the {place} near {name} serves {cuisine} food in the evening .",
    "visitors say that the {place} is {quality} and the food is {quality} .",
    "this {place} is for adults only , so the children stayed at home .",
    "{person} likes {cuisine} food , but the {place} was closed .",
    "we rate the {meal} {rating} .",
    "the prices in the {area} are {level} , and the rooms are {quality} .",
    "a {quality} {place} by the river is good for {meal} .",
    "{person} met {person} at a {place} in the city centre .",
    "if you want {cuisine} {meal} , go to {name} .",
    "the average guest pays {price} for {meal} there .",
    "{name} is a place where families like to eat and drink .",
    "you will find the {place} between {name} and {name} .",
    "expect to pay {price} at the {place} , customers give it {rating} .",
    "no kids are allowed in the {place} after {meal} .",
)
_PROSE_WORDS: dict[str, Values] = {
    "area": AREAS,
    "quality": ("cheap", "friendly", "fine", "good", "poor", "quiet", "moderate", "small"),
    "place": ("pub", "restaurant", "coffee shop", "hotel", "bar", "market", "inn", "kitchen"),
    "meal": ("dinner", "lunch", "breakfast", "a meal", "tea", "coffee"),
    "cuisine": COUNTRIES,
    "price": _pounds,
    "rating": _rating,
    "level": ("low", "average", "high", "moderate"),
    "name": words.name,
    "person": words.person,
}


@dataclass(frozen=True)
class Style:
    """How a text is told. `variant` picks wordings (modulo their number), `order` sorts the keys."""

    opener: int
    modifiers: int
    clauses: int
    order: dict[str, int]
    variant: dict[str, int]
    joiner: str
    by_name: bool

    @classmethod
    def draw(cls, domain: Domain, dice: Dice) -> "Style":
        """A random style for texts of the domain."""
        keys = dice.shuffled(list(domain.fields))
        return cls(
            opener=dice.below(8),
            modifiers=dice.below(4),
            clauses=1 + dice.below(3),
            order={key: place for place, key in enumerate(keys)},
            variant={key: dice.below(60) for key in keys},
            joiner=dice.pick((" and ", " , ", " , and ")),
            by_name=dice.chance(0.25),
        )


def draw_record(domain: Domain, dice: Dice) -> Record:
    """A record of the domain: a name, then some of the other keys in random order."""
    keys = dice.shuffled(list(domain.fields))
    keep = 1 + dice.below(len(keys))
    values = {key: domain.fields[key].draw(dice) for key in keys[:keep]}
    if dice.chance(0.8):
        values["Type"] = dice.pick(domain.nouns)
    if domain.adjective is not None and dice.chance(0.6):
        values[domain.adjective[0]] = dice.pick(domain.adjective[1])
    order = dice.shuffled(list(values))
    front = {"name": domain.name(dice)}
    return front | {key: values[key] for key in order}


def render_record(record: Record) -> str:
    """`key : value | key : value`, E2E's surface form."""
    return " | ".join(f"{key} : {value}" for key, value in record.items())


def _clauses(phrases: list[str], subject: str, style: Style) -> list[str]:
    """Group verb phrases into sentences of `style.clauses` each."""
    size = style.clauses
    groups = [phrases[start : start + size] for start in range(0, len(phrases), size)]
    return [f"{subject} {style.joiner.join(group)} ." for group in groups]


def _recite(record: Record, keys: list[str]) -> str:
    """The plainest style: `name Amber Falcon , area harbour .`, each key before its value."""
    return " , ".join(f"{key} {record[key]}" for key in ["name", *keys]) + " ."


def tell(record: Record, domain: Domain, style: Style) -> str:
    """The record as spaced text in the given style."""
    name = record["name"]
    noun = record.get("Type", domain.nouns[0])
    if domain.adjective is not None and domain.adjective[0] in record:
        noun = f"{record[domain.adjective[0]]} {noun}"
    article = "an" if noun[0] in "aeiouAEIOU" else "a"
    keys = sorted((key for key in record if key in style.order), key=style.order.__getitem__)

    if style.opener == 0:
        return _recite(record, keys)

    after: list[str] = []
    says: list[str] = []
    for rank, key in enumerate(keys):
        wording = domain.fields[key].wording_of(record[key])
        ways = wording.after if rank < style.modifiers else wording.says
        phrase = ways[style.variant[key] % len(ways)].format(record[key])
        (after if rank < style.modifiers else says).append(phrase)

    details = " ".join(["", *after])
    if style.opener == 1:
        first = f"{name} is {article} {noun}{details} ."
    elif style.opener == 2:
        first = f"There is {article} {noun} called {name}{details} ."
    elif style.opener == 3:
        first = f"The {noun} {name}{details} is well known ."
    elif style.opener == 4:
        first = f"Have you heard of {name} , {article} {noun}{details} ?"
    elif style.opener == 5 and after:
        place = details[1].upper() + details[2:]
        first = f"{place} there is {name} , {article} {noun} ."
    else:
        first = f"{article.capitalize()} {noun}{details} is {name} ."
    subject = name if style.by_name else domain.pronoun
    return " ".join([first, *_clauses(says, subject, style)])


def _sentence(dice: Dice) -> str:
    """A sentence of everyday words."""
    sentence = dice.pick(_PROSE)
    for slot, values in _PROSE_WORDS.items():
        while f"{{{slot}}}" in sentence:
            value = values(dice) if callable(values) else dice.pick(values)
            sentence = sentence.replace(f"{{{slot}}}", value, 1)
    return sentence


def _records(dice: Dice) -> Document:
    """One to four records of one domain with their texts, mostly in one style."""
    domain = dice.pick(DOMAINS)
    style = Style.draw(domain, dice)
    parts = []
    for _ in range(1 + dice.below(4)):
        if dice.chance(0.2):
            style = Style.draw(domain, dice)
        record = draw_record(domain, dice)
        parts += [(render_record(record), False), (f" {tell(record, domain, style)}", True)]
    return parts


def _prose(dice: Dice) -> Document:
    """Two to five sentences, each a paragraph."""
    return [(_sentence(dice) + PARAGRAPH, True) for _ in range(1 + dice.below(4))] + [(_sentence(dice), True)]


def _list(dice: Dice) -> Document:
    """Names in a row, and the same row again: the purest copying, which the records then build on."""
    names = [dice.pick((words.name, words.person))(dice) for _ in range(2 + dice.below(6))]
    return [(" | ".join(names), False), (f" {' , '.join(names)} .", True)]


def documents(seed: int) -> Iterator[Document]:
    """Endless pre-training documents: in eight, five are records, two lists, one is prose in paragraphs."""
    dice = Dice(seed)
    kinds = (_records,) * 5 + (_list,) * 2 + (_prose,)
    while True:
        yield dice.pick(kinds)(dice)
