"""The quickstart as its readers type it: each marked block of the page, in order, on a service of its own.

Baton is installed from its wheel, outside the clone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import environment
from tests.docs.markdown import ROOT, blocks, lacks
from tests.support.programs.wheel import build_wheel, install_wheel
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs" / "quickstart.md"
DIALOGUE = [step for block in blocks(PAGE) if block.note == "run" for step in block.dialogue]
READING = re.compile(r"baton (live|status|versions|history) ")
"""Commands that may be repeated until they show what arrived a moment ago."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of the command `baton` that the wheel has installed."""
    return install_wheel(build_wheel(tmp_path), tmp_path / "venv")


@pytest.fixture
def home(installed: Path, tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "docs" / "quickstart" / "tickets.csv", home)
    yield home
    if (home / "baton.yaml").exists():
        subprocess.run([installed / "baton", "down", "-c", home / "baton.yaml"], env=environment(), check=False)


def test_what_the_quickstart_shows_is_what_happens(installed, home):
    port = str(free_port())
    variables = environment({"BATON_HTTP_PORT": port, "COLUMNS": "120"})
    variables["PATH"] = f"{installed}:{variables['PATH']}"
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        variables.pop(name, None)

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
    assert run("python -c 'import services; print(services.__file__)'").stdout.startswith(str(installed.parent))
    for command, wanted in DIALOGUE:
        done = run(command)
        if READING.match(f"{command} ") and lacks(done.stdout, wanted):
            until(lambda: not lacks(run(command).stdout, wanted), 30, f"{command} shows {wanted}")  # noqa: B023
            continue
        assert done.returncode == 0, (command, done.stdout)
        missing = lacks(done.stdout, wanted)
        assert not missing, f"`{command}` did not print {missing!r}:\n{done.stdout}"
