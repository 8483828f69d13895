"""Databases with the schema at a fraction of the cost of migrating each: a SQLite file that was migrated once is copied."""

from __future__ import annotations

import sqlite3
import tempfile
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from baton.store.registry import Registry


def migrated_registry(url: str) -> Registry:
    """Return the registry in ``url`` with this code's schema. A new SQLite database is a copy, any other one is migrated."""
    registry, parsed = Registry(url), sa.make_url(url)
    file = Path(parsed.database or "")
    if parsed.get_backend_name() == "sqlite" and not file.exists():
        file.write_bytes(_template())
    else:
        registry.migrate()
    return registry


@cache
def _template() -> bytes:
    """Return a SQLite file that `Registry.migrate` made. All databases of this process have its secret of the audit."""
    with tempfile.TemporaryDirectory(prefix="baton-template-") as directory:
        file = Path(directory) / "baton.db"
        registry = Registry(f"sqlite:///{file}")
        registry.migrate()
        registry.close()
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return file.read_bytes()
