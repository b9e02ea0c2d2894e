"""The reference's beam search (LoRA's gpt2_beam.py at batch size 1), batched and without repeated work.

It differs from `transformers.generate` in four rules, which change about half of the texts:

    an n-gram may not be generated twice, but one of the prompt may be repeated
    banned tokens lose their probability before the softmax, so the rest is normalised again
    only `num_beams` candidates are kept at each step, and a finished one gives up its place for that step
    the length penalty counts generated tokens, the end token included

The best finished hypothesis is kept; a later one replaces it only if its value is strictly greater. A hypothesis for
which the rules leave no token ends there. The reference always takes `max_new_tokens` steps with `num_beams` rows; here
a hypothesis is dropped as soon as it cannot beat the best of its example, with the same result. Prompts are computed
once, not once per beam.
"""

import math
import reprlib
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from eval.decode.cache import BeamCache, shared_prompts
from loda.errors import LodaError
from loda.lab.base.attention import addition_to_attention, can_replace_attention

DEAD = float("-inf")

LARGEST_DIVISOR = 1e30
"""Of a score, and of its inverse: a score, tens of thousands at most, stays within float32 either way."""


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
    """The settings of a search.

    Attributes:
        num_beams: hypotheses kept at each step.
        max_new_tokens: longest continuation.
        length_penalty: exponent of the length that a score is divided by.
        no_repeat_ngram_size: no n-gram of generated tokens may occur twice; 0 switches this off.
        min_length: no end token before so many tokens.
        eos_token_ids: tokens that end a hypothesis.
    """

    num_beams: int
    max_new_tokens: int
    length_penalty: float
    no_repeat_ngram_size: int
    min_length: int
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "no_repeat_ngram_size", "min_length"):
            if not hasattr(getattr(self, name), "__index__"):
                raise LodaError(f"{name}={getattr(self, name)!r} must be a whole number")
        if min(self.num_beams, self.max_new_tokens) < 1 or min(self.no_repeat_ngram_size, self.min_length) < 0:
            raise LodaError(
                f"num_beams={self.num_beams} and max_new_tokens={self.max_new_tokens} must be at least 1, "
                f"no_repeat_ngram_size={self.no_repeat_ngram_size} and min_length={self.min_length} at least 0"
            )
        # Written so that it refuses nan.
        if not abs(self.length_penalty) * math.log(self.max_new_tokens) <= math.log(LARGEST_DIVISOR):
            raise LodaError(
                f"length_penalty={self.length_penalty} with max_new_tokens={self.max_new_tokens} divides or multiplies "
                f"scores by more than {LARGEST_DIVISOR:.0e}; choose one closer to 0"
            )


def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int] | Tensor] | Tensor,
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float,
    no_repeat_ngram_size: int,
    min_length: int = 0,
    eos_token_ids: Sequence[int] | Tensor | int | None,
    batch_size: int,
) -> list[Hypothesis]:
    """The best continuation of every prompt, in the order of the prompts.

    The settings are those of `Rules`; without end tokens (None) every hypothesis has `max_new_tokens`. `batch_size`
    prompts are searched together, which does not change the result.

    Raises:
        LodaError: ids that are not a list of ids; see `Rules`, `check_prompts` and `search`.
    """
    is_one = isinstance(eos_token_ids, int) or (isinstance(eos_token_ids, Tensor) and eos_token_ids.ndim == 0)
    eos = tuple(_ids("eos_token_ids", [] if eos_token_ids is None else [eos_token_ids] if is_one else eos_token_ids))
    rules = Rules(num_beams, max_new_tokens, length_penalty, no_repeat_ngram_size, min_length, eos)
    plain = [_ids(f"prompt {i}", prompt) for i, prompt in enumerate(prompts)]
    check_prompts(model, plain, rules)
    found: dict[int, Hypothesis] = {}
    for batch in batches(plain, batch_size):
        found.update(zip(batch, search(model, [plain[i] for i in batch], rules), strict=True))
    return [found[i] for i in range(len(plain))]


