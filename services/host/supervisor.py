"""`baton up`: from a configuration to a service that answers, kept until a signal, and taken down without leftovers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.errors import BatonError, Conflict, NotReady
from baton.store.records import RunState
from baton.store.registry import Registry
from services.control.bootstrap import declare
from services.environment import STORES, stores
from services.host import cluster, startup_warnings
from services.host.render import applications
from services.host.scraping import FILE, KEY_FILE, scrape_config
from services.names import HEALTH, route

READY_SECONDS = 180.0
CHECK_SECONDS = 2.0

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What stops the service. SIGHUP, the end of the terminal, does so unless it is ignored, as `nohup` wants it."""

Say = Callable[[str], None]


class Stopped(Exception):
    """One of `SIGNALS` arrived."""


def url_of(config: BatonConfig) -> str:
    """Where a client on this machine reaches the service."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host
    return f"http://{host}:{config.http.port}"


def check(config: BatonConfig) -> Registry:
    """Everything that can be known to be wrong before anything starts. Returns the migrated registry.

    Raises:
        RegistryError, StorageError: the database or the storage cannot be used.
    """
    Storage(config.storage).check_writable()
    registry = Registry(config.database)
    declare(registry, config)
    return registry


def run_local(config: BatonConfig, state: cluster.State, say: Say, ready: Callable[[], None]) -> None:
    """Start Ray and the service on this machine, call ``ready``, stay until one of `SIGNALS`, then stop everything.

    Raises:
        Conflict: it is running already, or the port is taken.
        NotReady: it did not come up, or died later.
    """
    clear_leftovers(state, say)
    with state.claimed():
        clear_leftovers(state, say)  # again: whoever had the claim may have left something since
        _run_local(config, state, say, ready)


def _run_local(config: BatonConfig, state: cluster.State, say: Say, ready: Callable[[], None]) -> None:
    cluster.require_free(config.http.host, config.http.port)
    registry = check(config)
    instance = cluster.plan(url_of(config), reserved=config.http.port)
    for remark in startup_warnings.remarks(config, registry, instance.ports):
        say(remark)
    os.environ.update({**cluster.environment(instance), **stores(config)})
    state.write(instance)
    state.logs.mkdir(parents=True, exist_ok=True)
    prometheus = state.directory / FILE
    key = state.directory.resolve() / KEY_FILE if config.keys_required else None
    say(f"writing a scrape configuration for Prometheus to {prometheus}")
    prometheus.write_text(scrape_config(instance.url, instance.ports, key), encoding="utf-8")
    os.chdir(state.directory)  # Ray's workers import from where their driver stands: not from the user's services/ or training/
    try:
        _raise_on_signals()
        say("starting Ray")
        instance = replace(instance, address=cluster.start(instance, state.logs / "ray.log"))
        state.write(instance)
        try:
            join(config, instance.address)
            _raise_on_signals()
            deploy(config, say, {})
        finally:
            leave()
        _raise_on_signals()
        _wait_until_ready(config, say)
        ready()
        _stay(instance)
    except (Stopped, SystemError) as error:
        if not was_stopped(error):
            raise
        say("stopping")
    finally:
        _ignore_signals()
        ended = _end_runs(registry, config)
        cluster.sweep(instance)
        with contextlib.suppress(BatonError):
            for run_id in ended:  # their drivers had no time for it
                Storage(config.storage).remove_run(run_id)
        state.clear()


def was_stopped(error: BaseException | None) -> bool:
    """Whether a signal is behind ``error``: Ray's compiled parts turn the exception of a handler into a SystemError."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error is not None


def clear_leftovers(state: cluster.State, say: Say) -> None:
    """Remove what a crashed instance left behind. Raises ``Conflict`` when one is alive."""
    old = state.read()
    if old is None:
        return
    if cluster.alive(old):
        raise Conflict(f"already running at {old.url} (pid {old.pid}); `baton down` stops it")
    count = cluster.sweep(old)
    state.clear()
    say(f"cleared {count} leftover process(es) of an instance that crashed")


def join(config: BatonConfig, address: str) -> None:
    """Make this process a driver of the cluster at ``address``, with Serve listening where ``config`` says."""
    import ray
    from ray import serve

    from services.app import serve_logging

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace="serve")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotReady(f"no Ray cluster answers at {address!r}: {_lines(error)[0]}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            http_options={"host": config.http.host, "port": config.http.port}, logging_config=serve_logging(config.logging)
        )
    except (ray.exceptions.RayError, TimeoutError, RuntimeError) as error:
        lines = _lines(error)
        details = f"\n\n{error}" if len(lines) > 1 else ""  # the reason stands last, often below a traceback
        raise NotReady(f"Ray Serve did not start: {lines[-1]}{details}") from error
    if config.logging.format == "json":
        logs.reformat("ray", "ray.serve")


