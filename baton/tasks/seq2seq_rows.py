"""Inputs and data rows of text to text: a source, and the texts that are right answers to it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

from baton.tasks.checks import check_text


class SourceInput(BaseModel):
    """A text to translate, to summarise, or to rewrite otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return check_text(value, "source")


class Seq2SeqExample(SourceInput):
    """A source with its right answers. Training uses the first; a score is that of the answer that fits best."""

    target: tuple[str, ...]
    """At least one. A row may have a text alone, or a list of texts. A text is never read as a list, whatever it looks like:
    models write JSON, too."""

    @field_validator("target", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("target")
    @classmethod
    def _targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("target has no text; give the right answer, or a list of right answers")
        return tuple(dict.fromkeys(check_text(text, "target") for text in value))
