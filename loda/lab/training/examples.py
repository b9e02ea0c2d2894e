"""Training examples: pairs as token ids, and batches of them (LoRA's FT_Dataset).

    ids = context ids, separator, completion ids of " " + completion, end of text      cut at max_length
    loss on the positions that predict the completion and the end of text: len(context) .. len(ids) - 2

The separator is the end-of-text token, appended to the context. LoRA's code pads every example to max_length; here a
batch is as long as its longest, which is the same computation, because padding stands to the right of everything and
carries no loss.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer
from torch import Tensor

from loda.errors import LodaError
from loda.lab.base.tokenizer import encode_text
from loda.lab.data import Pair
from loda.lab.run import Run
from loda.lab.stage import Stage, digest

PADDING = 0


@dataclass(frozen=True)
class Example:
    """One example: its ids, the first `prompt_length` of which (context and separator) carry no loss."""

    ids: list[int]
    prompt_length: int

    @property
    def num_targets(self) -> int:
        """The number of positions that carry loss; 0 if the context alone fills the example."""
        return max(0, len(self.ids) - self.prompt_length)


@dataclass(frozen=True)
class Batch:
    """Examples side by side.

    Attributes:
        inputs: (examples, length) ids, padded to the right with 0.
        targets: (examples, length) the next id at each position, 0 where there is none.
        mask: (examples, length) True where the prediction counts.
        layout: more arguments for the model, if the examples are packed.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    layout: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        layout = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in self.layout.items()}
        return Batch(self.inputs.to(device), self.targets.to(device), self.mask.to(device), layout)


def encode(tokenizer: Tokenizer, pair: Pair, max_length: int) -> Example:
    prompt, completion = (encode_text(tokenizer, text) for text in (pair.context, " " + pair.completion))
    return Example([*prompt, *completion][:max_length], len(prompt))


def collate(examples: Sequence[Example]) -> Batch:
    """A batch as long as its longest example."""
    length = max(len(example.ids) for example in examples)
    inputs = torch.full((len(examples), length), PADDING)
    targets = torch.full((len(examples), length), PADDING)
    mask = torch.zeros(len(examples), length, dtype=torch.bool)
    for i, example in enumerate(examples):
        n = len(example.ids)
        inputs[i, :n] = torch.tensor(example.ids)
        targets[i, : n - 1] = inputs[i, 1:n]
        mask[i, example.prompt_length - 1 : n - 1] = True
    return Batch(inputs, targets, mask)


def training_examples(run: Run, tokenizer: Tokenizer) -> list[Example]:
    """The tokenised training split: a stage that all runs on the same data, tokenizer and length share.

    Raises:
        LodaError: the data cannot be read, or no example has anything to train.
    """
    dataset = run.experiment.dataset
    disable_progress_bar()
    key = digest([run.data_key, tokenizer.to_str(), dataset.max_length])
    stage = Stage(run.root, f"data/{dataset.name}-train-{key}", "examples")
    if stage.find() is None:
        encoded = [encode(tokenizer, pair, dataset.max_length) for pair in run.pairs("train")]
        columns = {"ids": [e.ids for e in encoded], "prompt_length": [e.prompt_length for e in encoded]}
        stage.write(Dataset.from_dict(columns).save_to_disk)
    examples = _read(stage)
    _report_empty(examples, dataset.max_length)
    return examples


def validation_examples(run: Run, tokenizer: Tokenizer) -> list[Example]:
    """The tokenised examples of the validation split whose loss is computed, spread evenly over it."""
    dataset, number = run.experiment.dataset, run.experiment.trainer.valid_examples
    if number == 0:
        return []
    pairs = run.pairs("valid")
    count = len(pairs) if number is None else min(number, len(pairs))
    chosen = (encode(tokenizer, pairs[i * len(pairs) // count], dataset.max_length) for i in range(count))
    return [example for example in chosen if example.num_targets]


def _read(stage: Stage) -> list[Example]:
    stage.load()
    columns = load_from_disk(str(stage.path)).to_dict()
    return [Example(ids, length) for ids, length in zip(columns["ids"], columns["prompt_length"], strict=True)]


def _report_empty(examples: Sequence[Example], max_length: int) -> None:
    empty = sum(example.num_targets == 0 for example in examples)
    if not empty:
        return
    sentence = (
        f"in {empty:,} of {len(examples):,} training examples the context alone fills dataset.max_length={max_length}, "
        "so they train nothing; raise dataset.max_length, or shorten the contexts"
    )
    if empty == len(examples):
        raise LodaError(sentence)
    warnings.warn(sentence, stacklevel=2)
