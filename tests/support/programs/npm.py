"""Packages from npm, which some tests run in Node or in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def npm_install(package: str, directory: Path) -> Path:
    """Install a package into ``directory``, and return it. Skip the test where that is not possible."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--silent", package]
    installed = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True, timeout=300)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install {package}: {installed.stdout}{installed.stderr}")
    return directory
