"""Inputs and data rows of question answering. Rows have the shape of SQuAD's."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from baton.tasks.checks import check_text, from_cell
from baton.validation import short_repr
from baton.wording import counted


class QaInput(BaseModel):
    """A question, and the text that may contain its answer."""

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
    """The right answers to a question, in the shape of the `datasets` copy of SQuAD; empty if there is no answer.

    It also accepts a list of ``{"text", "answer_start"}``, the shape of SQuAD's own files.
    """

    model_config = ConfigDict(frozen=True)

    text: tuple[str, ...]
    answer_start: tuple[Annotated[int, Field(strict=True)], ...]
    """For each text the position in the context of its first character."""

    @model_validator(mode="before")
    @classmethod
    def _as_columns(cls, value: object) -> object:
        keys = ("text", "answer_start")
        value = from_cell(value)
        if isinstance(value, list | tuple) and all(isinstance(item, dict) and item.keys() >= {*keys} for item in value):
            return {key: [item[key] for item in value] for key in keys}
        if isinstance(value, dict | References):
            return value
        raise ValueError('allowed: {"text": […], "answer_start": […]}, or a list of {"text", "answer_start"}')

    @model_validator(mode="after")
    def _same_length(self) -> References:
        if len(self.text) != len(self.answer_start):
            starts = counted(len(self.answer_start), "answer_start")
            raise ValueError(f"{counted(len(self.text), 'text')}, but {starts}; each text needs one answer_start")
        return self


class QaExample(QaInput):
    """A question with its right answers. Training uses the first; a score is that of the answer that fits best."""

    answers: References
    id: str | int | None = None
    is_impossible: bool | None = None

    @model_validator(mode="after")
    def _answers_are_in_the_context(self) -> QaExample:
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
    wanted = short_repr(text)
    if 0 <= start < len(context):
        problem = f"the context has {short_repr(context[start : start + len(text)])} at character {start}, not {wanted}"
    else:
        problem = f"answer_start {start} of {wanted} is outside the context, which has {len(context)} characters"
    where = context.find(text)
    hint = f"it has that text at character {where}" if where >= 0 else "it does not contain that text"
    return f"answers: {problem}; {hint} (characters are counted from 0)"
