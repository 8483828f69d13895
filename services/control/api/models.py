"""Routes that read models: how they are declared, champions, versions, history."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path

from baton.config import changes
from baton.store.records import LARGEST_INTEGER, PAGE
from services.control.api.bodies import Page, to_json_values
from services.control.api.protocol import ControlPlane
from services.control.api.query_params import Before, BeforeTime, Limit

LONG_METRICS = ("confusion", "per_class", "labels", "reference")
"""Metrics that a list of versions leaves out because they fill screens."""


def add_models(api: FastAPI, control: ControlPlane) -> None:
    """Add ``/api/config`` and the reading routes below ``/api/models``."""
    registry = control.registry

    @api.get("/api/config", tags=["models"])
    async def get_config() -> dict[str, Any]:
        """Return the configuration that the service uses, with defaults; passwords and secrets are masked."""
        return changes.shown(control.config)

    @api.get("/api/models", tags=["models"])
    async def list_models() -> Page:
        """List all declared models."""
        return Page(items=[await control.describe(settings) for settings in control.config.models], next=None)

    @api.get("/api/models/{model}", tags=["models"])
    async def get_model(model: str) -> dict[str, Any]:
        """Return one model: its champion, its replicas, its active run and roll-out."""
        return await control.describe(control.config.model(model))

    @api.get("/api/models/{model}/versions", tags=["models"])
    def list_versions(model: str, limit: Limit = PAGE, before: Before = None) -> Page:
        """List versions, newest first, with their main metrics.

        ``moves`` says how a version became champion, each time: ``gate``, ``force`` or ``rollback``; ``rolled_back`` whether a
        rollback ever took it out of service; ``rejected`` why somebody rejected it.
        """
        control.config.model(model)
        found = registry.versions.list(model, limit=limit, before=before)
        champion, moves, rolled_back = registry.champion(model).version, registry.moves(model), registry.rolled_back(model)
        rejections = registry.history.rejections(model)
        items = [
            {
                **to_json_values(version),
                "champion": version.number == champion,
                "moves": moves.get(version.number, []),
                "rolled_back": version.number in rolled_back,
                "rejected": rejections.get(version.number),
            }
            for version in found
        ]
        return Page(
            items=[_without_long_metrics(item) for item in items], next=found[-1].number if len(found) == limit else None
        )

    @api.get("/api/models/{model}/versions/{number}", tags=["models"])
    def get_version(model: str, number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)]) -> dict[str, Any]:
        """Return one version with all its metrics and its lineage."""
        control.config.model(model)
        champion = registry.champion(model).version
        return {**to_json_values(registry.versions.get(model, number)), "champion": number == champion}

    @api.get("/api/models/{model}/history", tags=["models"])
    def history(model: str, limit: Limit = PAGE, before: BeforeTime = None) -> Page:
        """List promotions, refusals, failed runs and incidents, newest first."""
        control.config.model(model)
        found = registry.history.list(model, limit=limit, before=before)
        return Page(
            items=[to_json_values(entry) for entry in found], next=found[-1].at.isoformat() if len(found) == limit else None
        )


def _without_long_metrics(version: dict[str, Any]) -> dict[str, Any]:
    return {**version, "metrics": {key: value for key, value in version["metrics"].items() if key not in LONG_METRICS}}
