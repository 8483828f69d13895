"""Parameters that several routes take, with their bounds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime

from baton.store.records import LARGEST_INTEGER

Limit = Annotated[int, Query(ge=1, le=500, description="Maximum number of items in one page.")]

Before = Annotated[int | None, Query(ge=0, le=LARGEST_INTEGER, description="`next` of the previous page.")]
"""The item before which a page of a list begins."""


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time in the years 1 to 9999 of UTC") from None


BeforeTime = Annotated[
    Annotated[AwareDatetime, AfterValidator(_in_utc)] | None, Query(description="`next` of the previous page.")
]
"""The time before which a page of a history begins."""
