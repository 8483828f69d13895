"""Proxies in the environment: never asked for loopback, asked for other hosts, and told where a package for them is missing."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from baton.client import AsyncClient, Client, on_loopback
from baton.config.base_models import find_base_model
from baton.errors import BaseModelNotFound, NotReady
from services.client import Client as ControlClient
from services.environment import loopback_environment
from services.host import readiness

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Counting(ThreadingHTTPServer):
    """Answers every GET with an empty object; ``asked`` has the paths, which are whole URLs if it is asked as a proxy."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Counting

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counting, Counting]]:
    """A service, and a proxy that the environment names for everything."""
    service, proxy = Counting(), Counting()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name if name != "HTTP_PROXY" else "http_proxy", proxy.url)
    for server in (service, proxy):
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield service, proxy
    for server in (service, proxy):
        server.shutdown()
        server.server_close()


def test_no_proxy_is_asked_for_loopback(servers):
    service, proxy = servers
    for url in (service.url, service.url.replace("127.0.0.1", "localhost")):
        with ControlClient(url) as client:
            client.get("/api/models")
    assert readiness._answers(service.url)
    assert (service.asked, proxy.asked) == (["/api/models", "/api/models", "/healthz"], [])


def test_the_proxy_is_asked_for_another_host(servers):
    service, proxy = servers
    with ControlClient("http://baton.example:8000") as client:
        client.get("/api/models")
    assert (service.asked, proxy.asked) == ([], ["http://baton.example:8000/api/models"])


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is installed")
@pytest.mark.parametrize("client_cls", [Client, AsyncClient, ControlClient])
def test_a_socks_proxy_without_its_package_is_told_and_does_not_matter_for_loopback(servers, monkeypatch, client_cls):
    service, _ = servers
    monkeypatch.delenv("http_proxy")
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(
        NotReady, match=r"calls to http://baton.example go through the SOCKS proxy .*pip install 'httpx\[socks\]'"
    ):
        client_cls("http://baton.example")
    client_cls(service.url)
    with ControlClient(service.url) as client:
        client.get("/api/models")
    assert service.asked == ["/api/models"]


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is installed")
def test_a_base_model_behind_a_socks_proxy_without_its_package_is_told_in_a_sentence(servers, monkeypatch):
    from huggingface_hub import close_session, constants

    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()  # a client that was opened before knows no proxy
    with pytest.raises(BaseModelNotFound, match="is neither a directory nor in the local cache of the hub"):
        find_base_model("someone/nothing")
    close_session()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.3.2.1", True),
        ("http://[::1]:8000", True),
        ("https://localhost", True),
        ("http://baton.localhost:1", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("nonsense", False),
    ],
)
def test_loopback_is_known_by_its_addresses_and_names(url, expected):
    assert on_loopback(url) is expected


def test_rays_processes_call_each_other_directly_whatever_else_is_excepted():
    assert loopback_environment({})["NO_PROXY"] == "localhost,127.0.0.1,::1"
    both = loopback_environment({"no_proxy": "10.0.0.0/8, localhost", "NO_PROXY": "other"})
    for everything in ("*", " * ", "*,example.org"):
        assert loopback_environment({"NO_PROXY": everything}) == {"NO_PROXY": "*", "no_proxy": "*"}
    assert both == {"NO_PROXY": "10.0.0.0/8,localhost,127.0.0.1,::1", "no_proxy": "10.0.0.0/8,localhost,127.0.0.1,::1"}
