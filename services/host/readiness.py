"""Waits until a service that was just deployed answers requests. Asks over HTTP, as a client does; needs no Ray.

The service is on this machine: no proxy of the environment is asked (``trust_env``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import httpx

from baton.config.file import BatonConfig
from baton.errors import NotReady
from services.host.instance import url_of
from services.host.serve_driver import Report
from services.names import HEALTH, route

READY_SECONDS = 180.0
"""Maximum time that `baton up` waits for /readyz: slow machines load models for a minute."""


def wait_until_ready(config: BatonConfig, report: Report) -> None:
    """Wait until /readyz answers 200 and the proxy knows every route.

    A champion that cannot be loaded keeps /readyz at 503 permanently. In that case the service keeps running: the other models
    answer, and a rollback needs the control plane.

    Raises:
        NotReady: nothing answers within `READY_SECONDS`.
    """
    url = url_of(config)
    report("waiting until the service answers")
    deadline = time.monotonic() + READY_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
            last = answer.text[:500]
            if answer.status_code == 200 and _routes_known(config, [model.name for model in config.models]):
                return
        time.sleep(0.1)
    if not _answers(url):
        raise NotReady(f"the service did not become ready within {READY_SECONDS:.0f} s: {last}")
    report(
        f"NOT READY after {READY_SECONDS:.0f} s: {last}\n"
        "the service keeps running, so that you can roll back or restore the version"
    )


def wait_until_routed(config: BatonConfig, models: Sequence[str]) -> None:
    """Wait until the proxy knows the route of each of ``models``. Raises ``NotReady`` after `READY_SECONDS`."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if _routes_known(config, models):
                return
        time.sleep(0.1)
    raise NotReady(f"the proxy at {url_of(config)} does not know {', '.join(models)} after {READY_SECONDS:.0f} s")


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200
    return False


def _routes_known(config: BatonConfig, models: Sequence[str]) -> bool:
    """Return whether the proxy sends the requests of each of ``models`` to the model.

    It learns of new applications some hundred milliseconds late. Until then it sends their requests to the control plane, whose
    errors are problem documents. A replica's health check, which is used here, needs no API key.
    """
    for model in models:
        answer = httpx.get(f"{url_of(config)}{route(model)}{HEALTH}", timeout=5, trust_env=False)
        if answer.headers.get("content-type") != "application/json":
            return False
    return True
