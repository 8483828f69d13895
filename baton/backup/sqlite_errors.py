"""What an error of SQLite says about a database. Knows nothing of backups."""

from __future__ import annotations

import sqlite3

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def says_damaged(error: sqlite3.Error) -> bool:
    """Return whether the file is not a whole database."""
    return _kind(error) in _DAMAGED


def says_in_use(error: sqlite3.Error) -> bool:
    """Return whether another process holds a lock."""
    return _kind(error) in _IN_USE


def _kind(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, the lowest byte of a code; 0 if Python raised the error and not SQLite."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
