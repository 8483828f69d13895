"""The quickstart as its readers type it: each marked block of the page, in order, on a service of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import BATON, baton, environment
from tests.docs.markdown import ROOT, blocks, lacks
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs" / "quickstart.md"
DIALOGUE = [step for block in blocks(PAGE) if block.note == "run" for step in block.dialogue]
READING = re.compile(r"baton (live|status|versions|history) ")
"""Commands that may be repeated until they show what arrived a moment ago."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    shutil.copy(ROOT / "docs" / "quickstart" / "tickets.csv", tmp_path)
    yield tmp_path
    if (tmp_path / "baton.yaml").exists():
        baton("down", "-c", tmp_path / "baton.yaml")


def test_what_the_quickstart_shows_is_what_happens(home):
    port = str(free_port())
    variables = environment({"BATON_HTTP_PORT": port, "COLUMNS": "120"})
    variables["PATH"] = f"{BATON.parent}:{variables['PATH']}"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "-euo", "pipefail", "-c", command.replace("localhost:8000", f"localhost:{port}")]
        return subprocess.run(
            shell,
            env=variables,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )

    assert [command.split()[1] for command, _ in DIALOGUE if command.startswith("baton")] == [
        "data",
        "init",
        "config",
        "up",
        "train",
        "predict",
        "feedback",
        "live",
        "status",
        "down",
    ]
    for command, wanted in DIALOGUE:
        done = run(command)
        if READING.match(f"{command} ") and lacks(done.stdout, wanted):
            until(lambda: not lacks(run(command).stdout, wanted), 30, f"{command} shows {wanted}")  # noqa: B023
            continue
        assert done.returncode == 0, (command, done.stdout)
        missing = lacks(done.stdout, wanted)
        assert not missing, f"`{command}` did not print {missing!r}:\n{done.stdout}"
