"""API keys in a real service: every endpoint against every bad key, through HAProxy and on the replicas' own ports; then all
its files are searched for every key that was sent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import yaml
from huggingface_hub import InferenceClient, constants

from baton.keys import Scope, new_token
from tests.cluster.conftest import CONTROL, LABELS, REPLICA, TEXT, Service, baton, publish
from tests.support.tiny import save_classifier
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster

MODEL = "guarded"
HEALTH_CHECKS = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
OF_REPLICAS = ("/models/", "/v1/models/", "/v2/models/")
OPEN = {("GET", path) for path in (*HEALTH_CHECKS, f"/models/{MODEL}/health")}
OTHER_SCOPES = {
    "/metrics": Scope.METRICS,
    "/v2": Scope.PREDICT,
    "/v2/repository/index": Scope.PREDICT,
    f"/api/models/{MODEL}/audit": Scope.LABEL,
}
STATUS = {
    "none": 401,
    "malformed": 401,
    "wrong": 401,
    "expired": 401,
    "revoked": 401,
    "wrong scope": 403,
    "another model's": 403,
}


@dataclass(frozen=True)
class Guarded(Service):
    """A service that asks for keys; ``sent`` is every key that anybody has used."""

    sent: list[str] = field(default_factory=list)

    def key(self, *scopes: Scope, expired: bool = False, **options: object) -> str:
        """A new key, by the registry."""
        expires_at = datetime.now(UTC) - timedelta(minutes=1) if expired else None
        _, token = self.registry.keys.create("test", scopes, expires_at=expires_at, **options)
        self.sent.append(token)
        return token

    def unused(self) -> str:
        """A key that a person happens to have in the environment."""
        self.sent.append(new_token()[1])
        return self.sent[-1]

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, headers={"authorization": f"Bearer {self.key(Scope.OPERATE)}"})

    def listening(self, title: str) -> list[tuple[str, int]]:
        """The addresses on which the one process of that title listens."""
        [process] = until(lambda: self.processes(title), 30, f"one process {title}")
        found = [it.laddr for it in process.net_connections("tcp") if it.status == psutil.CONN_LISTEN]
        return sorted((address.ip, address.port) for address in found)

    def port_of(self, title: str) -> int:
        """The port on which a replica answers HTTP itself."""

        def answers(port: int) -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/-/healthz", timeout=5).text == "success"
            except httpx.HTTPError:
                return False

        [port] = [port for _, port in self.listening(title) if answers(port)]
        return port


@pytest.fixture(scope="module")
def guarded(tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The service, up, with a champion."""
    directory = tmp_path_factory.mktemp("guarded")
    file = directory / "baton.yaml"
    model = {
        "name": MODEL,
        "task": "classification",
        "base_model": str(tiny_base),
        "data": {"train": str(data / "small.jsonl"), "holdout": str(data / "holdout.jsonl")},
        "serving": {"poll_seconds": 0.5},
    }
    content = {"http": {"port": free_port()}, "auth": {"required": True}, "models": [model]}
    file.write_text(yaml.safe_dump(content))
    service = Guarded(file)
    try:
        service.baton("keys", "list")  # makes the database
        # Serve keeps the last thousand lines of a replica's log in memory; here they shall be where they can be searched.
        unbuffered = {"RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1"}
        started = service.baton("up", "--detach", BATON_KEY=service.unused(), **unbuffered)
        assert "API keys are required, and there is no valid one" in started.stderr
        until(lambda: service.http.get("/api/models").status_code == 200, 30, "the first key, made while it runs, is known")
        publish(service, MODEL, save_classifier(tiny_base, LABELS, directory / "checkpoint"))
        service.force(MODEL, 1)
        yield service
    finally:
        baton("down", "-c", file)
        service.close()


