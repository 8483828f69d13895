"""The wheel has every file that the packages read, and works outside the clone. The test of the quickstart serves from it."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

from baton import installation
from tests.support.programs.wheel import build_wheel, install_wheel, tracked

PACKAGES = ("baton/", "services/", "training/")


def test_a_wheel_is_whole_and_runs_outside_the_clone(tmp_path: Path):
    wheel = build_wheel(tmp_path)
    assert wheel.name == f"baton_nlp-{installation.version()}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in tracked() if name.startswith(PACKAGES)}

    bin_directory = install_wheel(wheel, tmp_path / "venv")
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=home, env=variables, check=True, capture_output=True, text=True)
        return done.stdout

    where = run(str(bin_directory / "python"), "-c", "import baton, services, training; print(baton.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert run(str(bin_directory / "baton"), "--version") == f"baton {installation.version()}\n"
    (home / "rows.csv").write_text("text,label\n" + "".join(f"row {row} of it,{'ab'[row % 2]}\n" for row in range(40)))
    assert "20" in run(str(bin_directory / "baton"), "data", "rows.csv")
