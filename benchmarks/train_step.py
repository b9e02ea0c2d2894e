"""A training step of LoRA and LoDA+, on the same batches: the reference recipe, Hugging Face with PEFT, this project.

    python -m benchmarks.train_step                                       GPT2-small's shape, some minutes on two cores
    python -m benchmarks.train_step --model gpt2_medium --variants reference fast --repeats 2
    python -m benchmarks.train_step --device cuda --model gpt2_medium --precision bf16 --batches 50

    reference    LoRA's recipe: every row padded to 512, attention written out, the vocabulary head on every position,
                 log-softmax in float32
    reference_sdpa    the same with torch's fused attention, which LoRA's code does not have
    hf_peft      transformers' Trainer and PEFT's LoRA on c_attn, rows padded to the longest of the batch
    padded       this project, rows padded to the longest of the batch, head on the target positions alone
    fast         this project, trainer.fast=true: no padding, GELU in one kernel
    bucketed     fast, and trainer.order=bucketed
    loda_plus    fast, LoDA+ in LoRA's place
    compiled     fast, and trainer.compile=true

Every variant has a process of its own, so the peak memory is its own. A step of `reference` costs the same for every
batch and is timed for one; the others are timed for `--batches` batches in the reference's order and divided. The
reference recipe is favoured here: its LoRA is the plain product x A B.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence, Sized
from functools import partial
from statistics import mean
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import loda
from benchmarks.report import Row as Line
from benchmarks.report import begin, finish, parser
from benchmarks.timing import Prepared, Step, interleave_processes
from benchmarks.workload import MAX_LENGTH, SHAPES, random_gpt2, training_rows
from loda.adapters import LoDAPlus, LoRA
from loda.lab.config import compose
from loda.lab.training.examples import PADDING, Batch, Row, collate
from loda.lab.training.loss import NORMALISER, target_loss
from loda.lab.training.optimizer import ReferenceAdamW
from loda.lab.training.packing import make_fast, pack
from loda.lab.training.sampler import batches

ROWS = 8
SMOOTHING = 0.1
REFERENCES = ("reference", "reference_sdpa")
VARIANTS = (*REFERENCES, "hf_peft", "padded", "fast", "bucketed", "loda_plus", "compiled")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("train_step", "A training step against the reference recipe and Hugging Face with PEFT.")
    options.add_argument("--model", default="gpt2_small", choices=SHAPES)
    options.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options.add_argument("--batches", type=int, default=4, help="batches of a repeat")
    options.add_argument("--variants", nargs="+", default=[v for v in VARIANTS if v != "compiled"], choices=VARIANTS)
    options.add_argument("--warm-up", type=int, default=1, help="untimed repeats before; the reference has none")
    options.add_argument(
        "--losses", action=argparse.BooleanOptionalAction, default=True, help="compare the first losses"
    )
    arguments = options.parse_args(argv)
    started = begin(arguments)
    settings = (arguments.model, arguments.device, arguments.precision, arguments.batches, arguments.losses)
    builders = {name: partial(build, name, *settings) for name in arguments.variants}
    # A step of the reference takes long enough not to need one before it.
    warm_up = {name: 0 if name in REFERENCES else arguments.warm_up for name in builders}
    timings = interleave_processes(builders, arguments.repeats, warm_up)
    lines = []
    for name, timing in timings.items():
        against = next((other for other in ("reference", "hf_peft") if other in timings and other != name), None)
        ratio = timings[against].median / timing.median if against and name != "reference" else None
        memory = f"{(timing.peak_bytes or 0) / 2**30:.2f} GiB peak"
        loss = f", loss {timing.figures['loss']:.6f}" if "loss" in timing.figures else ""
        tokens = f", {timing.figures['tokens'] / timing.median:,.0f} tokens/s"
        lines.append(
            Line(name, timing.median, ratio, f"faster than {against}" if ratio else "", memory + tokens + loss)
        )
    details = {name: vars(timing) for name, timing in timings.items()}
    _, source = training_rows(1)
    finish("train_step", arguments, started, lines, {"rows": source, "variants": details})


def build(variant: str, model: str, device: str, precision: str, count: int, losses: bool) -> Prepared:
    """A variant; its loss of the first batch at the start, which is the same for all but hf_peft."""
    rows, _ = training_rows(2000)
    chosen = choose(rows, "bucketed" if variant == "bucketed" else "reference", count)
    figures = {"tokens": mean(sum(len(row.ids) for row in batch) for batch in chosen)}
    base = random_gpt2(model, device)
    if variant == "reference":
        base.set_attn_implementation("eager")
    if variant == "hf_peft":
        return Prepared(_hugging_face(base, chosen, device, precision), len(chosen), figures)
    adapter = LoDAPlus if variant == "loda_plus" else LoRA
    adapted = loda.inject(base, loda.LodaConfig(adapter(r=4, alpha=32, dropout=0.1)))
    loss, lay_out = _recipe(variant, adapted)
    laid_out = [lay_out(batch).to(torch.device(device)) for batch in chosen[: 1 if variant in REFERENCES else None]]
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bf16")
    if losses:
        with torch.no_grad(), autocast():
            figures["loss"] = loss(adapted, laid_out[0], SMOOTHING).item()
    adapted.train()
    optimizer = ReferenceAdamW(loda.trainable_parameters(adapted).values(), compose([]).optim)

    def step() -> None:
        for batch in laid_out:
            with autocast():
                value = loss(adapted, batch, SMOOTHING)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

    return Prepared(step, len(laid_out), figures)


def choose(rows: Sequence[Row], order: str, count: int) -> list[list[Row]]:
    """The first batches of an order; of the bucketed one, as many evenly spaced by length, which stand for all."""
    lengths = [len(row.ids) for row in rows]
    drawn = [[rows[i] for i in batch] for batch in batches(order, lengths, ROWS, 0, 1)]
    if order == "reference":
        return drawn[:count]
    drawn.sort(key=lambda batch: sum(len(row.ids) for row in batch))
    return [drawn[len(drawn) * (2 * i + 1) // (2 * count)] for i in range(count)]


def _recipe(variant: str, model: PreTrainedModel) -> tuple[Callable[..., Tensor], Callable[[list[Row]], Batch]]:
    """The loss and the layout of the batches."""
    if variant in REFERENCES:
        return reference_loss, pad_to_512
    if variant == "padded":
        return target_loss, collate
    make_fast(model)
    if variant == "compiled":
        model.base_model.compile(dynamic=True)
    return target_loss, pack


def pad_to_512(rows: list[Row]) -> Batch:
    """A batch as the reference lays it out."""
    batch = collate(rows)
    missing = MAX_LENGTH - batch.inputs.shape[1]
    inputs, targets, mask = (F.pad(x, (0, missing), value=PADDING) for x in (batch.inputs, batch.targets, batch.mask))
    return Batch(inputs, targets, mask)


def reference_loss(model: PreTrainedModel, batch: Batch, smoothing: float) -> Tensor:
    """Sections 2 and 4 of the protocol: the loss of all positions, those without a target masked afterwards."""
    log_probs = model(input_ids=batch.inputs, use_cache=False).logits.float().log_softmax(-1)
    negative = -log_probs.gather(-1, batch.targets[..., None]).squeeze(-1)
    losses = (1 - smoothing) * negative - smoothing * log_probs.mean(-1)
    loss: Tensor = (losses * batch.mask).sum() / (batch.mask.sum() + NORMALISER)
    return loss


def _hugging_face(base: PreTrainedModel, chosen: list[list[Row]], device: str, precision: str) -> Step:
    """Trainer.train() over the batches; the seconds are those between its first step's beginning and its end."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=4, lora_alpha=32, lora_dropout=0.1, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    watch = _Watch()
    folder = tempfile.mkdtemp()
    trainer = _InOrder(
        model=get_peft_model(base, settings),
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=len(chosen),
            learning_rate=2e-4,
            label_smoothing_factor=SMOOTHING,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=device == "cpu",
            bf16=precision == "bf16",
            max_grad_norm=0.0,
        ),
        train_dataset=[row for batch in chosen for row in batch],
        data_collator=_pad_to_longest,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)

    def step() -> float:
        trainer.train()
        return watch.seconds

    return step


class _InOrder(Trainer):
    """Hugging Face's trainer over rows in the order that they are given."""

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(cast(Sized, self.train_dataset))


class _Watch(TrainerCallback):
    """Seconds from the beginning of the first step to the end of the training."""

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        self.seconds = -time.perf_counter()

    def on_train_end(self, *arguments: Any, **more: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter()


def _pad_to_longest(rows: list[Row]) -> dict[str, Tensor]:
    """Dynamic padding as DataCollatorForSeq2Seq does it: labels of context and padding are -100."""
    batch = collate(rows)
    positions = torch.arange(batch.inputs.shape[1])
    real = positions < torch.tensor([[len(row.ids)] for row in rows])
    is_given = positions < torch.tensor([[row.given] for row in rows])
    labels = batch.inputs.masked_fill(~real | is_given, -100)
    return {"input_ids": batch.inputs, "attention_mask": real.long(), "labels": labels}


if __name__ == "__main__":
    main()
