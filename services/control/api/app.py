"""The control API: puts middleware, routes and error handlers together. Decides nothing; its routes ask the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Depends, FastAPI, Request

from baton import __version__
from services.bodies import Timely
from services.console.app import Console
from services.control.api.answers import AnswerHeaders
from services.control.api.audit import add_audit
from services.control.api.datasets import add_datasets
from services.control.api.error_handlers import add_error_handlers
from services.control.api.feedback import add_feedback
from services.control.api.guard import Guard, describe
from services.control.api.health import add_health
from services.control.api.models import add_models
from services.control.api.problems import Problem
from services.control.api.promotions import add_decisions, add_promotions
from services.control.api.protocol import ControlPlane
from services.control.api.retrain import add_retrain
from services.control.api.rollout import add_rollout
from services.control.api.runs import add_runs
from services.control.api.versions import add_versions
from services.control.api.withdrawals import add_withdrawals
from services.control.control_metrics import ControlMetrics, add_metrics
from services.control.inference_protocol import add_inference_protocol
from services.control.openapi.page import add_page
from services.control.openapi.predictions import add_predictions

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}} for status in (401, 403, 404, 409, 422, 429, 503)
}
"""Error answers of every route, as OpenAPI describes them."""


def build_api(control: ControlPlane, lifespan: Lifespan) -> FastAPI:
    """Return the FastAPI application over ``control``."""

    async def require_current_schema(request: Request) -> None:
        """Raise ``RegistryError`` before a write unless the database has this code's schema: an upgrade runs two versions."""
        if request.method not in ("GET", "HEAD"):
            await asyncio.to_thread(control.registry.check)

    api = FastAPI(
        title="Baton",
        docs_url=None,  # `add_page` has a page that needs no other host
        redoc_url=None,
        dependencies=[Depends(require_current_schema)],
        version=__version__,
        lifespan=lifespan,
        responses=PROBLEMS,
        description="Ask models, and train, judge, promote and roll them back. Replicas answer predictions in four dialects.",
    )
    api.add_middleware(Timely)
    api.add_middleware(Guard, control=control)
    metrics = ControlMetrics(control)
    api.add_middleware(Console, control=control, metrics=metrics)  # in front of the guard: it has its own gate
    api.add_middleware(AnswerHeaders)  # around both, because it was added last: it sees what they answer, too
    add_error_handlers(api, control)
    add_health(api, control)
    add_models(api, control)
    add_versions(api, control)
    add_runs(api, control)
    add_promotions(api, control)
    add_decisions(api, control)
    add_rollout(api, control)
    add_feedback(api, control, metrics)
    add_withdrawals(api, control)
    add_audit(api, control)
    add_metrics(api, metrics)
    add_retrain(api, control)
    add_datasets(api, control)
    add_inference_protocol(api, control)
    add_page(api)
    add_predictions(api, lambda: control.config.models)
    describe(api)
    return api
