"""The audit of a test's database: which texts it draws is known, or what a test sends would be held out by chance."""

from __future__ import annotations

import sqlalchemy as sa

from baton.quality.audit import is_drawn
from baton.store import schema
from baton.store.registry import Registry
from baton.text.normal_form import fingerprint

SECRET = "5e" * 32
"""In place of the random secret that each migrated database has."""


def fix_secret(url: str) -> None:
    """Let the audit of a migrated database draw the same texts each time."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(schema.secrets.update().values(value=SECRET))
    engine.dispose()


def drawn_text(registry: Registry, model: str, share: float = 0.02, stem: str = "new text") -> str:
    """Return a text that the audit of ``model`` draws."""
    secret = registry.audit.secret()
    texts = (f"{stem} {number}" for number in range(100_000))
    return next(text for text in texts if is_drawn(secret, model, fingerprint(text), share))
