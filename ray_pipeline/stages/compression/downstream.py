"""What a shorter prompt costs: the loss of the reference answer, and the answers of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.compression import rouge_scores
from ray_pipeline.evaluate.log_probs import TextScorer

#: Pairs that are scored before the file is written, which a later attempt reads.
_AT_ONCE = 128
#: Marks that end a sentence, or what encloses it.
_ENDS = tuple(".!?\"'”’)]}`…:;")


@dataclass(frozen=True)
class Reference:
    """A reference answer that is scored.

    Attributes:
        text: the answer, or its first words.
        is_whole: whether it ends where the person ended it: then its end is scored, too.
    """

    text: str
    is_whole: bool


def reference(response: str, max_words: int, cut_characters: int) -> Reference:
    """The part of a response that is scored.

    Args:
        response: the reference answer.
        max_words: words of it that are scored, at most.
        cut_characters: a response of that many characters that ends without a mark was cut when the
            file was made: its end is not scored.
    """
    text = response.strip()
    words = text.split()
    if len(words) > max_words:
        place = 0
        for word in words[:max_words]:
            place = text.index(word, place) + len(word)
        return Reference(text[:place], False)
    return Reference(text, len(text) < cut_characters or text.endswith(_ENDS))


class AnswerLosses:
    """The loss of each row's reference answer after any prompt, each pair computed once.

    Args:
        scorer: makes the model; called when there is something to compute.
        references: of the rows.
        storage: where a file of what is finished lies.
        path: of that file.
    """

    def __init__(
        self,
        scorer: Callable[[], TextScorer],
        references: Sequence[Reference],
        storage: Storage,
        path: str,
    ) -> None:
        self._make, self._references = scorer, references
        self._storage, self._path = storage, path
        self._scorer: TextScorer | None = None
        raw = storage.read_bytes(path)
        self._known: dict[str, list[float]] = {} if raw is None else orjson.loads(raw)

    def add(self, pairs: Sequence[tuple[int, str]], say: Callable[[str], None]) -> None:
        """Compute pairs of a row and a prompt that are not known yet."""
        missing = {self._key(row, text): (row, text) for row, text in pairs}
        missing = {key: pair for key, pair in missing.items() if key not in self._known}
        done = 0
        for keys in _parts(list(missing), _AT_ONCE):
            self._compute({key: missing[key] for key in keys})
            done += len(keys)
            say(f"  {done:,} of {len(missing):,} prompts scored")

    def nats(self, row: int, text: str) -> float:
        """The negative log-probability of the row's reference answer after a prompt, in nats."""
        return self._known[self._key(row, text)][0]

    def tokens(self, row: int, text: str) -> int:
        """The tokens of the row's reference answer that were scored."""
        return int(self._known[self._key(row, text)][1])

    def _compute(self, pairs: Mapping[str, tuple[int, str]]) -> None:
        if self._scorer is None:
            self._scorer = self._make()
        for is_whole in (True, False):
            chosen = {
                key: pair
                for key, pair in pairs.items()
                if self._references[pair[0]].is_whole is is_whole
            }
            prompts = [text for _, text in chosen.values()]
            answers = [self._references[row].text for row, _ in chosen.values()]
            found = self._scorer.answers(prompts, answers, end=is_whole)
            for key, scored in zip(chosen, found, strict=True):
                self._known[key] = [-float(scored.log_probs.sum()), len(scored.ids)]
        self._storage.write_bytes(self._path, orjson.dumps(self._known))

    def _key(self, row: int, text: str) -> str:
        answer = self._references[row]
        content = orjson.dumps([text, answer.text, answer.is_whole])
        return hashlib.blake2b(content, digest_size=16).hexdigest()


def _parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def agreement(answers: Sequence[str], others: Sequence[str]) -> list[float | None]:
    """How alike two answers are: ROUGE-L F-measure with stemming; None where not measurable."""
    found = rouge_scores(answers, others)
    return [None if scores is None else scores["rougeL"] for scores in found]
