"""From generated text to a tokenizer and a base model: the toy world's pre-training.

The tokenizer is a GPT-2 style byte-level BPE, the model a standard GPT-2 of four layers. Both are
trained on `world.documents`. Every row of a batch starts with a new document at position 0 and
fills all positions, so that each position embedding is trained.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast  # type: ignore[attr-defined]

from scripts.toy.dice import Dice
from scripts.toy.start import ready_to_copy
from scripts.toy.world import DOMAINS, EOS, PARAGRAPH, documents, draw_record, render_record

VOCABULARY = 1280
POSITIONS = 256


@dataclass(frozen=True)
class Pretraining:
    """Hyper-parameters of the base model's training."""

    seed: int = 1
    steps: int = 3000
    rows: int = 4
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0


def train_tokenizer(seed: int, samples: int = 12000) -> GPT2TokenizerFast:
    """Byte-level BPE with `<|endoftext|>` as id 0 and the paragraph mark as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for document in islice(documents(seed), samples) for text, _ in document)
    tokenizer.train_from_iterator(texts, trainer)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        unk_token=EOS,
        model_max_length=POSITIONS,
    )


def rows(tokenizer: GPT2TokenizerFast, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Endless rows of POSITIONS + 1 ids and their loss mask: whole documents closed by EOS, the last one cut.

    The mask is 0 on records: their invented names cannot be predicted, and would drown the gradient of the copying.
    """
    end = tokenizer.eos_token_id
    row: list[int] = []
    mask: list[int] = []
    for document in documents(seed):
        for text, counts in document:
            ids = tokenizer(text)["input_ids"] + ([] if text.endswith(PARAGRAPH) else [end])
            row += ids
            mask += [int(counts)] * len(ids)
        if len(row) > POSITIONS:
            yield row[: POSITIONS + 1], mask[: POSITIONS + 1]
            row, mask = [], []


def batches(tokenizer: GPT2TokenizerFast, seed: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (size, POSITIONS + 1) batches of ids and of masks."""
    source = rows(tokenizer, seed)
    while True:
        ids, masks = zip(*islice(source, size), strict=True)
        yield torch.tensor(ids), torch.tensor(masks)


def next_token_loss(model: GPT2LMHeadModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the marked tokens; ids and mask are (rows, POSITIONS + 1)."""
    logits = model(ids[:, :-1], use_cache=False).logits
    target = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return cross_entropy(logits.flatten(0, 1), target.flatten())


def new_model(tokenizer: GPT2TokenizerFast) -> GPT2LMHeadModel:
    """A fresh GPT-2: 4 layers of width 128, tied head, tanh GELU, no dropout, its heads ready to copy."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        # The same function as "gelu_new", in one fused operation instead of eight.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    ready_to_copy(model)
    return model


def pretrain(tokenizer: GPT2TokenizerFast, settings: Pretraining) -> GPT2LMHeadModel:
    """Train a new model with AdamW, linear warmup and cosine decay, behind a progress bar."""
    torch.manual_seed(settings.seed)
    model = new_model(tokenizer)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
    )

    def factor(step: int) -> float:
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        progress = (step - settings.warmup) / (settings.steps - settings.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    source = batches(tokenizer, settings.seed, settings.rows)
    average = math.log(VOCABULARY)
    with tqdm(total=settings.steps, desc="pre-training", unit="step") as bar:
        for ids, mask in islice(source, settings.steps):
            loss = next_token_loss(model, ids, mask)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            average += 0.02 * (loss.item() - average)
            bar.set_postfix(loss=f"{average:.3f}", refresh=False)
            bar.update()
    model.eval()
    return model


HELD_OUT_SEED = 10**6
"""Seed of the text that the base is measured on; it starts no training run."""


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, number: int = 8) -> float:
    """Mean loss in nats per token over `number` batches of eight rows that the training has not seen."""
    source = batches(tokenizer, HELD_OUT_SEED, 8)
    return sum(next_token_loss(model, *batch).item() for batch in islice(source, number)) / number


@torch.no_grad()
def copied_names(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, number: int = 100) -> float:
    """Share of unseen records whose name appears in the text that the model writes for them, greedily."""
    dice = Dice(HELD_OUT_SEED)
    hits = 0
    for _ in range(number):
        record = draw_record(dice.pick(DOMAINS), dice)
        prompt = torch.tensor([tokenizer(render_record(record) + EOS)["input_ids"]])
        ids = prompt
        for _ in range(48):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        hits += record["name"] in tokenizer.decode(ids[0, prompt.shape[1] :])
    return hits / number


CARD = """\
# Toy base: a GPT-2 of {millions:.2f}M parameters, made by this project

A standard `GPT2LMHeadModel` ({layers} layers, width {width}, {heads} heads, {positions} positions, tied head, tanh
GELU) with its own byte-level BPE of {vocabulary} tokens, for tests and demonstrations that need no download. It writes
short texts about invented hotels, films and people in many styles; it knows nothing else.

- {parameters:,} parameters, stored in float16
- Made by: `python -m scripts.toy.__main__` (seed {seed})
- Text: `scripts/toy/world.py`, generated while training, no text seen twice
- Training: {steps:,} steps of {rows} rows of {positions} tokens ({tokens:.1f}M tokens), AdamW, learning rate \
{learning_rate}, cosine decay; {minutes:.0f} minutes on a CPU with {threads} torch threads
- Held-out loss: {loss:.3f} nats per token (a test checks that it must stay below {bound:.2f})
- Names copied: in {copied:.0%} of 100 unseen records, greedy decoding repeats the invented name exactly

The rebuilt model differs in the last digits from one machine to another: the order of floating-point sums depends on
the number of threads.
"""


def save(
    folder: Path,
    tokenizer: GPT2TokenizerFast,
    model: GPT2LMHeadModel,
    settings: Pretraining,
    minutes: float,
) -> None:
    """Write tokenizer, float16 weights and the card with the measured figures of the rounded weights."""
    model.half()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    model.float()
    loss = held_out_loss(model, tokenizer)
    card = CARD.format(
        millions=model.num_parameters() / 1e6,
        parameters=model.num_parameters(),
        layers=model.config.n_layer,
        width=model.config.n_embd,
        heads=model.config.n_head,
        positions=POSITIONS,
        vocabulary=VOCABULARY,
        seed=settings.seed,
        steps=settings.steps,
        rows=settings.rows,
        tokens=settings.steps * settings.rows * POSITIONS / 1e6,
        learning_rate=settings.learning_rate,
        minutes=minutes,
        threads=torch.get_num_threads(),
        loss=loss,
        bound=loss + 0.02,
        copied=copied_names(model, tokenizer),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
