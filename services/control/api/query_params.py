"""Bounds of what routes take, where several routes take the same."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

LARGEST = 2**31 - 1
"""Numbers beyond this fit no integer column."""

Before = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the page before.")]
"""Where a page of a listing begins."""
