"""URLs of databases, as they may be shown. Knows no database."""

from __future__ import annotations

import re


def public(url: str) -> str:
    """``url`` without its passwords, even where it is no URL at all: too much hidden is better than too little."""
    return re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", re.sub(r"(://[^:/]*):.*@", r"\1:***@", url))
