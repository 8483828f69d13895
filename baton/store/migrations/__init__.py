"""Alembic migrations of the registry, oldest first. A released migration never changes."""
