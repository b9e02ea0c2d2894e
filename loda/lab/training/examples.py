"""Rows: pairs as token ids, and batches of rows (protocol: LoRA's FT_Dataset).

    ids = context ids, separator, completion ids of " " + completion, end of text      cut at max_length
    loss on the positions that predict the completion and the end of text: len(context) .. len(ids) - 2

The separator is the end-of-text token, appended to the context. LoRA's code pads every row to max_length; here a
batch is as long as its longest row, which is the same computation, because padding stands to the right of everything
and carries no loss.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer
from torch import Tensor

from loda.errors import LodaError
from loda.lab.base.model import END_OF_TEXT, token_id
from loda.lab.data import Pair
from loda.sealed import check_folder, write_sealed_folder

PADDING = 0
FORMAT = 2
"""Of the folder of encoded rows; raised when it changes."""


@dataclass(frozen=True)
class Row:
    """One training row: the ids, and how many of them are given (context and separator)."""

    ids: list[int]
    given: int

    @property
    def counted(self) -> int:
        """How many positions carry loss; none where the context alone fills the row."""
        return max(0, len(self.ids) - self.given)


@dataclass(frozen=True)
class Batch:
    """Rows side by side.

    Attributes:
        inputs: (rows, length) ids, padded to the right with 0.
        targets: (rows, length) the next id at each position, 0 where there is none.
        mask: (rows, length) True where the prediction counts.
        layout: what the model must be told besides, where the rows do not stand side by side (see
            `loda.lab.training.packing`).
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    layout: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        layout = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in self.layout.items()}
        return Batch(self.inputs.to(device), self.targets.to(device), self.mask.to(device), layout)


def prompt(tokenizer: Tokenizer, context: str, separator: bool = True) -> list[int]:
    """The ids that the model is given: the context without leading space, then the separator."""
    ids: list[int] = tokenizer.encode(context, add_special_tokens=False).ids
    return [*ids, token_id(tokenizer, END_OF_TEXT)] if separator else ids


def encode(tokenizer: Tokenizer, pair: Pair, max_length: int) -> Row:
    """One row, cut at max_length."""
    given = prompt(tokenizer, pair.context)
    completion = tokenizer.encode(" " + pair.completion, add_special_tokens=False).ids
    return Row([*given, *completion, token_id(tokenizer, END_OF_TEXT)][:max_length], len(given))


def encoded(folder: Path, tokenizer: Tokenizer, pairs: Sequence[Pair], max_length: int) -> list[Row]:
    """All rows, kept in `folder` as a Hugging Face data set, so that this work is done once.

    The folder's name stands for what determines the rows (see `loda.lab.training.stage`).

    Raises:
        LodaError: the folder does not hold what was written to it, or no row has anything to train.
    """
    disable_progress_bar()
    if not folder.is_dir():
        rows = [encode(tokenizer, pair, max_length) for pair in pairs]
        columns = {"ids": [r.ids for r in rows], "given": [r.given for r in rows]}
        write_sealed_folder(folder, Dataset.from_dict(columns).save_to_disk)
    check_folder(folder)
    try:
        columns = load_from_disk(str(folder)).to_dict()
    except (OSError, ValueError) as error:  # pyarrow's errors and JSON's are ValueErrors
        raise LodaError(f"{folder} cannot be read ({error}); delete it, and it is made again") from error
    found = [Row(ids, given) for ids, given in zip(columns["ids"], columns["given"], strict=True)]
    _report_empty(found, max_length)
    return found


def _report_empty(rows: Sequence[Row], max_length: int) -> None:
    """Say how many rows carry no loss."""
    empty = sum(row.counted == 0 for row in rows)
    if not empty:
        return
    sentence = (
        f"in {empty:,} of {len(rows):,} training rows the context alone fills dataset.max_length={max_length}, so they "
        "train nothing; raise dataset.max_length, or shorten the contexts"
    )
    if empty == len(rows):
        raise LodaError(sentence)
    warnings.warn(sentence, stacklevel=2)


def collate(rows: Sequence[Row]) -> Batch:
    """A batch as long as its longest row."""
    length = max(len(row.ids) for row in rows)
    inputs = torch.full((len(rows), length), PADDING)
    targets = torch.full((len(rows), length), PADDING)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        n = len(row.ids)
        inputs[i, :n] = torch.tensor(row.ids)
        targets[i, : n - 1] = inputs[i, 1:n]
        mask[i, row.given - 1 : n - 1] = True
    return Batch(inputs, targets, mask)