def _ids(name: str, value: Any) -> list[int]:
    """A list, tensor or array of ids as a list."""
    try:
        plain = torch.as_tensor(value).tolist()
    except (TypeError, ValueError, RuntimeError):  # texts, lists of unequal length
        plain = None
    if not isinstance(plain, list) or any(type(number) is not int for number in plain):
        raise LodaError(f"{name} is {reprlib.repr(value)}, not a list of token ids; give it as [1, 2, 3]")
    return plain


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """The indices of the prompts that are searched together."""
    if batch_size < 1:
        raise LodaError(f"batch_size={batch_size} must be at least 1")
    # Prompts of like length go together: less padding, and they tend to finish together.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], rules: Rules) -> None:
    """Raise LodaError unless the model is in evaluation mode and can search these prompts by these rules."""
    if model.training:
        raise LodaError("the model is in training mode, so dropout would change the result; call model.eval() first")
    if rules.num_beams > model.config.vocab_size:
        raise LodaError(
            f"num_beams={rules.num_beams} exceeds the vocabulary of {model.config.vocab_size} tokens; lower it"
        )
    for name, ids in (("eos_token_ids", rules.eos_token_ids), *((f"prompt {i}", ids) for i, ids in enumerate(prompts))):
        if ids and not 0 <= min(ids) <= max(ids) < model.config.vocab_size:
            raise LodaError(
                f"{name} holds {min(ids) if min(ids) < 0 else max(ids)}, which is not among the "
                f"{model.config.vocab_size} tokens of the model; give ids of its tokenizer"
            )
    positions = getattr(model.config, "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise LodaError(f"prompt {i} is empty; a prompt needs at least one token")
        if positions is not None and len(prompt) + rules.max_new_tokens > positions:
            raise LodaError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens={rules.max_new_tokens} exceed the {positions} "
                "positions of the model; shorten the prompt or lower max_new_tokens"
            )


@torch.inference_mode()
def search(model: PreTrainedModel, prompts: Sequence[Sequence[int]], rules: Rules) -> list[Hypothesis]:
    """The best continuation of each prompt of one batch, all of which passed `check_prompts`.

    Raises:
        LodaError: the model's logits are not numbers.
    """
    return _Search(model, prompts, rules).run()


@dataclass(frozen=True)
class Beams:
    """Hypotheses in progress; those of an example stand together, in falling order of their scores.

    Attributes:
        examples: (rows,) places in the batch.
        scores: (rows,) sums of the log-probabilities.
        history: (rows, step) generated tokens.
    """

    examples: Tensor
    scores: Tensor
    history: Tensor

    def __getitem__(self, rows: Tensor) -> "Beams":
        return Beams(self.examples[rows], self.scores[rows], self.history[rows])


class _Search:
    """A batch in progress.

    Attributes:
        beams: the hypotheses that can still become the best of their example.
        best, best_values: the best finished hypothesis of each prompt of the batch, and its value.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], rules: Rules) -> None:
        device, count = model.device, len(prompts)
        self.model = model
        self.rules = rules
        self.eos = torch.tensor(rules.eos_token_ids, dtype=torch.long, device=device)
        self.inputs, self.mask = _pad_left(prompts, device)
        longest = self.mask.shape[1] + rules.max_new_tokens
        shared = can_replace_attention(model) and addition_to_attention(model.config, longest) is None
        self.cache = BeamCache(self.mask, rules.max_new_tokens, rules.num_beams, shared)
        nothing = torch.empty(count, 0, dtype=torch.long, device=device)
        self.beams = Beams(torch.arange(count, device=device), torch.zeros(count, device=device), nothing)
        self.best: list[Hypothesis | None] = [None] * count
        self.best_values = torch.full((count,), DEAD, device=device)

    def run(self) -> list[Hypothesis]:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self._extend(attention_mask=self.mask, position_ids=positions, past_key_values=self.cache)
        with shared_prompts(self.model) if self.cache.shared else nullcontext():
            for _ in range(1, self.rules.max_new_tokens):
                if not len(self.beams.scores):
                    break
                self._extend(**self.cache.inputs())
        self._offer(self.beams, torch.ones_like(self.beams.scores, dtype=torch.bool))
        return [hypothesis for hypothesis in self.best if hypothesis is not None]

    def _extend(self, **inputs: Any) -> None:
        """Replace the beams by their best continuations by one token, without those that are finished or hopeless."""
        logits = self.model(input_ids=self.inputs, use_cache=True, logits_to_keep=1, **inputs).logits[:, -1].float()
        probabilities = _probabilities(logits, self.beams.history, self.eos, self.rules)
        # One logit that is not a number, or no logit above -inf, makes a whole row of the softmax not a number.
        if (undefined := probabilities[:, 0].isnan()).any():
            self._end_banned(logits, probabilities, undefined)
        parents, tokens, scores = _select(self.cache, self.beams.scores, probabilities, self.rules.num_beams)
        history = torch.cat([self.beams.history[parents], tokens[:, None]], dim=1)
        beams = Beams(self.beams.examples[parents], scores, history)
        finished = torch.isin(tokens, self.eos)
        self._offer(beams, finished)
        hopeful = _can_improve(scores, self.best_values[beams.examples], self.rules)
        left = (hopeful & ~finished).nonzero().flatten()
        self.beams = beams[left]
        if len(left):
            self.cache.select(parents[left])
            self.inputs = tokens[left, None]

    def _end_banned(self, logits: Tensor, probabilities: Tensor, undefined: Tensor) -> None:
        """Offer the beams whose every token is banned as they are; they have no continuation."""
        banned = torch.eq(logits.amax(-1), DEAD)
        if (undefined & ~banned).any():
            raise LodaError("the model's logits are not numbers; its training diverged, or it needs a wider dtype")
        probabilities[banned] = 0
        rules = f"no_repeat_ngram_size={self.rules.no_repeat_ngram_size} and min_length={self.rules.min_length}"
        length = self.beams.history.shape[1]
        warnings.warn(f"{rules} ban every token after {length}; the hypothesis ends there", stacklevel=2)
        self._offer(self.beams, banned)

    def _offer(self, beams: Beams, offered: Tensor) -> None:
        """Make the first offered live beam of each example its best, if there is none or its value is greater.

        A dead beam can stand among the best when there are fewer than K candidates; its last token means nothing.
        """
        rows = (offered & beams.scores.isfinite()).nonzero().flatten()
        values = beams.scores[rows] / max(beams.history.shape[1], 1) ** self.rules.length_penalty
        for row, example, value in zip(rows.tolist(), beams.examples[rows].tolist(), values.tolist(), strict=True):
            best = self.best[example]
            if best is None or value > best.score:  # later rows of an example have lower scores
                self.best[example] = Hypothesis(beams.history[row].tolist(), value)
                self.best_values[example] = value


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (E, longest), padded on the left so that all prompts end together."""
    ids = [torch.tensor(prompt) for prompt in prompts]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    return pad(ids).to(device), pad([torch.ones_like(prompt) for prompt in ids]).to(device)


