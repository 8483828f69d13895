"""Makes a configuration known to its database: the schema up to date, and every model with its settings. Knows no cluster."""

from __future__ import annotations

from baton.config.file import BatonConfig
from baton.store.registry import Registry


def declare(registry: Registry, config: BatonConfig) -> None:
    """Migrate, and declare all models of ``config``; may be done again at any time, by several processes at once.

    Raises:
        RegistryError: the database does not answer, or its schema is newer than this code.
    """
    registry.migrate()
    for settings in config.models:
        registry.declare_model(settings.name, settings.model_dump(mode="json"))