def _lines(error: Exception) -> list[str]:
    """What an error says, line by line; what it is, where it says nothing."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def leave() -> None:
    """Stop being a driver: Serve keeps the applications, and a driver whose cluster is stopped hangs for a minute."""
    import ray

    ray.shutdown()


def deploy(config: BatonConfig, say: Say, told: Mapping[str, str]) -> None:
    """Run all applications of ``config`` on the cluster that this process has joined. ``told``: which of the `STORES` they are
    told, where their nodes' environment does not tell them.
    """
    from ray.serve.api import RunTarget, run_many

    from services import app

    say(f"starting {len(config.models)} model(s): {', '.join(settings.name for settings in config.models)}")
    targets = [
        RunTarget(app.build(found.import_path, {**found.args, **told}), name=found.name, route_prefix=found.route)
        for found in applications(config)
    ]
    try:
        run_many(targets)
    except RuntimeError as error:
        raise NotReady(f"Ray Serve could not start the applications: {_why(error)}") from error


def _why(error: RuntimeError) -> str:
    """What the deployments say of themselves; Serve's own error only says that something failed."""
    from ray import serve

    messages = [
        deployment.message
        for found in serve.status().applications.values()
        for deployment in found.deployments.values()
        if deployment.message
    ]
    return "\n".join(messages) or str(error)


def withdraw(config: BatonConfig) -> None:
    """Remove the applications of ``config`` from the cluster that this process has joined."""
    from ray import serve

    names = [found.name for found in applications(config)]
    for name in names:
        serve.delete(name, _blocking=False)
    for name in names:  # each drains for half a minute: all at once, not one after the other
        serve.delete(name, _blocking=True)


def run_on_cluster(config: BatonConfig, address: str, say: Say) -> None:
    """Deploy to a cluster that somebody else runs, and return; the applications stay there until `withdraw`."""
    config = startup_warnings.closed(config)
    registry = check(config)
    for remark in startup_warnings.remarks(config, registry, {}):
        say(remark)
    join(config, address)
    deploy(config, say, {key: getattr(config, key) for key in STORES})  # nobody knows what its nodes' environment holds
    leave()
    _wait_until_ready(config, say)


def _wait_until_ready(config: BatonConfig, say: Say) -> None:
    """Until /readyz answers 200, and the proxy knows every route.

    A champion that cannot be loaded keeps /readyz at 503 for good. The service then stays up: the other models answer, and
    only a running control plane can roll back.

    Raises:
        NotReady: nothing answers.
    """
    url = url_of(config)
    say("waiting until it answers")
    deadline = time.monotonic() + READY_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/readyz", timeout=5)
            last = answer.text[:500]
            if answer.status_code == 200 and _routes_known(config):
                return
        time.sleep(0.1)
    if not _lives(url):
        raise NotReady(f"the service did not become ready within {READY_SECONDS:.0f} s: {last}")
    say(f"NOT READY after {READY_SECONDS:.0f} s: {last}\nit stays up, so that you can roll back or restore the version")


def _lives(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    return False


def _routes_known(config: BatonConfig) -> bool:
    """The proxy learns of new applications some hundred milliseconds late, and until then sends them to the control plane,
    whose errors are problem documents. A replica's health needs no API key.
    """
    for model in config.models:
        answer = httpx.get(f"{url_of(config)}{route(model.name)}{HEALTH}", timeout=5)
        if answer.headers.get("content-type") != "application/json":
            return False
    return True


def _stay(instance: cluster.Instance) -> None:
    """Return by `Stopped` only, or raise ``NotReady`` when Ray's head died."""
    while True:
        time.sleep(CHECK_SECONDS)
        if not cluster.head_lives(instance):
            raise NotReady("Ray died; its logs are gone with it, `baton up` starts afresh")


def _end_runs(registry: Registry, config: BatonConfig) -> list[str]:
    """Runs of this service's models do not survive their cluster: say so in their records. Returns their ids."""
    ended = []
    with contextlib.suppress(BatonError):
        for model in config.models:
            for run in registry.runs.list(model.name, active=True, limit=10_000):
                registry.runs.finish(run.id, RunState.CANCELLED, reason="the service was stopped")
                ended.append(run.id)
    return ended


def _raise_on_signals() -> None:
    """`SIGNALS` raise `Stopped`. Both joining and leaving a cluster replace these handlers: Ray then just dies."""

    def stop(_signal: int, _frame: Any) -> None:
        raise Stopped

    for number in SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _ignore_signals() -> None:
    """A second Ctrl-C must not interrupt the cleaning up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
