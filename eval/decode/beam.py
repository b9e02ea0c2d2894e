"""The reference's beam search (LoRA's gpt2_beam.py at batch size 1), batched and without repeated work.

It is not the beam search of `transformers.generate`; four rules differ, and change about half of the texts:

    an n-gram may not be generated twice, but one of the prompt may be repeated
    banned tokens lose their probability before the softmax, so the rest is normalised again
    only `num_beams` candidates are kept at each step, and a finished one gives up its place for that step
    the length penalty counts generated tokens, the end token included

One best finished hypothesis is kept; a later one replaces it only if its value is strictly greater. The reference
always takes `max_new_tokens` steps; here an example leaves the batch as soon as nothing can beat its best any more,
which gives the same result. Prompts are computed once, not once per beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eval.decode.cache import BeamCache
from loda.errors import LodaError

DEAD = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """The best continuation of one prompt.

    Attributes:
        tokens: generated ids with the end token, if one was generated, and without padding.
        score: sum of the log-probabilities divided by len(tokens) ** length_penalty.
    """

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class Rules:
    """The settings of a search."""

    num_beams: int
    max_new_tokens: int
    length_penalty: float
    no_repeat_ngram_size: int
    min_length: int
    eos_token_ids: tuple[int, ...]


def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float,
    no_repeat_ngram_size: int,
    min_length: int = 0,
    eos_token_ids: Sequence[int],
    batch_size: int,
) -> list[Hypothesis]:
    """The best continuation of every prompt, in the order of the prompts.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids, at least one each.
        num_beams: hypotheses kept at each step.
        max_new_tokens: longest continuation.
        length_penalty: exponent of the length that a score is divided by.
        no_repeat_ngram_size: no n-gram of generated tokens may occur twice; 0 switches this off.
        min_length: no end token before so many tokens.
        eos_token_ids: tokens that end a hypothesis.
        batch_size: prompts searched together; it does not change the result.

    Raises:
        LodaError: an empty prompt, one that leaves no room for `max_new_tokens` among the model's positions, a
            number out of its range, a model in training mode, or one whose logits are not numbers.
    """
    if model.training:
        raise LodaError("the model is in training mode, so dropout would change the result; call model.eval() first")
    empty = [i for i, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise LodaError(f"prompt {empty[0]} is empty; a prompt needs at least one token")
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if positions is not None and longest + max_new_tokens > positions:
        raise LodaError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the {positions} positions of the "
            "model; shorten the prompt or lower max_new_tokens"
        )
    if num_beams > model.config.vocab_size:
        raise LodaError(f"num_beams={num_beams} exceeds the vocabulary of {model.config.vocab_size} tokens; lower it")
    if min(num_beams, max_new_tokens, batch_size) < 1 or min(no_repeat_ngram_size, min_length) < 0:
        raise LodaError(
            f"num_beams={num_beams}, max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1, "
            f"no_repeat_ngram_size={no_repeat_ngram_size} and min_length={min_length} at least 0"
        )
    rules = Rules(
        num_beams, max_new_tokens, length_penalty, no_repeat_ngram_size, min_length, tuple(sorted(set(eos_token_ids)))
    )
    # Prompts of like length go together: less padding, and they tend to finish together.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Hypothesis] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found.update(zip(chosen, _search(model, [prompts[i] for i in chosen], rules), strict=True))
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def _search(model: PreTrainedModel, prompts: list[Sequence[int]], rules: Rules) -> list[Hypothesis]:
    """Search one batch. E examples are alive, each with K rows; step i chooses generated token number i."""
    device = model.device
    inputs, attention = _pad_left(prompts, device)
    cache = BeamCache(rules.max_new_tokens)
    eos = torch.tensor(rules.eos_token_ids, dtype=torch.long, device=device)
    alive = torch.arange(len(prompts), device=device)
    lengths = attention.sum(1)
    best: list[Hypothesis | None] = [None] * len(prompts)
    best_values = torch.full((len(prompts),), DEAD, device=device)
    history = torch.empty(len(prompts), 1, 0, dtype=torch.long, device=device)
    scores = torch.zeros(len(prompts), 1, device=device)
    positions = (attention.cumsum(1) - 1).clamp(min=0)

    for i in range(rules.max_new_tokens):
        logits = model(
            input_ids=inputs,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        log_probs = _log_probs(logits.float(), history.flatten(0, 1), eos, rules)
        scores, parents, tokens = _select(scores, log_probs, rules.num_beams)
        if scores.isnan().any():  # topk puts them first
            raise LodaError("the model's logits are not numbers; its training diverged, or it needs a wider dtype")
        history = torch.cat([history.gather(1, parents[..., None].expand(-1, -1, i)), tokens[..., None]], dim=2)

        finished = torch.isin(tokens, eos)
        _offer(finished, scores, history, alive, best, best_values, rules)
        scores = scores.masked_fill(finished, DEAD)
        last = i == rules.max_new_tokens - 1
        if last:
            _offer(torch.ones_like(finished), scores, history, alive, best, best_values, rules)
            break

        rows = history.shape[1] if i else 1
        keep = ~_decided(scores, best_values[alive], rules)
        if not keep.any():
            break
        first_rows = torch.arange(len(alive), device=device)[:, None] * rows
        cache.select((first_rows + parents)[keep].flatten())
        attention = attention[keep.repeat_interleave(rows)]
        if rows == 1:
            attention = attention.repeat_interleave(rules.num_beams, dim=0)
        attention = torch.cat([attention, attention.new_ones(len(attention), 1)], dim=1)
        alive, history, scores, lengths = alive[keep], history[keep], scores[keep], lengths[keep]
        inputs = history[..., -1].reshape(-1, 1)
        positions = (lengths + i).repeat_interleave(rules.num_beams)[:, None]

    return [hypothesis for hypothesis in best if hypothesis is not None]


def _pad_left(prompts: list[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (E, longest), padded on the left so that all prompts end together."""
    longest = max(map(len, prompts))
    inputs = torch.zeros(len(prompts), longest, dtype=torch.long)
    attention = torch.zeros_like(inputs)
    for row, prompt in enumerate(prompts):
        inputs[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention[row, longest - len(prompt) :] = 1
    return inputs.to(device), attention.to(device)


def _log_probs(logits: Tensor, history: Tensor, eos: Tensor, rules: Rules) -> Tensor:
    """Log-probabilities (rows, V) after the bans; banned tokens get no probability and the rest is renormalised.

    log(softmax) and not log_softmax: a probability that underflows to 0 becomes -inf, as in the reference.
    """
    step = history.shape[1]
    if step < rules.min_length:
        logits[:, eos] = DEAD
    if rules.no_repeat_ngram_size and step >= rules.no_repeat_ngram_size - 1:
        _ban_repeated(logits, history, rules.no_repeat_ngram_size)
    return logits.softmax(-1).log_()


def _ban_repeated(logits: Tensor, history: Tensor, size: int) -> None:
    """Set to -inf, in place, every token that would complete an n-gram which `history` (rows, step) has already."""
    if history.shape[1] < size:
        return
    ngrams = history.unfold(1, size, 1)  # (rows, step - size + 1, size)
    latest = history[:, history.shape[1] - size + 1 :]
    repeats = (ngrams[..., :-1] == latest[:, None]).all(-1)
    row, place = repeats.nonzero(as_tuple=True)
    logits[row, ngrams[row, place, -1]] = DEAD


def _select(scores: Tensor, log_probs: Tensor, num_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `num_beams` continuations of each example: scores, parent rows and tokens, each (E, K).

    The sums take the place of `log_probs`: with a large vocabulary every copy of them costs time.
    """
    examples, rows = scores.shape
    vocabulary = log_probs.shape[-1]
    candidates = log_probs.view(examples, rows, vocabulary).add_(scores[..., None]).flatten(1)
    best, index = candidates.topk(num_beams, dim=1)
    return best, index // vocabulary, index % vocabulary


def _offer(
    offered: Tensor,
    scores: Tensor,
    history: Tensor,
    alive: Tensor,
    best: list[Hypothesis | None],
    best_values: Tensor,
    rules: Rules,
) -> None:
    """Let each example's highest-ranking offered row become its best, if there is none or its value is greater."""
    length = history.shape[2]
    values = scores / length**rules.length_penalty
    for place in offered.any(1).nonzero().flatten().tolist():
        row = int(offered[place].int().argmax())  # rows are in rank order, so the first is the greatest
        example, value = int(alive[place]), float(values[place, row])
        if best[example] is None or value > float(best_values[example]):
            best[example] = Hypothesis(history[place, row].tolist(), value)
            best_values[example] = value


def _decided(scores: Tensor, best_values: Tensor, rules: Rules) -> Tensor:
    """Which examples (E,) cannot improve any more.

    A live score only falls, and is divided by at most max_new_tokens ** length_penalty (for a penalty >= 0): if even
    that does not exceed the best value, nothing will. Without a live row nothing is left to extend.
    """
    highest = scores.amax(1)
    dead = torch.eq(highest, DEAD)
    if rules.length_penalty < 0:
        return dead
    return dead | torch.le(highest / rules.max_new_tokens**rules.length_penalty, best_values)
