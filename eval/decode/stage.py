"""The decoding stage: the best continuation of every distinct context, written to `predictions.jsonl`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from eval.decode.beam import Hypothesis, beam_search
from loda.atomic import sha256, write_text
from loda.errors import LodaError
from loda.lab.config import DecodeConfig
from loda.lab.data import Example
from loda.lab.fingerprint import digest
from loda.lab.memory import advised
from loda.lab.progress import Bars
from loda.lab.training.examples import prompt
from loda.sealed import read_json, write_sealed

PLAIN = "{context}"


def encode_prompts(
    tokenizer: Tokenizer, examples: Sequence[Example], config: DecodeConfig, max_length: int
) -> list[list[int]]:
    """What the model is given for every context, in order.

    A context longer than max_length - max_new_tokens keeps its last ids, as in LoRA's code.

    Raises:
        LodaError: a context within a prompt is so long; cut, it would lose the prompt's beginning.
    """
    room = max_length - config.max_new_tokens
    rendered = [prompt(tokenizer, config.prompt.render(e.context), config.prompt.separator) for e in examples]
    longest = max(map(len, rendered))
    if config.prompt.template != PLAIN and longest > room:
        raise LodaError(
            f"decode.prompt.template makes prompts of up to {longest} tokens, dataset.max_length={max_length} less "
            f"decode.max_new_tokens={config.max_new_tokens} leaves {room}; shorten the first, or change the others"
        )
    return [ids[-room:] for ids in rendered]


def decode(
    model: PreTrainedModel,
    stop: Sequence[int],
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    label: str,
    bars: Bars,
    parts: Path,
    made_from: Mapping[str, str],
    check: Callable[[], object],
) -> list[Hypothesis]:
    """The best hypothesis for every prompt, in order.

    Args:
        model: in evaluation mode.
        stop: ids that end a hypothesis.
        prompts: what it is given.
        config: the settings.
        label: what the bar says.
        bars: where it stands.
        parts: a folder that keeps every finished batch; an interrupted decoding takes up those of the same prompts and
            the same `made_from`.
        made_from: what determines the result besides the prompts.
        check: called before a part is written; raises where the run's folder is no longer this process's own.
    """
    # As in `beam_search`, so that a part is one of its batches.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Hypothesis] = {}
    with bars.bar(f"decode {label}", len(prompts), "context") as progress:
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            batch = [prompts[i] for i in chosen]
            path, source = parts / f"{start}.json", {**made_from, "prompts": digest(batch)}
            done = _read_part(path, source)
            if done is None:
                done = _search(model, stop, batch, config)
                check()
                write_sealed(path, {"made_from": source, "hypotheses": [[one.tokens, one.score] for one in done]})
            found.update(zip(chosen, done, strict=True))
            progress.update(len(chosen))
    return [found[i] for i in range(len(prompts))]


def _search(
    model: PreTrainedModel, stop: Sequence[int], batch: Sequence[Sequence[int]], config: DecodeConfig
) -> list[Hypothesis]:
    with advised("decoding", "lower decode.batch_size, which does not change the texts"):
        return beam_search(
            model,
            batch,
            num_beams=config.num_beams,
            max_new_tokens=config.max_new_tokens,
            length_penalty=config.length_penalty,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            min_length=config.min_length,
            eos_token_ids=stop,
            batch_size=config.batch_size,
        )


def _read_part(path: Path, source: Mapping[str, str]) -> list[Hypothesis] | None:
    """A finished batch; None where it is not there or is of another adapter or other prompts."""
    if not path.exists():
        return None
    content = read_json(path)
    if content["made_from"] != source:
        return None
    return [Hypothesis(tokens, score) for tokens, score in content["hypotheses"]]


def write_predictions(path: Path, tokenizer: Tokenizer, hypotheses: Sequence[Hypothesis]) -> None:
    """One JSON object per context: its number, the raw text, the tokens and the score."""
    lines = [
        json.dumps(
            {
                "id": number,
                "text": tokenizer.decode(hypothesis.tokens, skip_special_tokens=False),
                "tokens": hypothesis.tokens,
                "score": hypothesis.score,
            },
            ensure_ascii=False,
        )
        for number, hypothesis in enumerate(hypotheses)
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def read_texts(path: Path) -> list[str]:
    """The raw texts of a predictions file, in order.

    Raises:
        LodaError: it is not the one that was decoded, by the hash in `decode.json` beside it.
    """
    summary = path.with_name("decode.json")
    if sha256(path) != read_json(summary)["predictions"]:
        raise LodaError(f"{path} was changed after the decoding; delete {path.parent} to decode again")
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
