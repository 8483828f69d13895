"""The types of ASGI applications (asgi.readthedocs.io, version 3), and bounds that all routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from fastapi import Query

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 2**31 - 1
"""Numbers beyond this fit no integer column."""

Before = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the page before.")]
"""Where a page of a listing begins."""
