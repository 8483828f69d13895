"""Prepares the database for a configuration: migrates the schema and declares the models. Knows no cluster."""

from __future__ import annotations

from baton.config.file import BatonConfig
from baton.store.registry import Registry


def declare(registry: Registry, config: BatonConfig) -> None:
    """Migrate the schema, and declare all models of ``config`` with their settings.

    May be repeated at any time, also by several processes at once.

    Raises:
        RegistryError: the database does not respond, or its schema is newer than this code.
    """
    registry.migrate()
    for settings in config.models:
        registry.declare_model(settings.name, settings.model_dump(mode="json"))
