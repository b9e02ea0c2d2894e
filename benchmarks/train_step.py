"""A training step of LoRA and LoDA+: the reference recipe, Hugging Face with PEFT, this project.

    reference       LoRA's recipe: rows padded to 512, attention written out, the head on every position
    reference_sdpa  the same with torch's fused attention, which LoRA's code does not have; a step of either takes
                    half a minute, so they run when --variants names them
    hf_peft         transformers' Trainer and PEFT's LoRA, rows padded to the longest of the batch; on GPT-2 it adapts
                    c_attn whole, elsewhere q and v
    padded          this project, rows padded to the longest of the batch, the head on target positions only
    packed          this project as it trains by default: no padding, GELU in one kernel
    loda_plus       packed, with LoDA+ in LoRA's place

A step of the reference costs the same for every batch, so one is timed; the others run `--batches` batches. The
comparison favours the reference: its LoRA is the plain product x A B.
"""

import argparse
import copy
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

import loda
from benchmarks.timing import Row, Step, compare, take_turns
from benchmarks.workload import build_model, training_examples
from loda.adapters import LoDAPlus, LoRA
from loda.lab.base.files import locate
from loda.lab.base.model import load_base
from loda.lab.config import compose
from loda.lab.training.examples import Batch, Example, collate
from loda.lab.training.loss import target_loss
from loda.lab.training.optimizer import ReferenceAdamW
from loda.lab.training.packing import pack, packed

BASE = ["model=smollm2_135m"]
BATCH_SIZE = 8
SMOOTHING = 0.1
PADDED_LENGTH = 512
REFERENCES = ("reference", "reference_sdpa")
VARIANTS = (*REFERENCES, "hf_peft", "padded", "packed", "loda_plus")


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a step, and the loss of the first batch before training: equal for all; hf_peft has none."""
    variants = options.variants or [name for name in VARIANTS if name not in REFERENCES]
    return _time(build_model(options.model or "gpt2_small", options.device), options, variants)


def run_real(options: argparse.Namespace) -> list[Row]:
    """As `run`, on the real base."""
    config = compose(BASE).model
    base = load_base(config, locate(config)).to(options.device)
    variants = [name for name in options.variants or VARIANTS if name not in REFERENCES]
    return _time(base, options, variants)


def _time(base: PreTrainedModel, options: argparse.Namespace, variants: Sequence[str]) -> list[Row]:
    examples = training_examples(BATCH_SIZE * options.batches, base.config.vocab_size)
    batches = [examples[start : start + BATCH_SIZE] for start in range(0, len(examples), BATCH_SIZE)]
    steps: dict[str, Step] = {}
    losses: dict[str, float] = {}
    with ExitStack() as stack:
        for name in variants:
            # Each variant adapts a copy of the model that shares its tensors.
            model = copy.deepcopy(base, {id(p): p for p in base.parameters()})
            if name == "hf_peft":
                steps[name] = _hugging_face(model, batches, options)
            else:
                own = batches[:1] if name in REFERENCES else batches
                steps[name], losses[name] = _variant(name, model, own, options, stack)
        take_turns({name: step for name, step in steps.items() if name not in REFERENCES}, repeats=0)
        timings = take_turns(steps, options.repeats or 2, warm_up=0)
        peaks = {name: _peak(step) for name, step in steps.items()} if options.device == "cuda" else {}
    for name, timing in timings.items():
        timing.seconds = [s / (1 if name in REFERENCES else len(batches)) for s in timing.seconds]
    baseline = "packed" if "packed" in timings else next(iter(timings))
    return [
        row | {"loss": losses.get(row["name"])} | ({"peak GiB": peaks[row["name"]]} if peaks else {})
        for row in compare(timings, baseline)
    ]


def _variant(
    name: str,
    model: PreTrainedModel,
    batches: Sequence[list[Example]],
    options: argparse.Namespace,
    stack: ExitStack,
) -> tuple[Step, float]:
    """A training step over the batches, and the loss of the first; `stack` ends the packing of the model."""
    if name == "reference":
        model.set_attn_implementation("eager")
    adapter = LoDAPlus if name == "loda_plus" else LoRA
    adapted = loda.inject(model, loda.LodaConfig(adapter(r=4, alpha=32, dropout=0.1)))
    if name in ("packed", "loda_plus"):
        stack.enter_context(packed(adapted))
    loss = reference_loss if name in REFERENCES else target_loss
    lay_out = pad_to_512 if name in REFERENCES else collate if name == "padded" else pack
    laid_out = [lay_out(batch).to(torch.device(options.device)) for batch in batches]
    autocast = partial(torch.autocast, options.device, torch.bfloat16, enabled=options.precision == "bf16")
    with torch.no_grad(), autocast():
        first = loss(adapted, laid_out[0], SMOOTHING).item()
    adapted.train()
    optimizer = ReferenceAdamW(loda.trainable_parameters(adapted).values(), compose([]).optim)

    def step() -> None:
        for batch in laid_out:
            with autocast():
                value = loss(adapted, batch, SMOOTHING)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step, first


def pad_to_512(examples: list[Example]) -> Batch:
    batch = collate(examples)
    missing = PADDED_LENGTH - batch.inputs.shape[1]
    inputs, targets, mask = (F.pad(part, (0, missing)) for part in (batch.inputs, batch.targets, batch.mask))
    return Batch(inputs, targets, mask)


def reference_loss(model: PreTrainedModel, batch: Batch, smoothing: float) -> Tensor:
    """The reference's loss: that of every position, the ones without a target masked afterwards."""
    log_probs = model(input_ids=batch.inputs, use_cache=False).logits.float().log_softmax(-1)
    negative = -log_probs.gather(-1, batch.targets[..., None]).squeeze(-1)
    losses = (1 - smoothing) * negative - smoothing * log_probs.mean(-1)
    loss: Tensor = (losses * batch.mask).sum() / (batch.mask.sum() + 1e-4)
    return loss


