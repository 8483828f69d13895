"""What question answering is asked, and labelled rows as SQuAD writes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from baton.tasks.base import check_text, from_cell, short_repr


class QaInput(BaseModel):
    """A question, and the text that may hold its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    context: str

    @field_validator("question")
    @classmethod
    def _question(cls, value: str) -> str:
        return check_text(value, "question")

    @field_validator("context")
    @classmethod
    def _context(cls, value: str) -> str:
        return check_text(value, "context")


class References(BaseModel):
    """Right answers as SQuAD writes them: texts, and the characters of the context at which they start.

    Also read from a list of ``{"text", "answer_start"}``, the shape of SQuAD's own files. Empty: there is no answer.
    """

    model_config = ConfigDict(frozen=True)

    text: tuple[str, ...]
    answer_start: tuple[Annotated[int, Field(strict=True)], ...]

    @model_validator(mode="before")
    @classmethod
    def _columns(cls, value: object) -> object:
        keys = ("text", "answer_start")
        value = from_cell(value)
        if isinstance(value, list | tuple) and all(isinstance(item, dict) and item.keys() >= {*keys} for item in value):
            return {key: [item[key] for item in value] for key in keys}
        if isinstance(value, dict | References):
            return value
        raise ValueError('allowed: {"text": […], "answer_start": […]}, or a list of {"text", "answer_start"}')

    @model_validator(mode="after")
    def _pairs(self) -> References:
        if len(self.text) != len(self.answer_start):
            raise ValueError(
                f"{len(self.text)} text(s), but {len(self.answer_start)} answer_start(s); each text needs its start"
            )
        return self


class QaExample(QaInput):
    """A question with its right answers; the first of them is trained on, the best is scored."""

    answers: References
    id: str | int | None = None
    is_impossible: bool | None = None

    @model_validator(mode="after")
    def _answers_stand_there(self) -> QaExample:
        if self.is_impossible and self.answers.text:
            raise ValueError(
                f"is_impossible is true, but answers has {short_repr(self.answers.text[0])}; leave one of them out"
            )
        for text, start in zip(self.answers.text, self.answers.answer_start, strict=True):
            check_text(text, "answers.text")
            if start < 0 or not self.context.startswith(text, start):
                raise ValueError(_misplaced(self.context, text, start))
        return self


def _misplaced(context: str, text: str, start: int) -> str:
    found = f"stands {short_repr(context[start : start + len(text)])}" if 0 <= start < len(context) else "is nothing"
    where = context.find(text)
    hint = f"it stands at {where}" if where >= 0 else "the context does not hold it"
    return f"answers: at {start} of the context {found}, not {short_repr(text)}; {hint} (characters are counted, from 0)"
