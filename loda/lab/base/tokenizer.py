"""The base's tokenizer, and the one name of the token that ends a text."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from loda.errors import LodaError
from loda.settings import read_json

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base; special tokens in a text are encoded as ordinary text, as in the reference.

    The token that the base's configuration says ends a text gets GPT-2's name, `END_OF_TEXT`, so examples, stop tokens
    and scorers know one name. A tokenizer without a base has no configuration and uses that name already.

    Raises:
        LodaError: a base whose configuration names no such token.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more specific
        raise LodaError(f"{path} is not a readable tokenizer: {error}; restore it from a copy") from error
    if (folder / "config.json").is_file():
        name = _end_of_text(tokenizer, folder)
        tokenizer = tokenizer if name == END_OF_TEXT else _swap_names(tokenizer, name, END_OF_TEXT)
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        LodaError: the text is not one token of the vocabulary.
    """
    found = tokenizer.token_to_id(text)
    ids = [found] if found is not None else tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise LodaError(f"{text!r} is not one token of this model's vocabulary; choose another decode.stop")
    return int(ids[0])


def encode_text(tokenizer: Tokenizer, text: str, append_eos: bool = True) -> list[int]:
    """The ids of a text, then of the end-of-text token, which also separates a context from its completion."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return [*ids, token_id(tokenizer, END_OF_TEXT)] if append_eos else ids


def _end_of_text(tokenizer: Tokenizer, folder: Path) -> str:
    ids = read_json(folder / "config.json").get("eos_token_id")
    number = ids[0] if isinstance(ids, list) and ids else ids
    name = tokenizer.id_to_token(number) if isinstance(number, int) else None
    if name is None:
        raise LodaError(
            f"{folder}/config.json has eos_token_id={ids!r}, which is no token of tokenizer.json; set it to the id of "
            "the token that ends a text"
        )
    return str(name)


def _swap_names(tokenizer: Tokenizer, one: str, other: str) -> Tokenizer:
    """The same tokenizer with the names of two tokens swapped; `other` need not exist."""
    names = {one: other, other: one}
    content = json.loads(tokenizer.to_str())
    for added in content["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    else:  # Unigram: [token, score]
        content["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    # It adds special tokens by their names, which nothing here asks for.
    content["post_processor"] = None
    return Tokenizer.from_str(json.dumps(content))
