"""What answers took: requests, tokens, dollars."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class LlmUsage:
    """What a stage's answers took. Tokens and dollars cover `requests` and `reused` alike."""

    #: Answers that were asked for by the attempts that committed.
    requests: int = 0
    #: Answers that were found on storage, paid for by an earlier attempt.
    reused: int = 0
    #: Tries beyond the first, of the requests that were answered.
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: LlmUsage) -> None:
        """Add another account to this one."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
