"""The control API: routes, bodies and problem documents. Decides nothing; asks the control plane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.exceptions import HTTPException

from baton import __version__
from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings
from baton.errors import BatonError, RegistryError
from baton.store.records import Decision, Promotion, Run
from baton.store.registry import PAGE, Registry
from services.control.api.datasets import add_datasets
from services.control.api.feedback import add_feedback
from services.control.api.guard import Guard, describe
from services.control.api.problems import Problem, problem
from services.control.api.query_params import LARGEST, Before
from services.control.api.retrain import add_retrain
from services.control.control_metrics import ControlMetrics, add_metrics
from services.control.live_cache import LiveQualityCache
from services.control.retrain import Retrainer
from services.keyring import Keyring

EVENT_SECONDS = 0.5
"""How often a stream of run events looks for new ones."""

Limit = Annotated[int, Query(ge=1, le=500, description="Rows in one page.")]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Rollouts(Protocol):
    """What the API needs of the hand-over."""

    async def rollback(self, model: str, to: int | None, reason: str) -> tuple[Decision, Promotion]:
        """The previous champion back in service."""
        ...

    async def states(self, model: str) -> list[dict[str, Any]]:
        """What every live replica says of itself."""
        ...


class Control(Protocol):
    """What the API needs of the control plane."""

    config: BatonConfig
    registry: Registry
    keyring: Keyring

    @property
    def retrainer(self) -> Retrainer:
        """What starts runs by itself."""
        ...

    @property
    def live(self) -> LiveQualityCache:
        """Live quality."""
        ...

    @property
    def rollouts(self) -> Rollouts:
        """The hand-over."""
        ...

    async def start_run(self, model: str, assignments: list[str], idempotency_key: str | None) -> Run:
        """Queue a run and submit its job."""
        ...

    async def cancel_run(self, run_id: str) -> Run:
        """End a run now."""
        ...

    async def promote(self, model: str, version: int, *, force: bool, reason: str | None) -> tuple[Decision, Promotion | None]:
        """Gate and swap."""
        ...

    async def describe(self, settings: ModelSettings) -> dict[str, Any]:
        """One model."""
        ...

    async def unready(self) -> list[str]:
        """Why the service is not ready."""
        ...


class Body(BaseModel):
    """A request body; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class RunRequest(Body):
    """Overrides for one run."""

    set: list[str] = Field(default_factory=list, description="KEY=VALUE overrides, e.g. training.epochs=5.")


class PromotionRequest(Body):
    """Which version should take over."""

    version: int = Field(ge=1, le=LARGEST)
    force: bool = Field(False, description="Pass over the gate. Needs a reason, which stays in the history.")
    reason: str | None = Field(None, max_length=500)


class RollbackRequest(Body):
    """Where to go back to."""

    version: int | None = Field(None, ge=1, le=LARGEST, description="An earlier champion; the previous one by default.")
    reason: str = Field("rolled back by an operator", min_length=1, max_length=500)


class Page(BaseModel):
    """One page of a list. ``next`` is the value of ``before`` for the next page, None on the last one."""

    items: list[dict[str, Any]]
    next: int | str | None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}} for status in (401, 403, 404, 409, 422, 429, 503)
}


def build_api(control: Control, lifespan: Lifespan) -> FastAPI:
    """The FastAPI application over ``control``."""

    async def require_current_schema(request: Request) -> None:
        """Nothing is written in a schema that this code does not know: during an upgrade two versions share the database."""
        if request.method not in ("GET", "HEAD"):
            await asyncio.to_thread(control.registry.check)

    api = FastAPI(
        title="Baton",
        dependencies=[Depends(require_current_schema)],
        version=__version__,
        lifespan=lifespan,
        responses=PROBLEMS,
        description="Train, judge, promote and roll back models. Predictions are answered below /models/NAME.",
    )
    api.add_middleware(Guard, control=control)
    _add_errors(api, control)
    _add_health(api, control)
    _add_models(api, control)
    _add_runs(api, control)
    _add_promotions(api, control)
    metrics = ControlMetrics(control)
    add_feedback(api, control, metrics)
    add_metrics(api, metrics)
    add_retrain(api, control)
    add_datasets(api, control)
    describe(api)
    return api


