"""A run's process once its run has ended in the registry."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from baton.config.model_settings import ModelSettings
from baton.store.records import RunState
from baton.store.registry import Registry
from tests.support.waiting import until

PROGRAM = """
import signal, sys, time
from training import __main__ as driver
from baton.store.registry import Registry

driver.HEARTBEAT_SECONDS, driver.GRACE_SECONDS = 0.05, 0.2
if sys.argv[3] == "ignores":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with driver._record_end(Registry(sys.argv[1]), sys.argv[2], conceal_data_errors=False):
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("what", "status"), [("obeys", -signal.SIGINT), ("ignores", -signal.SIGKILL)])
def test_a_process_whose_run_was_cancelled_ends_even_if_its_libraries_ignore_the_signal(
    tmp_path: Path, what: str, status: int
) -> None:
    database = f"sqlite:///{tmp_path}/baton.db"
    registry = Registry(database)
    registry.migrate()
    settings = ModelSettings.model_validate(
        {"name": "m", "task": "classification", "base_model": "none", "data": {"train": "nowhere.jsonl"}}
    )
    registry.declare_model("m", settings.model_dump(mode="json"))
    run = registry.runs.create("m", settings.model_dump(mode="json"), started=True)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, database, run.id, what], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        registry.runs.finish(run.id, RunState.CANCELLED, reason="cancelled")
        until(lambda: process.poll() is not None, 60, "the process has ended")
    assert process.returncode == status
    registry.close()
