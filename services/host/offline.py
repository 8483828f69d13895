"""A client for a service that does not run: the control API answers it in this process, from the database alone.

The same routes answer as in a service, so that a command cannot tell the difference. Creates and migrates no database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI

from baton.config.file import BatonConfig
from baton.errors import RegistryError
from baton.store.registry import Registry
from services.client import Client
from services.control.api.app import build_api
from services.control.reading_plane import ReadingPlane


def connect(config: BatonConfig, url: str) -> Client:
    """Return a client whose calls are answered from the database of ``config``. ``url``: where the service would be.

    It knows the models that were declared when the service ran last.

    Raises:
        RegistryError: the database does not respond, knows none of the models, or has another schema than this code's.
    """
    registry = Registry(config.database, read_only=True)
    try:
        registry.check()
        declared = set(registry.declared())
        config = config.model_copy(update={"models": tuple(model for model in config.models if model.name in declared)})
        if not config.models:
            raise RegistryError("its database knows none of the models yet; `baton up` declares them")
    except BaseException:
        registry.close()
        raise
    return Client(url, transport=_InProcess(build_api(ReadingPlane(config, registry), _nothing), registry))


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


class _InProcess(httpx.BaseTransport):
    """Gives the requests of a blocking client to an ASGI application."""

    def __init__(self, api: FastAPI, registry: Registry) -> None:
        self._inner = httpx.ASGITransport(api, raise_app_exceptions=False)
        self._runner = asyncio.Runner()
        self._registry = registry

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer."""
        return self._runner.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread(), request=request)

    def close(self) -> None:
        """Close the event loop and the database."""
        self._runner.close()
        self._registry.close()
