"""`baton up`: start the service, keep it running until a signal arrives, stop it without leftovers.

Knows the order of the steps; the modules beside it do them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.artifacts.storage import Storage
from baton.backup import restoring
from baton.backup.record import place_of
from baton.config.file import BatonConfig
from baton.errors import BatonError, ConfigError, Conflict, NotReady
from baton.store.records import RunState
from baton.store.registry import Registry
from services.control.bootstrap import declare
from services.control.ownership import this_cluster
from services.environment import STORE_VARIABLES, loopback_environment, store_environment
from services.host import cluster, ports, processes
from services.host.checks import startup_warnings
from services.host.instance import Instance, StateDirectory, alive, url_of
from services.host.readiness import wait_until_ready
from services.host.scraping import FILE, KEY_FILE, scrape_config
from services.host.serve_driver import Report, deploy, join, leave, remove_undeclared
from services.host.starts import Starts

CHECK_SECONDS = 2.0
"""Pause between two checks of Ray's head."""

SLOW_SECONDS = 3.0
"""Time after which people are told why the start takes long: a migration of a large database needs minutes."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop the service. SIGHUP, the end of the terminal, does so unless it is ignored, as under `nohup`."""


class Stopped(Exception):
    """One of `SIGNALS` arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_local(config: BatonConfig, state: StateDirectory, report: Report, ready: Callable[[], None]) -> None:
    """Start Ray and the service on this machine, call ``ready``, wait for one of `SIGNALS`, then stop everything.

    A signal that arrives before the service is ready ends the process after that, with status 128 and the signal's number.

    Changes the environment, the working directory and the signal handlers of this process, and does not restore them: the
    process must exist for nothing else.

    Raises:
        Conflict: the service runs already, or its port is taken.
        NotReady: the service did not start, or Ray died later.
    """
    clear_leftovers(state, report)
    with state.claimed():
        clear_leftovers(state, report)  # again: the process that held the lock until now may have left something
        _run_local(config, state, report, ready)


def _run_local(config: BatonConfig, state: StateDirectory, report: Report, ready: Callable[[], None]) -> None:
    ports.require_free(config.http.host, config.http.port)
    registry = prepare_stores(config, report)
    instance = cluster.plan(url_of(config), reserved=config.http.port)
    instance = replace(instance, logs=str(_begin_logs(state, instance)))
    for message in startup_warnings.messages(config, registry, instance.ports):
        report(message)
    # Ray's servers and workers inherit this process's environment, and Ray Serve reads its variables when it is imported.
    os.environ.update({**cluster.environment(instance), **loopback_environment(os.environ), **store_environment(config)})
    state.write(instance)
    report(f"writing logs to {instance.logs}")
    _write_scrape_config(config, state, instance, report)
    # Ray's workers import from their driver's working directory: they must not find a user's own services/ or training/ there.
    os.chdir(state.directory)
    owner: str | None = None
    is_ready = False
    try:
        _raise_on_signals()
        report("starting Ray")
        instance = replace(instance, address=cluster.start(instance, Path(instance.logs) / "ray.log"))
        state.write(instance)
        try:
            join(config, instance.address)
            owner = this_cluster()
            _raise_on_signals()
            deploy(config, report, {})
        finally:
            leave()
        _raise_on_signals()
        wait_until_ready(config, report)
        is_ready = True
        ready()
        _watch_head(instance)
    except (Stopped, SystemError) as error:
        signalled = stopped_by(error)
        if signalled is None:
            raise
        report("stopping")
        if not is_ready:
            raise SystemExit(128 + signalled) from None
    finally:
        _ignore_signals()
        cancelled = [] if owner is None else cancel_runs(registry, owner)
        processes.stop_all(instance)
        if owner is not None:
            with contextlib.suppress(BatonError):
                registry.leases.release(owner)  # not before: a control plane that lives would take them again
        with contextlib.suppress(BatonError):
            for run_id in cancelled:  # the runs' own processes were killed before they could do this
                Storage(config.storage).remove_run(run_id)
        state.clear()


def run_on_cluster(config: BatonConfig, address: str, report: Report) -> None:
    """Deploy to a cluster that someone else runs, and return. The applications stay there until `serve_driver.withdraw`.

    Repeated with another configuration, it changes what differs. Models that are not declared any more are removed.
    """
    config = startup_warnings.with_keys_by_default(config)
    registry = prepare_stores(config, report)
    for message in startup_warnings.messages(config, registry, {}):
        report(message)
    join(config, address)
    # As arguments, because the environment of this cluster's nodes is not known here.
    deploy(config, report, {key: getattr(config, key) for key in STORE_VARIABLES})
    remove_undeclared(config)
    leave()
    wait_until_ready(config, report)


def prepare_stores(config: BatonConfig, report: Report) -> Registry:
    """Check that the storage can be written to, migrate the database and declare the models. Return the registry.

    This finds errors in the configuration before anything starts. First, a `baton restore` that was killed in its last step is
    finished.

    Raises:
        BackupError, Conflict: that step cannot be finished.
        RegistryError, StorageError: the database or the storage cannot be used.
    """
    _finish_restoring(config, report)
    Storage(config.storage).check_writable()
    registry = Registry(config.database)
    with _told_if_slow(report):
        declare(registry, config)
    return registry


@contextlib.contextmanager
def _told_if_slow(report: Report) -> Iterator[None]:
    """Report that the database takes long, if the block does, and how long it took."""
    told, began = threading.Event(), time.monotonic()

    def tell() -> None:
        report("waiting for the database, which is migrated if an older Baton wrote it")
        told.set()

    timer = threading.Timer(SLOW_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if told.is_set():
        report(f"the database is ready after {time.monotonic() - began:.0f} s")


def _finish_restoring(config: BatonConfig, report: Report) -> None:
    try:
        place = place_of(config.database, config.storage)
    except ConfigError:  # a server, or an object store: Baton restores none
        return
    aside = restoring.finish(place)
    if aside is not None:
        kept = f"; what was there before is in {' and '.join(map(str, aside))}" if aside else ""
        report(f"{startup_warnings.NOTE}`baton restore` was killed in its last step, which is done now{kept}")


def clear_leftovers(state: StateDirectory, report: Report) -> None:
    """Stop what an instance that crashed left running. Raise ``Conflict`` if the recorded instance is alive."""
    old = state.read()
    if old is None:
        return
    if alive(old):
        raise Conflict(f"already running at {old.url} (pid {old.pid}); `baton down` stops it")
    count = processes.stop_all(old)
    state.clear()
    report(f"stopped {count} leftover process(es) of an instance that crashed")


def stopped_by(error: BaseException | None) -> int | None:
    """Return the signal that caused ``error``, or None: Ray's compiled code turns what a handler raises into a SystemError."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return None if error is None else error.number


