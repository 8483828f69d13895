"""What remains of an instance on this machine after it stops: no files, no processes, no shared ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from services.host import cluster, processes


def test_temporary_files_of_a_killed_process_go_when_the_service_stops():
    instance = cluster.plan("http://127.0.0.1:8000", reserved=8000)
    code = "import os, signal, tempfile; print(tempfile.mkdtemp(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **cluster.environment(instance)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    processes.stop_all(instance)
    assert not left.exists()
    assert not Path(instance.directory).exists()


PLAN = """
import json, sys
from services.host import cluster, processes
instance = cluster.plan("http://127.0.0.1:8000", reserved=8000)
print(json.dumps(dict(instance.ports)), flush=True)
sys.stdin.read()
processes.stop_all(instance)
"""


def test_instances_that_start_at_once_plan_with_different_ports():
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", PLAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as one, start() as other:
        assert one.stdout is not None
        assert other.stdout is not None
        ports = [json.loads(process.stdout.readline()) for process in (one, other)]
    assert not set(ports[0].values()) & set(ports[1].values())


def test_a_command_that_inherited_an_instances_environment_stops_that_and_not_itself():
    instance = cluster.plan("http://127.0.0.1:8000", reserved=8000)
    code = (
        "import json, sys; from services.host import instance, processes\n"
        "print(processes.stop_all(instance.Instance(**json.loads(sys.argv[1]))), flush=True)"
    )
    environment = {**os.environ, **cluster.environment(instance)}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as other:
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(asdict(instance))],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
    assert other.returncode == -signal.SIGKILL
