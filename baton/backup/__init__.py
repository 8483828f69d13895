"""Backups of a SQLite database and a storage that is a directory: taken while the service runs and trains, restored whole.

Knows nothing of the service. PostgreSQL and object stores have their own tools, which docs/operations.md describes.

Start reading with `record` (what a backup is), then `taking` and `restoring`.
"""
