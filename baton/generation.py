"""How a model that writes texts writes them. Knows neither tasks nor engines, which both work with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MOST_NEW_TOKENS, MOST_BEAMS = 1024, 16
"""Bounds of what can be asked for: the cost of an answer grows with their product."""


class Generation(BaseModel):
    """Bounds of beam search. A version is judged and served with the same ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(
        128,
        ge=1,
        le=MOST_NEW_TOKENS,
        description="Maximum tokens of an answer. In training, longer targets are cut after so many.",
    )
    num_beams: int = Field(
        1,
        ge=1,
        le=MOST_BEAMS,
        description="Beginnings of an answer that are pursued side by side. 1: greedy, always the most probable next token. "
        "4 is usual for translations and summaries, and costs about four times as much.",
    )

    def tokens(self, source: int) -> int:
        """Return how many tokens are in memory at most while an answer to ``source`` tokens is written."""
        return (source + self.max_new_tokens) * self.num_beams
