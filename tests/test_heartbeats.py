"""A run's process once its run has ended in the registry."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from baton.store.records import RunState
from baton.store.registry import Registry
from tests.support.waiting import until

PROGRAM = """
import signal, sys, time
from training import __main__ as driver
from baton.store.registry import Registry

driver.HEARTBEAT_SECONDS, driver.GRACE_SECONDS = 0.05, float(sys.argv[4])
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[3] == "ignores" else signal.default_int_handler)
with driver._record_end(Registry(sys.argv[1]), sys.argv[2], conceal_data_errors=False):
    print("at work", flush=True)
    time.sleep(float(sys.argv[5]))
"""


@pytest.mark.parametrize(
    ("end", "signals", "grace", "work", "status"),
    [
        (RunState.CANCELLED, "obeys", 600, 600, -signal.SIGINT),
        (RunState.CANCELLED, "ignores", 0.2, 600, -signal.SIGKILL),
        (RunState.SUCCEEDED, "obeys", 0.0, 1, 0),  # twenty heartbeats, while it cleans up
    ],
)
def test_a_process_ends_with_its_run_even_if_its_libraries_ignore_the_signal_but_may_clean_up_after_a_success(
    tmp_path: Path, end: RunState, signals: str, grace: float, work: float, status: int
) -> None:
    database = f"sqlite:///{tmp_path}/baton.db"
    registry = Registry(database)
    registry.migrate()
    registry.declare_model("m")
    run = registry.runs.create("m", {}, started=True)
    command = [sys.executable, "-c", PROGRAM, database, run.id, signals, str(grace), str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at work\n"
            registry.runs.finish(run.id, end, reason="a test wants it")
            until(lambda: process.poll() is not None, 60, "the process has ended")
        finally:
            process.kill()
    assert process.returncode == status
    registry.close()
