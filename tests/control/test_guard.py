"""Every endpoint against every bad key: the control API's own routes, and a replica on a port of its own."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError

from baton.artifacts.storage import Storage
from baton.client import AsyncClient, Client, ServiceError
from baton.config.file import AuthSettings, BatonConfig, HttpSettings
from baton.errors import InvalidInput
from baton.keys import ALLOWS, Scope, new_token
from baton.store.records import RunState
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from services.app import ModelArgs
from services.control.api import guard
from services.control.openapi.predictions import paths as described_paths
from services.replica.replica import ModelReplica
from tests.cli.test_cli import serving
from tests.support import replica as replicas
from tests.support.database import migrated_registry
from tests.support.local_control import LocalControl, configured, control_of, publish
from tests.support.replica import until
from tests.support.tiny import save_classifier

ROOT = Path(__file__).parents[2]
LABELS = ("billing", "bug", "shipping")

OPEN = {
    (method, path)
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
    for method in ("GET", "HEAD", "OPTIONS")
}
"""What the control plane answers to everybody. Whoever makes this longer opens the service."""

OTHER_SCOPES = {
    ("GET", "/metrics"): Scope.METRICS,
    ("DELETE", "/api/models/{model}/feedback/{client_id}"): Scope.FEEDBACK,
    ("GET", "/v2"): Scope.PREDICT,
    ("POST", "/v2/repository/index"): Scope.PREDICT,
    ("POST", "/api/models/{model}/feedback"): Scope.FEEDBACK,
    ("GET", "/api/models/{model}/audit"): Scope.LABEL,
    ("POST", "/api/models/{model}/audit"): Scope.LABEL,
}
"""Operations that need another scope than `operate`."""

OPEN_REPLICAS = {
    ("GET", path)
    for path in (
        "/models/{model}/health",
        "/models/{model}/v2/health/live",
        "/models/{model}/v2/health/ready",
        "/v2/models/{model}/ready",
    )
}
"""What replicas answer to everybody, as OpenAPI describes them."""

INCLUDED = {Scope.LABEL: Scope.OPERATE}
"""Scopes that another one includes. Whoever makes this longer gives old keys new rights."""

BAD = ("none", "malformed", "wrong", "wrong scope", "expired", "revoked", "another model's")


def right(registry: Registry, scope: Scope, **options: Any) -> str:
    return registry.keys.create("right", [scope], **options)[1]


def headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


@dataclass(frozen=True)
class Credentials:
    """For each scope a key that is right for model ``m`` and one of each kind that is not; ``status``: the answer to each."""

    right: Mapping[Scope, str]
    bad: Mapping[Scope, Mapping[str, str | None]]
    status: ClassVar = {kind: 403 if kind in ("wrong scope", "another model's") else 401 for kind in BAD}


def credentials(registry: Registry) -> Credentials:
    def bad(scope: Scope) -> dict[str, str | None]:
        keys = registry.keys
        revoked, revoked_token = keys.create("revoked", [scope])
        keys.revoke(revoked.id)
        return {
            "none": None,
            "malformed": "sesame",
            "wrong": new_token()[1],
            "wrong scope": keys.create("other scopes", [other for other in Scope if other not in (scope, INCLUDED.get(scope))])[
                1
            ],
            "expired": keys.create("expired", [scope], expires_at=datetime.now(UTC) - timedelta(seconds=1))[1],
            "revoked": revoked_token,
            "another model's": keys.create("other", [scope], models=["other"])[1],
        }

    return Credentials({scope: right(registry, scope) for scope in Scope}, {scope: bad(scope) for scope in Scope})


def closed(config: BatonConfig) -> BatonConfig:
    return config.model_copy(update={"auth": AuthSettings(required=True)})


# --- the control API -----------------------------------------------------------------------------------------------------


class Api:
    """The control API of models ``m`` and ``other`` with keys asked for, and a finished run of each."""

    def __init__(self, directory: Path) -> None:
        self.control: LocalControl = control_of(closed(configured(directory, "m", "other")))
        self.registry = self.control.registry
        publish(self.registry, "m", 60)
        self.runs = {model: self.registry.runs.create(model, {}, None).id for model in ("m", "other")}
        for run in self.runs.values():
            self.registry.runs.finish(run, RunState.CANCELLED, reason="a test")
        self.keys = credentials(self.registry)
        self.control.keyring.refresh()
        self.application: FastAPI = self.control.__serve_build_asgi_app__()

    def __call__(self, method: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.application, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path, headers=headers(token), **options)

        return asyncio.run(ask())

    def operations(self) -> list[tuple[str, str]]:
        """Method and path of every route that the application really has, its documentation pages among them."""
        routes = self.application.routes
        return sorted((method, route.path.replace(":path}", "}")) for route in routes for method in route.methods)

    def filled(self, path: str, model: str = "m") -> str:
        """``path`` about a model, its version 1 and its run."""
        values = {"model": model, "number": "1", "run_id": self.runs[model], "client_id": "c1"}
        return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path)
    yield api
    api.registry.close()


def scope_of(operation: tuple[str, str]) -> Scope:
    return OTHER_SCOPES.get(operation, Scope.OPERATE)


def challenge(kind: str, scope: Scope) -> str:
    """What a client is told in `WWW-Authenticate` (RFC 6750)."""
    if kind == "wrong scope":
        return f'Bearer error="insufficient_scope", scope="{scope}"'
    return {"none": "Bearer", "another model's": ""}.get(kind, 'Bearer error="invalid_token"')


def test_the_application_has_the_routes_that_these_tests_think_of(api):
    operations = api.operations()
    assert len(operations) > 25
    assert {*OPEN, *OTHER_SCOPES, ("GET", "/docs"), ("GET", "/docs/start.js"), ("GET", "/openapi.json")} <= {*operations}


@pytest.mark.parametrize("kind", BAD)
def test_every_route_of_the_control_api_refuses_a_bad_key(api, kind):
    wanted = api.keys.status[kind]
    answers = {
        operation: api(operation[0], api.filled(operation[1]), api.keys.bad[scope_of(operation)][kind])
        for operation in api.operations()
        if operation not in OPEN
    }
    assert {operation: answer.status_code for operation, answer in answers.items()} == dict.fromkeys(answers, wanted)
    for (method, path), answer in answers.items():
        assert answer.headers["content-type"] == "application/problem+json"
        assert method == "HEAD" or answer.json()["status"] == wanted
        assert answer.headers.get("www-authenticate", "") == challenge(kind, scope_of((method, path)))


def test_every_route_of_the_control_api_lets_the_right_key_pass(api):
    for operation in api.operations():
        method, path = operation
        if path == "/api/runs/{run_id}/cancel":
            continue  # the next test
        answer = api(method, api.filled(path), api.keys.right[scope_of(operation)])
        assert answer.status_code not in (401, 403, 500), operation


def test_health_is_told_to_everybody_with_and_without_a_key(api):
    for method, path in OPEN:
        for token in (None, "sesame", api.keys.right[Scope.PREDICT]):
            assert api(method, path, token).status_code in (200, 204, 503)


def test_only_whoever_has_a_key_is_told_why_the_service_is_not_ready(api):
    replicas.force(api.registry, "m", 1)  # no replica serves it
    open_to_all = api("GET", "/readyz")
    assert (open_to_all.status_code, open_to_all.json()["detail"]) == (503, "not ready; send an API key to see the reason")
    assert api("GET", "/readyz", api.keys.bad[Scope.OPERATE]["expired"]).json() == open_to_all.json()
    told = api("GET", "/readyz", api.keys.right[Scope.PREDICT])
    assert (told.status_code, "m: no replica serves the champion v1" in told.json()["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/console/models/m/versions"),
        ("GET", "/nowhere"),
        ("GET", "/api/nowhere"),
        ("OPTIONS", "/api/models"),
        ("DELETE", "/healthz"),
        ("POST", "/healthz"),
        ("GET", "/healthz/"),
        ("GET", "/healthz/../api/models"),
        ("GET", "//healthz"),
        ("GET", "/metrics/"),
        ("POST", "/api/models/m/feedback/"),
        ("POST", "/api/models/m%2Ffeedback"),
        ("GET", "/api/models/..%2f..%2fhealthz"),
        ("GET", "/-/healthz"),
        ("GET", "/models/m/health"),
        ("GET", "/models/nobody"),
    ],
)
def test_paths_that_are_no_routes_are_closed_too_and_tell_no_names(api, method, path):
    answer = api(method, path)
    assert answer.status_code == 401
    assert "other" not in answer.text


def test_a_path_that_only_looks_like_an_open_one_is_not_open(api):
    assert api("POST", "/api/models/m/feedback/", api.keys.right[Scope.FEEDBACK]).status_code == 403
    assert api("GET", "/metrics/", api.keys.right[Scope.METRICS]).status_code == 403


def test_a_feedback_key_cannot_read_feedback(api):
    assert api("POST", "/api/models/m/feedback", api.keys.right[Scope.FEEDBACK], json=[]).status_code not in (401, 403)
    assert "lacks the scope 'operate'" in api("GET", "/api/models/m/feedback", api.keys.right[Scope.FEEDBACK]).json()["detail"]


def test_operate_includes_label_and_no_scope_includes_another_one(api):
    for (method, path), scope in {**OTHER_SCOPES, ("GET", "/api/models/{model}"): Scope.OPERATE}.items():
        for other in Scope:
            answer = api(method, api.filled(path), api.keys.right[other])
            allowed = other in (scope, INCLUDED.get(scope))
            assert (answer.status_code != 403) == allowed, (method, path, other)


def test_a_key_for_one_model_operates_that_model_and_its_runs_and_no_other(api):
    token = right(api.registry, Scope.OPERATE, models=["m"])
    api.control.keyring.refresh()
    for path in ("/api/models/{model}", "/api/models/{model}/versions", "/api/runs/{run_id}", "/api/runs/{run_id}/events"):
        assert api("GET", api.filled(path), token).status_code == 200, path
        assert api("GET", api.filled(path, "other"), token).status_code == 403, path
    assert api("POST", api.filled("/api/runs/{run_id}/cancel"), token).status_code == 409
    assert api("POST", api.filled("/api/runs/{run_id}/cancel", "other"), token).status_code == 403
    assert "not about one model" in api("GET", "/api/models", token).json()["detail"]
    assert api("GET", "/api/runs/m-nobody", token).status_code == 403


def test_a_predict_key_that_asks_for_a_model_that_is_not_there_is_told_so(api):
    answer = api("POST", "/models/nobody", api.keys.right[Scope.PREDICT], json={"inputs": "a"})
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown model 'nobody'; declared models: m, other")
    assert api("POST", "/models/m", api.keys.right[Scope.PREDICT], json={"inputs": "a"}).status_code == 503
    assert api("POST", "/models/m", api.keys.bad[Scope.PREDICT]["another model's"]).status_code == 403


def test_a_key_over_its_rate_is_answered_429_as_a_problem(api):
    token = right(api.registry, Scope.METRICS, rate=1 / 3600)
    api.control.keyring.refresh()
    assert api("GET", "/metrics", token).status_code == 200
    answer = api("GET", "/metrics", token)
    assert (answer.status_code, answer.json()["title"]) == (429, "over the rate")
    assert 3590 <= int(answer.headers["retry-after"]) <= 3600


def test_a_control_plane_that_never_saw_the_keys_answers_503_and_says_why(tmp_path):
    control = control_of(closed(configured(tmp_path, "m")))
    application = control.__serve_build_asgi_app__()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url="http://localhost") as client:
            return await client.get("/api/models", headers=headers(new_token()[1]))

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "the API keys cannot be read yet" in answer.json()["detail"]


def test_web_sockets_are_closed_where_keys_are_asked_for(api):
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/healthz", "headers": [], "query_string": b""}
    asyncio.run(api.application(scope, receive, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


# --- what says so --------------------------------------------------------------------------------------------------------


def test_openapi_says_which_scope_each_operation_needs(api):
    schema = api("GET", "/openapi.json", api.keys.right[Scope.OPERATE]).json()
    scheme = schema["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for scope, text in ALLOWS.items():
        assert f"`{scope}`: {text}" in scheme["description"]
    told = {
        (method.upper(), path): operation["security"]
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    assert len(told) > 20
    replicas_paths = described_paths([Classification])
    assert len(replicas_paths) > 10
    for operation, security in told.items():
        scope = Scope.PREDICT if operation[1] in replicas_paths else scope_of(operation)
        assert security == ([] if operation in OPEN | OPEN_REPLICAS else [{"key": [scope]}]), operation


def test_the_documentation_has_the_table_that_the_code_has():
    text = (ROOT / "docs/security.md").read_text()
    assert guard.table() in text
    for scope, allowed in ALLOWS.items():
        assert f"| `{scope}` | {allowed} |" in text


# --- a replica on its own port -------------------------------------------------------------------------------------------


class Replica:
    """A started replica of ``m`` behind a real HTTP server, as whoever finds its port reaches it."""

    def __init__(self, url: str, registry: Registry, database: Path, keys: Credentials) -> None:
        self.url, self.registry, self.database, self.keys = f"{url}/models/m", registry, database, keys

    def __call__(self, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", headers=headers(token), timeout=60, **options)

    def ask(self, token: str | None) -> httpx.Response:
        return self("POST", "", token, json={"inputs": "where is my parcel?"})


@pytest.fixture(scope="module")
def classifier(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def replica(classifier: Path, tmp_path: Path) -> Iterator[Replica]:
    config = configured(tmp_path, "m", "other")
    registry = migrated_registry(config.database)
    registry.declare_model("m")
    storage = Storage(config.storage)
    replicas.publish(registry, storage, "m", classifier, LABELS)
    replicas.force(registry, "m", 1)
    keys = credentials(registry)
    settings = config.models[0].model_dump(mode="json")
    settings["serving"] |= {"precision": "fp32", "device": "cpu", "poll_seconds": 0.05}
    inner = ModelReplica(settings, config.database, storage.url, replica_id="r1", keys_required=True).__serve_build_asgi_app__()

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/models/m"}, receive, send)

    with serving(mounted) as url:
        yield Replica(url, registry, tmp_path / "baton.db", keys)
    registry.close()


@pytest.mark.parametrize("kind", BAD)
def test_every_path_of_a_replica_refuses_a_bad_key_in_the_shape_that_its_clients_read(replica, kind):
    token = replica.keys.bad[Scope.PREDICT][kind]
    for method, path in [
        ("POST", ""),
        ("GET", ""),
        ("POST", "/"),
        ("GET", "/info"),
        ("GET", "/nowhere"),
        ("OPTIONS", ""),
        ("GET", "/health/../info"),
        ("GET", "/healthz"),
        ("GET", "/%2e%2e/health"),
        ("POST", "/predict"),
        ("POST", "/v1/models/m:predict"),
        ("GET", "/v2"),
        ("GET", "/v2/models/m"),
        ("POST", "/v2/models/m/infer"),
        ("POST", "/v2/models/m/versions/1/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/other/ready"),
    ]:
        answer = replica(method, path, token)
        assert answer.status_code == replica.keys.status[kind], (method, path)
        assert list(answer.json()) == (["error", "error_type"] if path == "/predict" else ["error"])
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers.get("www-authenticate", "") == challenge(kind, Scope.PREDICT)
        if answer.status_code == 403:
            assert "lacks the scope 'predict'" in answer.text or "is only for other, not for 'm'" in answer.text


def test_a_replica_answers_the_right_key_and_its_health_to_everybody(replica):
    assert replica.ask(replica.keys.right[Scope.PREDICT]).headers["x-model-version"] == "1"
    assert replica("GET", "/info", replica.keys.right[Scope.PREDICT]).json()["model"] == "m"
    assert replica("GET", "/nowhere", replica.keys.right[Scope.PREDICT]).status_code == 404
    assert replica("GET", "/health", None).json() == {"status": "ok", "version": 1}
    for path in ("/health", "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert [replica(method, path, None).status_code for method in ("GET", "HEAD", "OPTIONS")] == [200, 200, 204], path


def test_a_body_is_not_even_read_without_a_key(replica):
    answer = replica("POST", "", None, content=b" " * 3_000_000)
    assert answer.status_code == 401


def test_a_replica_takes_up_new_and_revoked_keys_without_a_restart(replica):
    async def scenario() -> None:
        key, token = replica.registry.keys.create("late", [Scope.PREDICT])

        async def answered(status: int) -> bool:
            return (await asyncio.to_thread(replica.ask, token)).status_code == status

        await until(lambda: answered(200), "the new key is known")
        replica.registry.keys.revoke(key.id)
        await until(lambda: answered(401), "the revoked key is refused")

    asyncio.run(scenario())


def test_predictions_go_on_with_the_last_known_keys_while_the_database_is_away(replica, caplog):
    replica.database.rename(replica.database.with_name("away"))
    replica.database.mkdir()  # SQLite cannot open a directory
    replica.registry.close()  # last: a connection that is open reads the file wherever it is

    async def noticed() -> bool:
        return "the last copy stays in use" in caplog.text

    asyncio.run(until(noticed, "the database is missed"))
    token = replica.keys.right[Scope.PREDICT]
    assert replica.ask(token).status_code == 200
    assert replica.ask(None).status_code == 401
    assert token not in caplog.text
    replica.database.rmdir()
    replica.database.with_name("away").rename(replica.database)


def test_a_key_over_its_rate_is_answered_429_by_the_replica_and_the_clients_wait(replica):
    token = right(replica.registry, Scope.PREDICT, rate=1 / 3600)

    async def known() -> bool:
        return (await asyncio.to_thread(replica, "GET", "/info", token)).status_code == 200

    asyncio.run(until(known, "the key is known"))
    answer = replica.ask(token)
    assert answer.status_code == 429
    assert "is over its rate of 0.000277778 requests per second; retry in " in answer.json()["error"]
    assert 3590 <= int(answer.headers["retry-after"]) <= 3600


def test_the_clients_send_their_key(replica, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it counts our own service among the hub's
    token = replica.keys.right[Scope.PREDICT]
    base = replica.url.removesuffix("/models/m")
    with Client(base, key=f"{token}\n") as client:
        assert client.predict("m", "where is my parcel?").version == 1

    async def ask() -> int:
        async with AsyncClient(base, key=token) as client:
            return (await client.predict("m", "where is my parcel?")).version

    assert asyncio.run(ask()) == 1
    assert {row.label for row in InferenceClient(replica.url, token=token).text_classification("parcel")} == set(LABELS)
    with Client(base) as client, pytest.raises(ServiceError, match="an API key is needed") as refused:
        client.predict("m", "where is my parcel?")
    assert refused.value.status == 401
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(replica.url, token="hf_no").text_classification("parcel")


def test_a_key_that_is_none_is_refused_by_the_client_without_showing_it():
    for odd in ("sec\nret", "sec ret", "señal"):
        with pytest.raises(InvalidInput, match="characters that no key has") as refused:
            Client("http://127.0.0.1:1", key=odd)
        assert odd not in str(refused.value)


def test_replicas_that_are_started_without_a_word_about_keys_ask_for_them():
    settings = configured(Path("/nowhere"), "m").models[0]
    assert ModelArgs(settings=settings, database="sqlite://", storage="/nowhere").keys_required


# --- without keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "refused"), [("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)]
)
def test_where_no_keys_are_asked_for_pages_of_other_origins_may_change_nothing(tmp_path, site, refused):
    control = control_of(configured(tmp_path, "m"))
    application = control.__serve_build_asgi_app__()

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={"sec-fetch-site": site}
        ) as client:
            changing = await client.post("/api/models/m/retrain", json={"paused": True, "reason": "mischief"})
            return [changing.status_code, (await client.get("/api/models/m")).status_code]

    assert asyncio.run(ask()) == [403 if refused else 200, 200]
    assert control.registry.retrain.paused("m") == (None if refused else "mischief")


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        *((name, True) for name in ("evil.example:8000", "localhost.evil.example", "10.0.0.7:8000", "[::2]:8000", "[")),
        *((name, False) for name in ("localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000")),
    ],
)
def test_a_service_on_loopback_without_keys_answers_to_no_other_name(tmp_path, host, refused):
    """A page whose own name points to 127.0.0.1 is of the same origin, for the browser."""
    application = control_of(configured(tmp_path, "m")).__serve_build_asgi_app__()

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"host": host}) as client:
            read = await client.get("/api/models/m")
            changed = await client.post("/api/models/m/retrain", json={"paused": True, "reason": "mischief"})
            return [read.status_code, changed.status_code, (await client.get("/healthz")).status_code]

    assert asyncio.run(ask()) == [*[403 if refused else 200] * 2, 200]


def test_on_other_addresses_names_are_the_owners_affair(tmp_path):
    config = configured(tmp_path, "m")
    open_to_all = {"http": HttpSettings(host="0.0.0.0"), "auth": AuthSettings(required=False)}
    application = control_of(config.model_copy(update=open_to_all)).__serve_build_asgi_app__()

    async def ask() -> int:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://baton.example") as client:
            return (await client.get("/api/models/m")).status_code

    assert asyncio.run(ask()) == 200


def test_a_replica_tells_why_it_is_not_ready_to_whoever_has_a_key(tmp_path):
    control = control_of(configured(tmp_path, "m"))
    settings = control.config.models[0].model_dump(mode="json")
    replica = ModelReplica(settings, control.config.database, control.config.storage, replica_id="r1", keys_required=True)
    token = right(control.registry, Scope.PREDICT)
    replica._keyring.refresh()
    transport = httpx.ASGITransport(app=replica.__serve_build_asgi_app__(), root_path="/models/m")

    async def health(token: str | None) -> tuple[int, str]:
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            answer = await client.get("/models/m/health", headers=headers(token))
            return answer.status_code, answer.json()["error"]

    assert asyncio.run(health(None)) == (503, "not ready; send an API key to see the reason")
    assert asyncio.run(health(token)) == (503, "m has no champion yet; train one: baton train m --wait")


# --- logs ----------------------------------------------------------------------------------------------------------------


def test_no_key_is_logged_at_any_level_by_either_side(replica, tmp_path, caplog):
    api = Api(tmp_path / "api")  # a database of its own
    for name in (None, "ray.serve", "uvicorn", "uvicorn.error", "httpx", "httpcore", "sqlalchemy.engine"):
        caplog.set_level(logging.DEBUG, logger=name)
    tokens = [token for keys in (api.keys, replica.keys) for token in keys.right.values()]
    tokens += [token for keys in (api.keys, replica.keys) for kinds in keys.bad.values() for token in kinds.values() if token]
    for token in set(tokens):
        api("GET", "/api/models", token)
        api("POST", "/api/models/m/feedback", token, content=b"{")
        replica("POST", "", token, content=b"{")
    with Client(replica.url.removesuffix("/models/m"), key=replica.keys.right[Scope.PREDICT]) as client:
        client.predict("m", "where is my parcel?")
    assert len(set(tokens)) > 40
    assert "HTTP Request: POST" in caplog.text  # the log is written
    assert [token for token in tokens if token in caplog.text] == []