def _watch_head(instance: Instance) -> None:
    """Run until a signal raises `Stopped`. Raise ``NotReady`` if Ray's head dies."""
    while True:
        time.sleep(CHECK_SECONDS)
        if not processes.head_runs(instance):
            raise NotReady(f"Ray died; its logs are kept in {instance.logs}. Start the service again with `baton up`")


def _begin_logs(state: StateDirectory, instance: Instance) -> Path:
    """Return a new directory for the logs of this start. The output of `baton up --detach` has a second name there."""
    directory = Starts(state.logs).begin(cluster.session_logs_of(Path(instance.directory))).directory
    with contextlib.suppress(OSError):  # there is no such output, or the file system knows no second names
        if os.path.samestat(os.fstat(1), state.up_log.stat()):
            (directory / state.up_log.name).hardlink_to(state.up_log)
    return directory


def _write_scrape_config(config: BatonConfig, state: StateDirectory, instance: Instance, report: Report) -> None:
    prometheus = state.directory / FILE
    key = state.directory.resolve() / KEY_FILE if config.keys_required else None
    report(f"writing a scrape configuration for Prometheus to {prometheus}")
    prometheus.write_text(scrape_config(instance.url, instance.ports, key), encoding="utf-8")


def cancel_runs(registry: Registry, owner: str) -> list[str]:
    """Record that the active runs of the cluster ``owner`` end with it. Return the runs' ids.

    Runs of other clusters on the same database go on, and so do runs by hand.
    """
    cancelled = []
    with contextlib.suppress(BatonError):
        for run in registry.runs.list(active=True, limit=None):
            if run.owner == owner:
                with contextlib.suppress(Conflict):  # it ended by itself in the meantime
                    registry.runs.finish(run.id, RunState.CANCELLED, reason="the service was stopped")
                    cancelled.append(run.id)
    return cancelled


def _raise_on_signals() -> None:
    """Make `SIGNALS` raise `Stopped`.

    Call it again after joining and after leaving a cluster: Ray then replaces these handlers by its own, which end the process.
    """

    def stop(number: int, _frame: Any) -> None:
        raise Stopped(number)

    for number in SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _ignore_signals() -> None:
    """Ignore `SIGNALS`, so that a second Ctrl-C does not interrupt the clean-up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
