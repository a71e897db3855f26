"""The quality scores as the original experiment computes them: literal, one row at a time."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import textstat


class LiteralScorer:
    """Two changes: texts without a token, for which the seed divides by zero, have no diversity of
    vocabulary; and a text that spells a control token has it as text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def score_sample(self, instruction: str, response: str) -> dict[str, float]:
        return {
            "clarity": self.score_clarity(instruction),
            "response_quality": self.score_response(response),
            "diversity": self.score_diversity(instruction, response),
            "complexity": self.score_complexity(instruction, response),
        }

    def score_clarity(self, instruction: str) -> float:
        word_count = len(instruction.split())
        if word_count < 5:
            length_score = 0.5
        elif word_count > 100:
            length_score = 0.7
        else:
            length_score = 1.0
        has_question = "?" in instruction
        has_directive = any(
            word in instruction.lower()
            for word in ["explain", "describe", "write", "create", "analyze"]
        )
        structure_score = 1.0 if (has_question or has_directive) else 0.6
        try:
            readability = textstat.flesch_reading_ease(instruction)
            read_score = min(readability / 100, 1.0) if readability > 0 else 0.5
        except Exception:
            read_score = 0.7
        return (length_score + structure_score + read_score) / 3

    def score_response(self, response: str) -> float:
        word_count = len(response.split())
        if word_count < 10:
            length_score = 0.3
        elif word_count > 500:
            length_score = 0.8
        else:
            length_score = 1.0
        has_paragraphs = "\n\n" in response
        has_list = bool(re.search(r"^\d+\.|\-\s", response, re.MULTILINE))
        structure_score = 1.0 if (has_paragraphs or has_list) else 0.7
        sentences = response.split(".")
        if len(sentences) > 2:
            lengths = [len(s.split()) for s in sentences if s.strip()]
            with warnings.catch_warnings():  # of no lengths: nan, which is not above 3
                warnings.simplefilter("ignore", RuntimeWarning)
                coherence_score = 1.0 if np.std(lengths) > 3 else 0.7
        else:
            coherence_score = 0.6
        return (length_score + structure_score + coherence_score) / 3

    def score_diversity(self, instruction: str, response: str) -> float:
        combined = instruction + " " + response
        tokens = self.tokenizer.tokenize(combined, split_special_tokens=True)
        unique_ratio = len(set(tokens)) / len(tokens) if tokens else 0
        vocab_score = min(unique_ratio * 2, 1.0)
        bigrams = [f"{tokens[i]}_{tokens[i + 1]}" for i in range(len(tokens) - 1)]
        bigram_diversity = len(set(bigrams)) / len(bigrams) if bigrams else 0
        common_topics = ["python", "code", "explain", "write", "create"]
        has_common = sum(1 for topic in common_topics if topic in combined.lower())
        topic_score = 1.0 - (has_common * 0.1)
        return (vocab_score + bigram_diversity + topic_score) / 3

    def score_complexity(self, instruction: str, response: str) -> float:
        step_indicators = ["first", "second", "then", "finally", "step"]
        has_steps = sum(1 for ind in step_indicators if ind in response.lower())
        step_score = min(has_steps * 0.3, 1.0)
        has_code = "```" in response or "def " in response
        technical_score = 1.0 if has_code else 0.6
        question_words = ["why", "how", "analyze", "compare", "evaluate"]
        complex_question = any(word in instruction.lower() for word in question_words)
        question_score = 1.0 if complex_question else 0.5
        return (step_score + technical_score + question_score) / 3