def _add_health(api: FastAPI, control: Control) -> None:
    @api.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The control plane is alive."""
        return {"status": "ok", "version": __version__}

    @api.get("/readyz", tags=["health"])
    async def readyz(request: Request) -> JSONResponse:
        """Every declared model that has a champion answers with it."""
        reasons = await control.unready()
        if reasons:
            key = request.headers.get("authorization", "").encode("latin-1")
            return problem(
                503, "not ready", control.keyring.reason_if_authorised(key, "; ".join(reasons)), headers={"retry-after": "1"}
            )
        return JSONResponse({"status": "ready"})


def _add_models(api: FastAPI, control: Control) -> None:
    registry = control.registry

    @api.get("/api/models", tags=["models"])
    async def list_models() -> Page:
        """All declared models."""
        return Page(items=[await control.describe(settings) for settings in control.config.models], next=None)

    @api.get("/api/models/{model}", tags=["models"])
    async def get_model(model: str) -> dict[str, Any]:
        """One model: champion, replicas, what is going on."""
        return await control.describe(control.config.model(model))

    @api.get("/api/models/{model}/versions", tags=["models"])
    def list_versions(model: str, limit: Limit = PAGE, before: Before = None) -> Page:
        """Versions, newest first, with their main metrics."""
        control.config.model(model)
        found = registry.versions(model, limit=limit, before=before)
        champion = registry.champion(model).version
        items = [{**_plain(version), "champion": version.number == champion} for version in found]
        return Page(items=[_brief(item) for item in items], next=found[-1].number if len(found) == limit else None)

    @api.get("/api/models/{model}/versions/{number}", tags=["models"])
    def get_version(model: str, number: Annotated[int, Path(ge=1, le=LARGEST)]) -> dict[str, Any]:
        """One version with all its metrics and its lineage."""
        control.config.model(model)
        champion = registry.champion(model).version
        return {**_plain(registry.version(model, number)), "champion": number == champion}

    @api.get("/api/models/{model}/history", tags=["models"])
    def history(model: str, limit: Limit = PAGE) -> Page:
        """Promotions, refusals, failed runs and incidents, newest first."""
        control.config.model(model)
        return Page(items=[_plain(entry) for entry in registry.history(model, limit=limit)], next=None)


def _add_runs(api: FastAPI, control: Control) -> None:
    registry = control.registry

    @api.post("/api/models/{model}/runs", status_code=202, tags=["runs"])
    async def start_run(
        model: str,
        body: RunRequest | None = None,
        idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
    ) -> dict[str, Any]:
        """Retrain. 409 while a run of this model is active; the same Idempotency-Key gives the same run."""
        control.config.model(model)
        return _plain(await control.start_run(model, body.set if body else [], idempotency_key))

    @api.get("/api/models/{model}/runs", tags=["runs"])
    def list_runs(model: str, limit: Limit = PAGE, before: str | None = None) -> Page:
        """Runs, newest first."""
        control.config.model(model)
        found = registry.runs.list(model, limit=limit, before=before)
        return Page(items=[_plain(run) for run in found], next=found[-1].id if len(found) == limit else None)

    @api.get("/api/runs/{run_id}", tags=["runs"])
    def get_run(run_id: str) -> dict[str, Any]:
        """One run, with its decision once it has one."""
        run = registry.runs.get(run_id)
        decision = registry.decision(run.decision_id) if run.decision_id is not None else None
        return {**_plain(run), "decision": _plain(decision) if decision else None}

    @api.get("/api/runs/{run_id}/events", tags=["runs"])
    async def run_events(run_id: str, last_event_id: Annotated[int, Header(ge=0, le=LARGEST)] = 0) -> StreamingResponse:
        """Progress as server-sent events, from the first (or after Last-Event-ID) until the run ends."""
        await asyncio.to_thread(registry.runs.get, run_id)
        return StreamingResponse(_events(registry, run_id, last_event_id), media_type="text/event-stream")

    @api.post("/api/runs/{run_id}/cancel", tags=["runs"])
    async def cancel_run(run_id: str) -> dict[str, Any]:
        """End an active run now; 409 when it is over."""
        return _plain(await control.cancel_run(run_id))


def _add_promotions(api: FastAPI, control: Control) -> None:
    registry = control.registry

    @api.post("/api/models/{model}/promotions", tags=["promotions"])
    async def promote(model: str, body: PromotionRequest) -> JSONResponse:
        """Gate and swap: 200 with the Decision when the version took over, 409 with the Decision when it was refused."""
        control.config.model(model)
        decision, promotion = await control.promote(model, body.version, force=body.force, reason=body.reason)
        if promotion is None:
            return problem(409, "refused by the gate", decision.sentence, decision=_plain(decision))
        return JSONResponse({"decision": _plain(decision), "promotion": _plain(promotion)})

    @api.get("/api/models/{model}/promotions", tags=["promotions"])
    def list_promotions(model: str, limit: Limit = PAGE, before: Before = None) -> Page:
        """Moves of the champion pointer, newest first."""
        control.config.model(model)
        found = registry.promotions(model, limit=limit, before=before)
        return Page(items=[_plain(promotion) for promotion in found], next=found[-1].id if len(found) == limit else None)

    @api.post("/api/models/{model}/rollback", tags=["promotions"])
    async def rollback(model: str, body: RollbackRequest | None = None) -> dict[str, Any]:
        """The previous champion, or an earlier one, back in service."""
        control.config.model(model)
        wanted = body or RollbackRequest()
        decision, promotion = await control.rollouts.rollback(model, wanted.version, wanted.reason)
        return {"decision": _plain(decision), "promotion": _plain(promotion)}


def _add_errors(api: FastAPI, control: Control) -> None:
    @api.exception_handler(BatonError)
    async def baton_error(_: Request, error: BatonError) -> JSONResponse:
        return problem(error.status, error.title, str(error), headers=dict(error.headers))

    @api.exception_handler(Exception)
    async def handle_unexpected_error(_: Request, error: Exception) -> JSONResponse:
        return problem(500, BatonError.title, f"internal error ({type(error).__name__})")

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [
            f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']} (got {str(mistake.get('input'))[:60]!r})"
            for mistake in error.errors()
        ]
        malformed = any(mistake["type"] == "json_invalid" for mistake in error.errors())
        return problem(400 if malformed else 422, "malformed request" if malformed else "invalid input", "; ".join(mistakes))

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        detail = f"{error.detail}: {request.method} {path}"
        if path.startswith("/models/"):
            name, names = path.split("/")[2], [settings.name for settings in control.config.models]
            if name in names:  # the proxy does not know its route yet
                return problem(503, "not ready", f"{name} is starting; try again", headers={"retry-after": "1"})
            detail = f"unknown model {name!r}; declared models: {', '.join(names)}"
        return problem(error.status_code, str(error.detail).lower(), detail)


async def _events(registry: Registry, run_id: str, after: int) -> AsyncIterator[str]:
    while True:
        try:
            run = await asyncio.to_thread(registry.runs.get, run_id)
            events = await asyncio.to_thread(registry.runs.events, run_id, after)
        except RegistryError as error:  # the run goes on, and so does the stream when the database is back
            yield f": {str(error).splitlines()[0]}\n\n"
            await asyncio.sleep(EVENT_SECONDS)
            continue
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: progress\ndata: {json.dumps(event.data)}\n\n"
        if run.state.final:
            yield f"event: end\ndata: {json.dumps(_plain(run))}\n\n"
            return
        await asyncio.sleep(EVENT_SECONDS)


def _plain(record: Any) -> dict[str, Any]:
    """A frozen record as JSON values."""
    plain: dict[str, Any] = TypeAdapter(type(record)).dump_python(record, mode="json")
    return plain


def _brief(version: dict[str, Any]) -> dict[str, Any]:
    """A version without the metrics that fill screens."""
    long = ("confusion", "per_class", "labels", "reference")
    return {**version, "metrics": {key: value for key, value in version["metrics"].items() if key not in long}}
