"""Rows of named entity recognition: texts with entities, or tokens with tags, which become texts with entities."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from baton.tasks.base import check_text, from_cell, short_repr
from baton.text import tags


class NerInput(BaseModel):
    """A text to find entities in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str

    @field_validator("text")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "text")


class Span(BaseModel):
    """An entity: the type of ``text[start:end]``. Positions count code points."""

    model_config = ConfigDict(frozen=True)

    start: int = Field(ge=0)
    end: int
    """The position after the entity's last character."""
    label: str = Field(min_length=1)

    @field_validator("label")
    @classmethod
    def _label(cls, value: str) -> str:
        if value == tags.OUTSIDE:
            raise ValueError(f"{value} is not an entity type: it means that there is no entity; leave such spans out")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Span:
        if self.end <= self.start:
            raise ValueError(f"{self} is empty; end must be greater than start")
        return self

    def __str__(self) -> str:
        return f"{self.label!r} at {self.start}–{self.end}"


class TaggedTokens(BaseModel):
    """The other shape of a row: tokens with a tag each, in one of the schemes that `tags.spans` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[Annotated[str, StringConstraints(min_length=1)], ...]
    tags: tuple[Annotated[str, AfterValidator(tags.check_tag)], ...]

    @field_validator("tags")
    @classmethod
    def _valid_sequence(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        tags.spans(value)
        return value

    @model_validator(mode="after")
    def _same_length(self) -> TaggedTokens:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags; each token needs one tag")
        return self

    def as_text(self) -> dict[str, Any]:
        """Return the same row with ``text`` and ``entities``."""
        text, starts = tags.join(self.tokens)
        ends = [start + len(token) for start, token in zip(starts, self.tokens, strict=True)]
        entities = [
            {"start": starts[first], "end": ends[after - 1], "label": label} for first, after, label in tags.spans(self.tags)
        ]
        return {"text": text, "entities": entities}


class NerExample(NerInput):
    """A text with all of its entities, in order. It also accepts ``tokens`` and ``tags``."""

    entities: tuple[Span, ...]

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = {name: from_cell(value) if name != "text" else value for name, value in values.items()}
        if isinstance(values, Mapping) and not values.keys().isdisjoint(TaggedTokens.model_fields):
            return TaggedTokens.model_validate(values).as_text()
        return values

    @field_validator("entities")
    @classmethod
    def _in_text(cls, value: tuple[Span, ...], info: ValidationInfo) -> tuple[Span, ...]:
        text = info.data.get("text")
        if text is None:  # its own error is reported
            return value
        for span in value:
            if span.end > len(text):
                raise ValueError(f"{span} ends beyond the text, which has {len(text)} characters")
            part = text[span.start : span.end]
            if part != part.strip():
                raise ValueError(f"{span} is {short_repr(part)}; an entity must not begin or end with white space")
        ordered = tuple(sorted(value, key=lambda span: span.start))
        for span, after in pairwise(ordered):
            if after.start < span.end:
                raise ValueError(f"{span} and {after} overlap; a character may be part of one entity only")
        return ordered
