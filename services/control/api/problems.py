"""Problem documents (RFC 9457): how the control API says what went wrong."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """An answer that says what went wrong; ``more`` are further keys of its document."""
    content = {**Problem(title=title, status=status, detail=detail).model_dump(), **more}
    # Predictions of unknown models end here too; their clients read the key "error".
    return JSONResponse(
        {**content, "error": detail}, status_code=status, headers=headers, media_type="application/problem+json"
    )
