"""Checks the port, the running service or what an earlier one left, and proxies in the environment."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import httpx

from baton.config.file import BatonConfig
from baton.errors import BatonError
from services.environment import LOOPBACK
from services.host import ports, processes
from services.host.checks.finding import Finding, ok, problem, warning
from services.host.instance import StateDirectory, alive, url_of

ANSWER_SECONDS = 3.0
"""Maximum time for the running service to say that it is ready."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def service(config: BatonConfig, state: StateDirectory) -> Iterator[Finding]:
    """Look at the service that runs, or at what one left that crashed, and at its port."""
    yield from running(state)
    instance = state.read()
    if instance is not None and alive(instance):
        return
    try:
        ports.require_free(config.http.host, config.http.port)
        yield ok(f"nothing runs, and port {config.http.port} is free")
    except BatonError as error:
        what, _, advice = str(error).partition("; ")
        yield problem(what, advice or f"choose another address: http.host, http.port; {url_of(config)} is declared")


def running(state: StateDirectory) -> Iterator[Finding]:
    """Look at the service that runs, or at what one left that crashed. Finds nothing if neither is there."""
    instance = state.read()
    if instance is not None and alive(instance):
        try:
            answer = httpx.get(f"{instance.url}/readyz", timeout=ANSWER_SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            advice = "it starts, or hangs: `baton logs`, `baton logs up`"
            yield warning(f"the service at {instance.url} (pid {instance.pid}) does not answer: {error}", advice)
        else:
            if answer.status_code == 200:
                yield ok(f"the service runs at {instance.url} (pid {instance.pid}) and is ready")
            else:
                why = answer.text[:300]
                yield warning(f"the service at {instance.url} is not ready: {why}", "`baton status`, `baton logs`")
        return
    if instance is not None:
        left = sum(1 for _ in processes.find(instance.id))
        yield warning(
            f"a service that ran at {instance.url} crashed; {left} of its processes still run", "`baton down` or `up` clears up"
        )


def proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at proxies in the environment, which Baton itself never asks for loopback."""
    found = {name: value for name in PROXIES if (value := environ.get(name.lower()) or environ.get(name))}
    if not found:
        yield ok("no proxy in the environment")
        return
    named = ", ".join(f"{name}={_without_password(value)}" for name, value in found.items())
    excepted = [name.strip() for name in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")]
    missing = [name for name in LOOPBACK[:2] if name not in excepted and "*" not in excepted]
    if missing:
        yield warning(
            f"{named}, and NO_PROXY does not name {' and '.join(missing)}: other clients (curl, SDKs) send calls to a service "
            "on this machine to the proxy",
            f"NO_PROXY={','.join([*filter(None, excepted), *missing])}. Baton's own commands do not ask it for loopback",
        )
    else:
        yield ok(f"{named}, but not for loopback (NO_PROXY)")
    if any(value.startswith("socks") for value in found.values()) and importlib.util.find_spec("socksio") is None:
        text = "a SOCKS proxy is set, and the package socksio is missing: base models cannot be downloaded"
        yield warning(text, "`pip install 'httpx[socks]'`")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@")
