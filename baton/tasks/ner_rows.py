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

from baton.tasks.checks import check_label, check_text, from_cell
from baton.text import tags
from baton.validation import short_repr
from baton.wording import counted

FORMS: Mapping[str, tuple[str, ...]] = {
    "start": ("start", "start_offset", "start_char", "begin"),
    "end": ("end", "end_offset", "end_char"),
    "label": ("label", "labels", "type", "entity_group", "entity_type"),
    "text": ("text", "word", "surface", "mention"),
}
"""What annotation tools and pipelines call the parts of an entity."""

WANTED = 'expected {"start": 0, "end": 4, "label": "PER"} or [0, 4, "PER"]'


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
    label: Annotated[str, AfterValidator(check_label)]

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


def as_span(item: object) -> dict[str, Any]:
    """Return an entity as ``start``, ``end`` and ``label``, and ``text`` where the item says what it reads.

    It may be a list (``[0, 4, "PER"]``, as in spaCy's data), have other names (`FORMS`) or carry more, for example a token's
    index. Label Studio has its type in a list.

    Raises:
        ValueError: a part is missing, or it has several types.
    """
    if isinstance(item, list | tuple) and len(item) == 3 and isinstance(item[2], str):
        return _with_positions(dict(zip(("start", "end", "label"), item, strict=True)))
    if isinstance(item, Mapping) and isinstance(item.get("value"), Mapping):  # Label Studio
        item = item["value"]
    if not isinstance(item, Mapping):
        raise ValueError(f"{short_repr(item)}: {WANTED}")
    found = {part: item[name] for part, names in FORMS.items() for name in reversed(names) if item.get(name) is not None}
    if missing := [part for part in ("start", "end", "label") if part not in found]:
        raise ValueError(f"{short_repr(dict(item))} has no {missing[0]}; {WANTED}")
    if isinstance(found["label"], list | tuple):
        if len(found["label"]) != 1:
            raise ValueError(f"{short_repr(dict(item))} has {counted(len(found['label']), 'type')}; an entity has one")
        [found["label"]] = found["label"]
    return _with_positions(found)


def _with_positions(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span whose positions are whole numbers where they are written as text (``"4"``) or as floats (4.0)."""
    for part in ("start", "end"):
        value = span[part]
        if (isinstance(value, str) and value.strip().isdecimal()) or (isinstance(value, float) and value.is_integer()):
            span[part] = int(value)
    return span


def reads(text: str, span: Mapping[str, Any]) -> bool:
    """Return whether ``text`` reads at a span of `as_span` what the span says; True if it does not say.

    Case and white space do not count: pipelines of uncased models return words without both.
    """
    return "text" not in span or _compact(text[span["start"] : span["end"]]) == _compact(span["text"])


def _compact(text: object) -> str:
    return "".join(str(text).casefold().replace("##", "").split())


def _checked(item: object, index: int, text: object) -> object:
    """Return an entity as the fields of `Span`. Raises ``ValueError`` if the text does not read what it says."""
    if isinstance(item, Span):
        return item
    try:
        span = as_span(item)
    except ValueError as error:
        raise ValueError(f"entities[{index}]: {error}") from None
    start, end = span["start"], span["end"]
    if isinstance(text, str) and isinstance(start, int) and isinstance(end, int) and not reads(text, span):
        found = text.find(str(span["text"]))
        where = f", which stands at {found}–{found + len(str(span['text']))}" if found >= 0 else ""
        raise ValueError(
            f"entities[{index}]: {span['label']!r} at {start}–{end} reads {short_repr(text[max(start, 0) : end])}, but the row "
            f"says {short_repr(span['text'])}{where}; positions count code points from 0, and the end is exclusive"
        )
    return {part: span[part] for part in ("start", "end", "label")}


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
            if isinstance(values.get("entities"), list | tuple):
                values["entities"] = [
                    _checked(item, index, values.get("text")) for index, item in enumerate(values["entities"])
                ]
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
