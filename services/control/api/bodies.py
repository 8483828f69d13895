"""Bodies of the control API's requests and answers, where several routes share them, and records as JSON values."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

LONGEST_REASON = 500
"""Maximum length in characters of a reason that a person gives."""


class Body(BaseModel):
    """The body of a request. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel):
    """One page of a list. ``next`` is the value of ``before`` for the next page, None on the last one."""

    items: list[dict[str, Any]]
    next: int | str | None


def to_json_values(record: Any) -> dict[str, Any]:
    """Return a frozen record as JSON values."""
    plain: dict[str, Any] = TypeAdapter(type(record)).dump_python(record, mode="json")
    return plain