def operations(service: Guarded) -> list[tuple[str, str]]:
    """Every call that the running service describes, those below the model's own URL, and pages that it does not describe."""
    paths = service.http.get("/openapi.json").raise_for_status().json()["paths"]
    values = {"model": MODEL, "number": "1", "run_id": "nobody", "client_id": "c1"}
    described = [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path))
        for path, methods in paths.items()
        if not path.startswith(OF_REPLICAS)  # the list below has them
        for method in methods
    ]
    pages = ("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/redoc", "/openapi.json", "/nowhere")
    own = [("POST", ""), ("POST", "/predict"), ("GET", "/info"), ("GET", "/health"), ("GET", "/nowhere")]
    own += [("POST", f"/v2/models/{MODEL}/infer"), ("GET", f"/v2/models/{MODEL}"), ("POST", f"/v1/models/{MODEL}:predict")]
    return [*described, *(("GET", page) for page in pages), *((method, f"/models/{MODEL}{path}") for method, path in own)]


def scope_of(method: str, path: str) -> Scope:
    if path.startswith("/models/"):
        return Scope.PREDICT
    feedback = f"/api/models/{MODEL}/feedback"
    if path in (
        feedback,
        f"{feedback}/c1",
    ):  # corrections are sent and withdrawn one by one; more of them is an operator's work
        return Scope.FEEDBACK if (method, path) in (("POST", feedback), ("DELETE", f"{feedback}/c1")) else Scope.OPERATE
    return OTHER_SCOPES.get(path, Scope.OPERATE)


def bad_keys(service: Guarded, scope: Scope) -> dict[str, str | None]:
    revoked = service.key(scope)
    allowing = (scope, Scope.OPERATE) if scope is Scope.LABEL else (scope,)
    service.registry.keys.revoke(revoked.split("_")[1])
    keys = {
        "none": None,
        "malformed": "open-sesame-open-sesame",
        "wrong": new_token()[1],
        "expired": service.key(scope, expired=True),
        "revoked": revoked,
        "wrong scope": service.key(*(other for other in Scope if other not in allowing)),
        "another model's": service.key(scope, models=["somebody-elses"]),
    }
    service.sent.extend(token for token in (keys["malformed"], keys["wrong"]) if token)
    return keys


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def test_every_endpoint_refuses_every_bad_key_through_the_proxy_and_on_the_ports_of_its_own(guarded: Guarded) -> None:
    calls = [call for call in operations(guarded) if call not in OPEN]
    assert len(calls) > 25
    bad = {scope: bad_keys(guarded, scope) for scope in Scope}
    good = {scope: guarded.key(scope) for scope in Scope}
    replica, control = (f"http://127.0.0.1:{guarded.port_of(title)}" for title in (REPLICA.format(MODEL), CONTROL))

    def taken_up(base: str, path: str, scope: Scope) -> bool:
        """The last key that was made is known, and with it all before."""
        return httpx.get(f"{base}{path}", headers=bearer(good[scope])).status_code == 200

    until(lambda: taken_up(guarded.url, f"/models/{MODEL}/info", Scope.PREDICT), 30, "the replica knows the keys")
    until(lambda: taken_up(guarded.url, "/metrics", Scope.METRICS), 30, "the control plane knows the keys")

    wrong = []
    with httpx.Client(timeout=60) as http:
        for (method, path), (kind, status) in itertools.product(calls, STATUS.items()):
            own = replica if path.startswith("/models/") else control
            for base in (guarded.url, own):
                answer = http.request(method, f"{base}{path}", headers=bearer(bad[scope_of(method, path)][kind]))
                if answer.status_code != status:
                    wrong.append((method, f"{base}{path}", kind, answer.status_code))
        assert wrong == []

        for base in (guarded.url, replica):
            answer = http.post(f"{base}/models/{MODEL}", json={"inputs": TEXT}, headers=bearer(good[Scope.PREDICT]))
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
            assert http.get(f"{base}/models/{MODEL}/health").json() == {"status": "ok", "version": 1}
        at_the_root = f"{guarded.url}/v2/models/{MODEL}"
        assert http.get(f"{at_the_root}/ready").json() == {"name": MODEL, "ready": True}
        for kind, status in STATUS.items():
            answer = http.post(f"{at_the_root}/infer", headers=bearer(bad[Scope.PREDICT][kind]))
            assert (answer.status_code, kind) == (status, kind)
        for base, path in itertools.product((guarded.url, control), HEALTH_CHECKS):
            assert http.get(f"{base}{path}").status_code == 200


