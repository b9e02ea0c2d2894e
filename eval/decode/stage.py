"""The decoding stage: the best continuation of every distinct context, in predictions.jsonl."""

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel

import loda
from eval.decode.beam import Hypothesis, Rules, batches, check_prompts, search
from loda.atomic import discard_folder
from loda.errors import LodaError
from loda.lab.base.approximation import get_approximation
from loda.lab.base.model import Base
from loda.lab.base.tokenizer import encode_text
from loda.lab.config import DecodeConfig
from loda.lab.data import Instance
from loda.lab.device import explain_oom, pick_device, set_threads
from loda.lab.progress import progress_bar
from loda.lab.provenance import provenance
from loda.lab.run import Run
from loda.lab.stage import Manifest, Stage, digest
from loda.lab.training.checkpoints import Checkpoint

PREDICTIONS = "predictions.jsonl"
PLAIN = "{context}"


def encode_prompts(
    tokenizer: Tokenizer, instances: Sequence[Instance], config: DecodeConfig, max_length: int
) -> list[list[int]]:
    """What the model is given for every context, in order.

    A context longer than max_length - max_new_tokens keeps its last ids, as in LoRA's code.

    Raises:
        LodaError: a context within a template is so long; cut, it would lose the template's beginning.
    """
    room = max_length - config.max_new_tokens
    rendered = [encode_text(tokenizer, config.prompt.render(i.context), config.prompt.append_eos) for i in instances]
    longest = max(map(len, rendered))
    if config.prompt.template != PLAIN and longest > room:
        raise LodaError(
            f"decode.prompt.template makes prompts of up to {longest} tokens, dataset.max_length={max_length} less "
            f"decode.max_new_tokens={config.max_new_tokens} leaves {room}; shorten the first, or change the others"
        )
    return [ids[-room:] for ids in rendered]


def rules_of(config: DecodeConfig, stop: Sequence[int]) -> Rules:
    """The rules of the search; `stop` are the ids of `config.stop`.

    Raises:
        LodaError: settings that make scores overflow.
    """
    return Rules(
        config.num_beams,
        config.max_new_tokens,
        config.length_penalty,
        config.no_repeat_ngram_size,
        config.min_length,
        tuple(stop),
    )


def decode(
    run: Run,
    checkpoint: Checkpoint,
    base: Base,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    stop: list[int],
    before_last: Callable[[], None],
) -> Manifest:
    """Decode one checkpoint, unless it was done. A decoding that was interrupted keeps its finished batches.

    `before_last` is called before the last batch: whatever it starts has a batch's time to get ready for the texts.
    """
    adapter = run.checkpoint(checkpoint).load()
    stage = run.decoding(checkpoint, adapter)
    if stage.find() is not None:
        discard_folder(_batches(stage))
        return stage.load()
    started, trainer = time.monotonic(), run.experiment.trainer
    set_threads(trainer)
    device = pick_device(trainer.device)
    _, approximation = get_approximation(run, base)
    with base.loaded(run.checkpoint(checkpoint).path, approximation) as model:
        config = run.experiment.decode
        if config.optimized or config.bf16:  # a copy, because the base is shared
            model = copy.deepcopy(model)
        if config.optimized:
            model = loda.optimize_for_inference(model, int8=config.int8)
        if config.bf16:
            round_to_bf16(model)
        model.to(device)  # type: ignore[arg-type]
        hypotheses = _search(model, stage, config, prompts, stop, checkpoint, before_last)
    lines = [_line(i, tokenizer, hypothesis) for i, hypothesis in enumerate(hypotheses)]
    manifest = stage.write(
        lambda folder: (folder / PREDICTIONS).write_text("".join(lines), encoding="utf-8"),
        provenance=provenance(time.monotonic() - started, device),
    )
    discard_folder(_batches(stage))
    return manifest


def round_to_bf16(model: PreTrainedModel) -> None:
    """Round what is stored of a model. What is computed, such as rotary frequencies, stays as transformers keeps it."""
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.bfloat16()


def read_texts(root: Path, decoding: Manifest) -> list[str]:
    """The raw texts of a decoding, in order of the contexts."""
    lines = (root / decoding.place / PREDICTIONS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [json.loads(line)["text"] for line in lines]


def _search(
    model: PreTrainedModel,
    stage: Stage,
    config: DecodeConfig,
    prompts: list[list[int]],
    stop: list[int],
    checkpoint: Checkpoint,
    before_last: Callable[[], None],
) -> list[Hypothesis]:
    """The best hypothesis for every prompt, in order; every finished batch is a stage of its own."""
    rules = rules_of(config, stop)
    check_prompts(model, prompts, rules)
    found: dict[int, Hypothesis] = {}
    folder = _batches(stage).relative_to(stage.root)
    parts = batches(prompts, config.batch_size)
    with progress_bar(f"decode {checkpoint.name}", len(prompts), "context") as bar:
        for number, indices in enumerate(parts):
            if indices is parts[-1]:
                before_last()
            batch = [prompts[i] for i in indices]
            part = Stage(stage.root, f"{folder}/{number}", "batch", digest(batch), stage.inputs)
            done = part.find()
            if done is None:
                with explain_oom("decoding", "lower decode.batch_size"):
                    hypotheses = search(model, batch, rules)
                done = part.write(content={"hypotheses": [[h.tokens, h.score] for h in hypotheses]})
            found.update(zip(indices, (Hypothesis(*each) for each in done.content["hypotheses"]), strict=True))
            bar.update(len(indices))
    return [found[i] for i in range(len(prompts))]


def _batches(stage: Stage) -> Path:
    return stage.path.with_name(f"{stage.path.name}.batches")


def _line(number: int, tokenizer: Tokenizer, hypothesis: Hypothesis) -> str:
    text = tokenizer.decode(hypothesis.tokens, skip_special_tokens=False)
    entry = {"id": number, "text": text, "tokens": hypothesis.tokens, "score": hypothesis.score}
    return json.dumps(entry, ensure_ascii=False) + "\n"
