"""Files that a service of this machine leaves behind, and those that it must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from services import cluster


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
    cluster.sweep(instance)
    assert not left.exists()
    assert not Path(instance.directory).exists()
