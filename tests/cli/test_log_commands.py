"""`baton logs`: with and without a service, until Ctrl-C, and what it says of names and starts that there are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.host.starts import Start, Starts, keep
from tests.support.waiting import until

RUN = "m-20261201-001743-c43407"
COMMAND = [sys.executable, "-m", "services.cli", "logs"]


@pytest.fixture
def started(tmp_path: Path) -> Start:
    """A start of a service whose control plane, model and run have written a line each."""
    session = tmp_path / "session"
    (session / "serve").mkdir(parents=True)
    for number, name in enumerate(("serve/replica_control_Control_a", "serve/replica_model-m_Model_b", f"job-driver-{RUN}")):
        (session / f"{name}.log").write_text(f"INFO 2026-12-01 00:00:0{number},000 x y -- line {number}\n")
    return Starts(tmp_path / ".baton" / "logs").begin(session)


def logs(directory: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BATON_", "RAY_"))} | extra
    command = [*COMMAND, *arguments, "-c", str(directory / "baton.yaml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_all_or_one_are_shown_also_when_the_service_has_stopped(tmp_path, started):
    done = logs(tmp_path)
    assert [line.split("  ")[1:] for line in done.stdout.splitlines()] == [
        ["control", "INFO line 0"],
        ["m/b", "INFO line 1"],
        [RUN, "INFO line 2"],
    ]
    assert f"start 1, {started.began.astimezone():%Y-%m-%d %H:%M:%S}, not stopped: {started.directory}" in done.stderr
    keep(started.directory)
    (tmp_path / "session").rename(tmp_path / "gone")
    last = logs(tmp_path, "--lines", "1")
    assert last.stdout == done.stdout.splitlines(keepends=True)[-1]
    assert ", stopped: " in last.stderr
    told = json.loads(logs(tmp_path, RUN, "--json").stdout)
    assert told == {"time": "2026-12-01 00:00:02.000", "source": RUN, "text": "INFO line 2"}


def test_a_run_of_an_earlier_start_is_found_unless_another_start_is_asked_for(tmp_path, started):
    keep(started.directory)
    Starts(tmp_path / ".baton" / "logs").begin(tmp_path / "nowhere")
    done = logs(tmp_path, RUN)
    assert (done.stdout, "start 1, " in done.stderr) == (f"2026-12-01 00:00:02.000  {RUN}  INFO line 2\n", True)
    refused = logs(tmp_path, RUN, "--start", "2")
    assert (refused.returncode, f"no logs of '{RUN}' in start 2; there are: control, up, ray" in refused.stderr) == (1, True)


def test_a_name_or_a_start_that_there_is_not_is_answered_with_those_that_there_are(tmp_path, started):
    unknown = logs(tmp_path, "intent")
    assert unknown.returncode == 1
    assert f"error: no logs of 'intent' in any start; there are: control, up, ray, m, {RUN}\n" in unknown.stderr
    refused = logs(tmp_path, "--start", "7")
    assert (refused.returncode, "the logs of start 7 are not there; kept are those of 1 (" in refused.stderr) == (1, True)


def test_where_nothing_was_started_the_command_says_what_starts_it(tmp_path):
    done = logs(tmp_path)
    assert done.returncode == 1
    assert f"no logs in {tmp_path}/.baton/logs: the service was not started from this configuration" in done.stderr
    assert not (tmp_path / ".baton").exists()
    assert "RAY_ADDRESS has its logs on its nodes" in logs(tmp_path, RAY_ADDRESS="10.0.0.1:6379").stderr


@pytest.mark.parametrize("stops", [False, True])
def test_following_goes_on_until_ctrl_c_or_the_end_of_the_service(tmp_path, started, stops):
    command = [*COMMAND, "control", "--follow", "--lines", "0", "-c", str(tmp_path / "baton.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert "start 1" in following.stderr.readline()
        log = tmp_path / "session" / "serve" / "replica_control_Control_a.log"

        def added() -> bool:  # until the command has read what there was, a line may count as old
            with log.open("a") as file:
                file.write("INFO 2026-12-01 00:00:09,000 x y -- new\n")
            os.set_blocking(following.stdout.fileno(), False)
            return "control  INFO new" in (following.stdout.readline() or "")

        until(added, 30, "the new line")
        if stops:
            keep(started.directory)
        else:
            following.send_signal(signal.SIGINT)
        os.set_blocking(following.stdout.fileno(), True)
        _, err = following.communicate(timeout=60)
    assert (following.returncode, "Traceback" in err) == (0 if stops else 130, False)
    assert ("the service has stopped" in err) is stops


def test_a_pipe_that_closes_is_no_error(tmp_path, started):
    shell = f"{' '.join(COMMAND)} -c {tmp_path}/baton.yaml | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, "rror" in done.stderr) == (0, False)
