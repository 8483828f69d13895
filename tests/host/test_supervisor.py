"""How `baton up` handles a signal that arrives while Ray's compiled code runs, and Serve's own errors."""

from __future__ import annotations

import json
import logging
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import psutil
import pytest
import ray
from ray import serve

from baton.config.file import BatonConfig
from baton.errors import NotReady
from baton.store.records import RunState
from services.host import supervisor
from services.host.instance import Instance, StateDirectory, alive, start_of
from services.host.serve_driver import deploy, join
from services.host.supervisor import SIGNALS, Stopped, _raise_on_signals, cancel_runs, stopped_by
from tests.support.waiting import free_port

CONFIG = BatonConfig.model_validate({"models": [{"name": "m", "task": "classification", "data": {"train": "t.jsonl"}}]})


def wrapped(inner: BaseException) -> SystemError:
    try:
        raise SystemError("returned a result with an exception set") from inner
    except SystemError as error:
        return error


def test_a_start_that_waits_for_its_database_says_so_and_how_long_it_took(tmp_path, monkeypatch):
    file = tmp_path / "baton.db"
    config = CONFIG.model_copy(update={"database": f"sqlite:///{file}", "storage": str(tmp_path / "storage")})
    said: list[str] = []
    supervisor.prepare_stores(config, said.append).close()
    assert said == []

    monkeypatch.setattr(supervisor, "SLOW_SECONDS", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")  # as another process that migrates

        def report(text: str) -> None:
            said.append(text)
            if other.in_transaction:
                other.execute("COMMIT")

        supervisor.prepare_stores(config, report).close()
    assert said[0] == "waiting for the database, which is migrated if an older Baton wrote it"
    assert re.fullmatch(r"the database is ready after \d+ s", said[1])


def test_a_signal_is_recognised_however_often_it_was_wrapped():
    for error in (Stopped(signal.SIGINT), wrapped(Stopped(signal.SIGINT)), wrapped(wrapped(Stopped(signal.SIGINT)))):
        assert stopped_by(error) == signal.SIGINT


def test_the_end_of_the_terminal_stops_the_service_unless_nohup_wants_it_ignored():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _raise_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        _raise_on_signals()
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_service_is_alive_also_after_the_clock_of_its_machine_was_set(monkeypatch):
    """A clock that jumped made `baton down` kill Ray under a supervisor that lived."""
    me = psutil.Process()
    record = Instance(id="0", pid=me.pid, started_after_boot=start_of(me), url="", ports={}, address="", directory="")
    assert alive(record)
    boot, create_time = psutil.boot_time(), me.create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: create_time + 3600)
    assert alive(record)
    assert not alive(replace(record, started_after_boot=record.started_after_boot - 2))


def test_a_service_that_was_started_by_earlier_code_is_alive(tmp_path):
    """Its record has the wall clock's time: after an upgrade `baton down` and `status` took the service for dead."""
    me, state = psutil.Process(), StateDirectory(tmp_path)
    old = {"id": "0", "pid": me.pid, "started": me.create_time(), "url": "", "ports": {}, "address": "", "directory": ""}
    for started, expected in ((me.create_time(), True), (me.create_time() - 2, False)):
        (tmp_path / "instance.json").write_text(json.dumps({**old, "started": started}))
        record = state.read()
        assert record is not None
        assert alive(record) is expected
        state.write(record)
        assert state.read() == record


def test_an_error_of_another_kind_is_no_signal():
    assert stopped_by(SystemError("something else")) is None
    assert stopped_by(wrapped(ValueError("no"))) is None


def test_a_service_that_is_interrupted_before_it_is_ready_ends_with_the_signals_status_and_leaves_no_record(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from baton.config.file import load_config
from services.host import supervisor
from services.host.instance import Instance, StateDirectory, alive, start_of

supervisor.cluster.start = lambda *_: os.kill(os.getpid(), signal.SIGINT)
supervisor.run_local(load_config(Path(sys.argv[1]), {}), StateDirectory(Path(sys.argv[2])), print, ready=lambda: None)
"""
    (tmp_path / "baton.yaml").write_text(json.dumps(CONFIG.model_dump(mode="json") | {"http": {"port": free_port()}}))
    command = [sys.executable, "-c", script, tmp_path / "baton.yaml", tmp_path / "state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (130, "stopping"), done.stderr
    assert StateDirectory(tmp_path / "state").read() is None


def test_a_service_that_stops_ends_its_own_runs_and_none_of_another_machine(registry):
    """A failed `baton up` cancelled the runs of another machine on the same database (review H13)."""
    for model in ("theirs", "by hand"):
        registry.declare_model(model)
    own, theirs = (registry.runs.create(model, {}, owner=owner).id for model, owner in (("m", "here"), ("theirs", "there")))
    by_hand = registry.runs.create("by hand", {}, started=True).id
    assert cancel_runs(registry, "here") == [own]
    assert [registry.runs.get(run).state for run in (own, theirs, by_hand)] == [
        RunState.CANCELLED,
        RunState.QUEUED,
        RunState.RUNNING,
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("traceback\n  of Ray\n[ALERT] no\n\n"), "[ALERT] no\n\ntraceback\n  of Ray\n[ALERT] no\n\n"),
        (RuntimeError("no proxy after 60s."), "no proxy after 60s."),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_kept_serve_from_starting_comes_before_the_traceback(monkeypatch, caplog, error, expected):
    def start(**_: object) -> None:
        raise error

    caplog.set_level(logging.WARNING, logger="ray.serve")  # as `join` does, and back again
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(serve, "start", start)
    with pytest.raises(NotReady) as refused:
        join(CONFIG, "127.0.0.1:1")
    assert str(refused.value) == f"Ray Serve did not start: {expected}"


def test_a_proxy_that_loads_for_longer_than_serve_waits_does_not_end_the_start(monkeypatch, caplog):
    starts: list[object] = []

    def start(**_: object) -> None:
        starts.append(None)
        if len(starts) == 1:
            raise TimeoutError("HTTP proxies not available after 60s.")

    def run_many(_: object, **__: object) -> None:
        raise TimeoutError("Proxies not available after 60s.")

    caplog.set_level(logging.WARNING, logger="ray.serve")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr("ray.serve.api.run_many", run_many)
    join(CONFIG, "127.0.0.1:1")
    deploy(CONFIG, lambda _: None, {"database": "sqlite:///baton.db", "storage": "storage"})
    assert len(starts) == 2
