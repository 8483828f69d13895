"""Parameters that several routes take, with their bounds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

LARGEST = 2**31 - 1
"""The largest number that fits an integer column of PostgreSQL."""

Before = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the previous page.")]
"""The item before which a page of a list begins."""
