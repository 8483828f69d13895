"""URLs of databases in a form that may be shown. Knows no database."""

from __future__ import annotations

import re


def without_passwords(text: str) -> str:
    """Return ``text``, a URL or a message that quotes one, with each password replaced by ``***``.

    It need not be a valid URL. In doubt this hides too much rather than too little.
    """
    return re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", re.sub(r"(://[^:/]*):.*@", r"\1:***@", text))
