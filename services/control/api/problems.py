"""Problem documents (RFC 9457): the form of every error that the control API answers."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Problem(BaseModel):
    """The members of a problem document that RFC 9457 names."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Return an error answer. ``more`` are further members of its document."""
    content = {**Problem(title=title, status=status, detail=detail).model_dump(), **more}
    # Predictions of unknown models are answered here as well; Hugging Face clients read the key "error".
    return JSONResponse(
        {**content, "error": detail}, status_code=status, headers=headers, media_type="application/problem+json"
    )