def _hugging_face(model: PreTrainedModel, batches: Sequence[list[Example]], options: argparse.Namespace) -> Step:
    """Trainer.train() over the batches; the Trainer measures its own time, without its preparations."""
    is_gpt2 = model.config.model_type == "gpt2"
    lora = LoraConfig(
        r=4,
        lora_alpha=32,
        lora_dropout=0.1,
        target_modules=["c_attn"] if is_gpt2 else ["q_proj", "v_proj"],
        fan_in_fan_out=is_gpt2,
        task_type="CAUSAL_LM",
    )
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH_SIZE,
        train_sampling_strategy="sequential",
        max_steps=len(batches),
        label_smoothing_factor=SMOOTHING,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=options.device == "cpu",
        bf16=options.precision == "bf16",
        max_grad_norm=0.0,
    )
    trainer = Trainer(
        model=get_peft_model(model, lora),
        args=arguments,
        train_dataset=[example for batch in batches for example in batch],
        data_collator=_pad_to_longest,
    )
    trainer.remove_callback(PrinterCallback)

    def step() -> float:
        return float(trainer.train().metrics["train_runtime"])

    return step


def _pad_to_longest(examples: list[Example]) -> dict[str, Tensor]:
    """Dynamic padding as DataCollatorForSeq2Seq does it: labels of context and padding are -100."""
    batch = collate(examples)
    real = torch.arange(batch.inputs.shape[1]) < torch.tensor([[len(example.ids)] for example in examples])
    labels = torch.full_like(batch.inputs, -100)
    labels[:, 1:] = batch.targets.masked_fill(~batch.mask, -100)[:, :-1]
    return {"input_ids": batch.inputs, "attention_mask": real.long(), "labels": labels}


def _peak(step: Step) -> float:
    """GiB that a step needs on the GPU besides what is there before."""
    before: Any = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return float(torch.cuda.max_memory_allocated() - before) / 2**30
