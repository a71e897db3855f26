"""Shortens prompts outside of a run: `ray-pipeline compress`, and the same as a function."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.packaged import resolve
from ray_pipeline.stages.compression.checks import fault, tidy_answer
from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.rules import Rule
from ray_pipeline.stages.compression.tokens import TokenCounter, token_counter

Method = Literal["rules", "surprise", "trained"]


@dataclass(frozen=True)
class ShortPrompt:
    """A prompt and its shorter form.

    Attributes:
        original: the prompt.
        text: the shorter form; the prompt itself where nothing could be saved.
        original_tokens: tokens of the prompt.
        tokens: tokens of `text`.
        note: why it is the prompt itself, or longer than was asked for; None if it is neither.
    """

    original: str
    text: str
    original_tokens: int
    tokens: int
    note: str | None = None

    @property
    def is_unchanged(self) -> bool:
        """Whether the prompt itself came back."""
        return self.text == self.original


@dataclass(frozen=True)
class Wanted:
    """How short prompts are to become, and what must stay.

    Attributes:
        rate: share of a prompt's tokens that may be left, above 0 and at most 1.
        target_tokens: tokens that may be left.
        threshold: for the method surprise: words below it are left out, in nats.
        protect: regular expressions whose matches must stay.

    Raises:
        UserError: one of them cannot be.
    """

    rate: float | None = None
    target_tokens: int | None = None
    threshold: float | None = None
    protect: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1:
            raise UserError(
                f"rate: {self.rate:g} is not above 0 and at most 1: 0.7 leaves 70% of the tokens"
            )
        if self.target_tokens is not None and self.target_tokens < 1:
            raise UserError(f"target tokens: {self.target_tokens} is not 1 or more")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"threshold: {self.threshold} is not a number of nats")
        if self.threshold is not None and (self.rate or self.target_tokens):
            raise UserError("threshold: give it without rate and target tokens")
        _ = self.patterns

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """The compiled expressions."""
        found = []
        for pattern in self.protect:
            try:
                found.append(re.compile(pattern))
            except re.error as error:
                raise UserError(f"protect: {pattern!r} is no regular expression: {error}") from None
        return found

    def limit(self, tokens: int) -> int | None:
        """Tokens that a prompt of some tokens may have; None if none are given."""
        limits = [] if self.rate is None else [math.floor(self.rate * tokens)]
        limits += [] if self.target_tokens is None else [self.target_tokens]
        return min(limits, default=None)


def compress(
    texts: Sequence[str],
    method: Method = "rules",
    *,
    rate: float | None = None,
    target_tokens: int | None = None,
    threshold: float | None = None,
    protect: Sequence[str] = (),
    tokenizer: str = "gpt2-tokenizer",
    model: str | None = None,
) -> list[ShortPrompt]:
    """Shorten prompts by deleting whole words; protected ones stay (see `protected`).

    JSON and Markdown stay valid: JSON, code, tables and links are not touched, lines stay lines.

    Args:
        texts: the prompts; any text.
        method: ``rules`` deletes articles and filler; with a rate or target filler, then articles,
            then stop words, until it is reached. ``surprise`` deletes the words that a small causal
            model finds least surprising; it needs a rate, a target or a threshold. ``trained`` asks
            a model that `jobs/prompt_compression.py` trained; what it writes is checked, and where
            it has a fault (see `checks.fault`) the prompt itself comes back. Only one that keeps or
            drops words takes a rate or target.
        rate: share of the tokens that may be left.
        target_tokens: tokens that may be left.
        threshold: surprise in nats below which a word is left out.
        protect: regular expressions whose matches must stay, too.
        tokenizer: model whose tokenizer counts tokens: a name, a folder or a hub id.
        model: for ``surprise``, a causal language model, by default smollm2-135m-instruct; for
            ``trained``, the model's folder, or RUN:NAME.

    Returns: one for each text, in order.

    Raises:
        UserError: an argument cannot be, or a model is not available.
    """
    wanted = Wanted(rate, target_tokens, threshold, protect)
    is_limited = rate is not None or target_tokens is not None
    if method == "surprise" and not is_limited and threshold is None:
        raise UserError("the method surprise needs a rate, target tokens or a threshold")
    if method != "surprise" and threshold is not None:
        raise UserError("threshold: only the method surprise has one")
    if method == "trained" and model is None:
        raise UserError("the method trained needs a model: its folder, or RUN:NAME")
    count = token_counter(resolve(tokenizer))
    prompts = [Prompt(text, wanted.patterns) for text in texts]
    if method == "trained":
        return _by_trained(prompts, wanted, count, str(model))
    if method == "rules":
        made = [_by_rules(prompt, wanted, count) for prompt in prompts]
    else:
        made = _by_surprise(prompts, wanted, count, model or "smollm2-135m-instruct")
    return [
        _checked(prompt.text, text, wanted, count)
        for prompt, text in zip(prompts, made, strict=True)
    ]


#: From the mildest to the strongest. A rule is applied as a whole: half of "could you please"
#: would be left otherwise.
_LEVELS: tuple[tuple[Rule, ...], ...] = (
    ("filler",),
    ("articles", "filler"),
    ("articles", "filler", "stop_words"),
)


def _by_rules(prompt: Prompt, wanted: Wanted, count: TokenCounter) -> str:
    limit = wanted.limit(count(prompt.text))
    if limit is None:
        return prompt.by_rule("articles", "filler")
    made = prompt.text
    for rules in _LEVELS:
        if count(made) <= limit:
            break
        made = min(made, prompt.by_rule(*rules), key=count)
    return made


def _by_surprise(
    prompts: Sequence[Prompt], wanted: Wanted, count: TokenCounter, model: str
) -> list[str]:
    from ray_pipeline.evaluate.log_probs import TextScorer
    from ray_pipeline.stages.compression.baselines import word_surprise

    made = [prompt.text for prompt in prompts]
    places = [place for place, prompt in enumerate(prompts) if prompt.free]
    if not places:
        return made
    scorer = TextScorer.load(resolve(model))
    scores = word_surprise(scorer, [made[place] for place in places])
    for place, of_words in zip(places, scores, strict=True):
        prompt = prompts[place]
        limit = wanted.limit(count(prompt.text))
        if limit is not None:
            made[place] = prompt.shortened(prompt.least_first(of_words), limit, count)
        elif wanted.threshold is not None:
            gone = [word for word in prompt.free if of_words[word] < wanted.threshold]
            made[place] = prompt.deleted(gone)
    return made


def _by_trained(
    prompts: Sequence[Prompt], wanted: Wanted, count: TokenCounter, model: str
) -> list[ShortPrompt]:
    from ray_pipeline.rundir.models import find_model
    from ray_pipeline.stages.compression.trained import load_compressor

    compressor = load_compressor(find_model(model), patterns=wanted.patterns)
    places = [place for place, prompt in enumerate(prompts) if prompt.free]
    texts = [prompts[place].text for place in places]
    made = {place: prompt.text for place, prompt in enumerate(prompts)}
    limits = [wanted.limit(count(text)) for text in texts]
    if any(limit is not None for limit in limits):
        wished = [limit or 1 for limit in limits]
        made |= zip(places, compressor.at_lengths(texts, wished, count), strict=True)
    elif texts:
        written = [tidy_answer(one.text) if not one.is_cut else "" for one in compressor(texts)]
        made |= zip(places, written, strict=True)
    is_written = compressor.method.form != "keep_or_drop"
    found = []
    for place, prompt in enumerate(prompts):
        short = _checked(prompt.text, made[place], wanted, count)
        if is_written and place in places:
            wrong = fault(prompt.text, made[place], count, patterns=wanted.patterns)
            if wrong is not None:
                tokens = short.original_tokens
                short = ShortPrompt(prompt.text, prompt.text, tokens, tokens, f"not used: {wrong}")
        found.append(short)
    return found


def _checked(original: str, text: str, wanted: Wanted, count: TokenCounter) -> ShortPrompt:
    """The shorter form, or the prompt itself where it saves nothing."""
    before, after = count(original), count(text)
    limit = wanted.limit(before)
    note = None
    if after >= before or (_is_json(original) and not _is_json(text)):
        text, after = original, before
        if limit is None or before > limit:
            note = "nothing can be left out" if Prompt(original).free else "every word must stay"
        else:
            note = "it is short enough"
    elif limit is not None and after > limit:
        note = f"{after} tokens, asked for {limit}: the other words must stay"
    return ShortPrompt(original, text, before, after, note)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