def _probabilities(logits: Tensor, history: Tensor, eos: Tensor, rules: Rules) -> Tensor:
    """Probabilities (rows, V) after the bans; banned tokens get none and the rest is renormalised."""
    if history.shape[1] < rules.min_length:
        logits[:, eos] = DEAD
    if rules.no_repeat_ngram_size and history.shape[1] >= rules.no_repeat_ngram_size:
        _ban_repeated(logits, history, rules.no_repeat_ngram_size)
    return logits.softmax(-1)


def _ban_repeated(logits: Tensor, history: Tensor, size: int) -> None:
    """Set to -inf, in place, every token that would repeat an n-gram of `history` (rows, step)."""
    ngrams = history.unfold(1, size, 1)  # (rows, step - size + 1, size)
    latest = history[:, history.shape[1] - size + 1 :]
    repeats = (ngrams[..., :-1] == latest[:, None]).all(-1)
    row, place = repeats.nonzero(as_tuple=True)
    logits[row, ngrams[row, place, -1]] = DEAD


def _select(cache: BeamCache, scores: Tensor, probabilities: Tensor, num_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `num_beams` continuations of each example: parents, tokens and scores, each (E * K,)."""
    # The best of an example are among the best `num_beams` of each of its hypotheses. Where these are too few, DEAD
    # ones follow, whose parents may be of another example. Not log_softmax: a probability that underflows to 0 becomes
    # -inf, as in the reference.
    best, tokens = probabilities.topk(num_beams)
    candidates = (best.log() + scores[:, None])[cache.rows].masked_fill(~cache.taken[..., None], DEAD)
    best, index = candidates.flatten(1).topk(num_beams)
    parents = cache.rows.gather(1, index // num_beams).flatten()
    return parents, tokens[parents, index.flatten() % num_beams], best.flatten()


def _can_improve(scores: Tensor, best_values: Tensor, rules: Rules) -> Tensor:
    """Which hypotheses (rows,) could still end with a value above the best of their example.

    A score only falls, and is divided by at most max_new_tokens ** length_penalty (for a penalty >= 0). So a hypothesis
    whose score over that does not exceed the best value ends at most equal to it, and so do its descendants. They rank
    behind every candidate above this bound, so dropping them leaves those where they are. What moves up into their
    places is not above the bound either: it is dropped in turn, or ends without replacing the best.
    """
    live: Tensor = scores.isfinite()
    if rules.length_penalty < 0:
        return live
    return live & torch.gt(scores / rules.max_new_tokens**rules.length_penalty, best_values)
