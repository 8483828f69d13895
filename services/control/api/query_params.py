"""Parameters that several routes take, with their bounds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from baton.store.records import LARGEST_INTEGER

Limit = Annotated[int, Query(ge=1, le=500, description="Maximum number of items in one page.")]

Before = Annotated[int | None, Query(ge=0, le=LARGEST_INTEGER, description="`next` of the previous page.")]
"""The item before which a page of a list begins."""

BeforeTime = Annotated[AwareDatetime | None, Query(description="`next` of the previous page.")]
"""The time before which a page of a history begins."""
