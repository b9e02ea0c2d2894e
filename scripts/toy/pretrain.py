"""From generated text to a tokenizer and a base model: a byte-level BPE and a GPT-2 of four layers.

Every row of a batch starts with a new document at position 0 and fills all positions, so that each position embedding
is trained.
"""

import math
from collections.abc import Iterator
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
from scripts.toy.vocabulary import VOCABULARY
from scripts.toy.world import EOS, PARAGRAPH, documents, draw_record, render_record

TOKENS, POSITIONS = 1280, 256
SEED, STEPS, ROWS = 1, 3000, 4
LEARNING_RATE, WARMUP, WEIGHT_DECAY, CLIP = 3e-3, 100, 0.05, 1.0
HELD_OUT_SEED = 10**6
"""Seed of the text that the base is measured on; no training starts from it."""


def train_tokenizer(samples: int = 12000) -> GPT2TokenizerFast:
    """Byte-level BPE with `<|endoftext|>` as id 0 and the paragraph mark as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for document in islice(documents(SEED), samples) for text, _ in document)
    tokenizer.train_from_iterator(texts, trainer)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, unk_token=EOS, model_max_length=POSITIONS
    )


def _rows(tokenizer: GPT2TokenizerFast, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Endless rows of POSITIONS + 1 ids and their loss mask: whole documents closed by EOS, the last one cut.

    The mask is 0 on records: their invented names cannot be predicted, and would drown the gradient of the copying.
    """
    row: list[int] = []
    mask: list[int] = []
    for document in documents(seed):
        for text, is_learned in document:
            ids = tokenizer(text)["input_ids"] + ([] if text.endswith(PARAGRAPH) else [tokenizer.eos_token_id])
            row += ids
            mask += [int(is_learned)] * len(ids)
        if len(row) > POSITIONS:
            yield row[: POSITIONS + 1], mask[: POSITIONS + 1]
            row, mask = [], []


def batches(tokenizer: GPT2TokenizerFast, seed: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (size, POSITIONS + 1) batches of ids and of masks."""
    rows = _rows(tokenizer, seed)
    while True:
        ids, masks = zip(*islice(rows, size), strict=True)
        yield torch.tensor(ids), torch.tensor(masks)


def next_token_loss(model: GPT2LMHeadModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the marked tokens; ids and mask are (rows, POSITIONS + 1)."""
    logits = model(ids[:, :-1], use_cache=False).logits
    target = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return cross_entropy(logits.flatten(0, 1), target.flatten())


def new_model(end: int) -> GPT2LMHeadModel:
    """A GPT-2 of 4 layers of width 128 without dropout, its heads ready to copy; `end` is the end-of-text token."""
    config = GPT2Config(
        vocab_size=TOKENS,
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


def _warmup_and_cosine(step: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def pretrain(tokenizer: GPT2TokenizerFast, steps: int = STEPS) -> GPT2LMHeadModel:
    """Train a new model with AdamW, behind a progress bar."""
    torch.manual_seed(SEED)
    model = new_model(tokenizer.eos_token_id)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_and_cosine)
    bar = tqdm(islice(batches(tokenizer, SEED, ROWS), steps), total=steps, desc="pre-training", unit="step")
    average = math.log(TOKENS)
    for ids, mask in bar:
        loss = next_token_loss(model, ids, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        average += 0.02 * (loss.item() - average)
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
    model.eval()
    return model


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, number: int = 8) -> float:
    """Mean loss in nats per token over `number` batches of eight rows that the training has not seen."""
    unseen = islice(batches(tokenizer, HELD_OUT_SEED, 8), number)
    return sum(next_token_loss(model, *batch).item() for batch in unseen) / number


@torch.no_grad()
def copied_names(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, number: int = 100) -> float:
    """Share of unseen records whose name appears in the text that the model writes for them, greedily."""
    dice = Dice(HELD_OUT_SEED)
    hits = 0
    for _ in range(number):
        record = draw_record(dice.pick(VOCABULARY["domains"]), dice)
        prompt = torch.tensor([tokenizer(render_record(record) + EOS)["input_ids"]])
        ids = prompt
        for _ in range(48):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        hits += record["name"] in tokenizer.decode(ids[0, prompt.shape[1] :])
    return hits / number


def save(folder: Path, tokenizer: GPT2TokenizerFast, model: GPT2LMHeadModel, minutes: float) -> None:
    """Write tokenizer, float16 weights and the card, which is measured on the rounded weights."""
    model.half()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    model.float()
    loss = held_out_loss(model, tokenizer)
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    card = template.format(
        config=model.config,
        millions=model.num_parameters() / 1e6,
        parameters=model.num_parameters(),
        seed=SEED,
        steps=STEPS,
        rows=ROWS,
        tokens=STEPS * ROWS * POSITIONS / 1e6,
        learning_rate=LEARNING_RATE,
        minutes=minutes,
        threads=torch.get_num_threads(),
        loss=loss,
        bound=loss + 0.02,
        copied=copied_names(model, tokenizer),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