def test_a_revoked_key_is_refused_by_the_running_service_within_seconds(guarded: Guarded, monkeypatch) -> None:
    made = guarded.baton("keys", "create", "shop", "--scope", "predict", "--model", MODEL, "--json")
    content = yaml.safe_load(made.stdout)
    token = content["token"]
    guarded.sent.append(token)

    def status() -> int:
        return httpx.post(f"{guarded.url}/models/{MODEL}", json={"inputs": TEXT}, headers=bearer(token)).status_code

    until(lambda: status() == 200, 30, "the new key is known")
    assert "billing" in guarded.baton("predict", MODEL, TEXT, "--top-k", "6", BATON_KEY=token).stdout
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # in offline mode the client refuses even a loopback address
    client = InferenceClient(base_url=f"{guarded.url}/models/{MODEL}", token=token)
    assert {choice.label for choice in client.text_classification(TEXT, top_k=6)} == set(LABELS)
    guarded.baton("keys", "revoke", content["id"])
    until(lambda: status() == 401, 30, "the revoked key is refused")
    used = {key.id: key.last_used_at for key in guarded.registry.keys.all()}
    assert used[content["id"]] is not None


def test_what_a_replica_opens_to_all_addresses_asks_for_rays_token(guarded: Guarded) -> None:
    """Serve's own gRPC server unpickles what it is sent, and listens on all addresses whatever `http.host` says."""
    opened = [port for ip, port in guarded.listening(REPLICA.format(MODEL)) if not ip.endswith(("127.0.0.1", "::1"))]
    assert len(opened) == 1
    with grpc.insecure_channel(f"127.0.0.1:{opened[0]}") as channel:
        for method in ("HandleRequest", "HandleRequestWithRejection"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/ray.serve.ASGIService/{method}")(b"", timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_over_its_rate_is_answered_429_through_the_proxy(guarded: Guarded) -> None:
    token = guarded.key(Scope.PREDICT, rate=1 / 3600)

    def ask() -> httpx.Response:
        return httpx.post(f"{guarded.url}/models/{MODEL}", json={"inputs": TEXT}, headers=bearer(token))

    until(lambda: ask().status_code == 200, 30, "the new key is known")
    refused = ask()
    assert (refused.status_code, refused.headers["retry-after"].isdigit()) == (429, True)


def content_of(path: Path) -> bytes:
    """Nothing of a file that is gone by now, as a process or a temporary file may be."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_no_key_that_was_sent_stands_in_any_file_of_the_run(guarded: Guarded) -> None:
    """Logs of Ray, Serve, HAProxy and Baton, configurations, the database: all that was written. Comes after the others."""
    for scope in Scope:  # also when something goes wrong
        headers = {**bearer(guarded.key(scope)), "content-type": "application/json"}
        for path in (f"/models/{MODEL}", f"/api/models/{MODEL}/feedback", "/api/models", "/nowhere"):
            httpx.post(f"{guarded.url}{path}", content=b'{"inputs": ', headers=headers)
    assert len(guarded.sent) > 20
    needles = {part.encode() for token in guarded.sent for part in (token, token.split("_", 2)[-1])}
    files = [
        path
        for root in (Path(guarded.instance.directory), guarded.file.parent)
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    logs = [path for path in files if path.suffix in (".log", ".out", ".err")]
    assert len(logs) > 10
    assert any(b"v1 serves (move 1)" in content_of(path) for path in logs)  # the replica's log is among them
    found = {str(path): len(hits) for path in files if (hits := [it for it in needles if it in content_of(path)])}
    assert found == {}
    processes = [Path("/proc") / str(process.pid) for process in guarded.processes("")]
    assert len(processes) > 5
    told = [content_of(path / name) for path in processes for name in ("cmdline", "environ")]
    assert not [content for content in told if any(needle in content for needle in needles)]
