"""What an installation says about itself: its version, and how to add its optional parts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from baton.installation import DISTRIBUTION, install_command, version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_the_distribution_is_ours_and_its_version_is_that_of_the_project():
    assert PROJECT["name"] == DISTRIBUTION
    assert version() == PROJECT["version"]


@pytest.mark.parametrize("extra", ["offline", "postgres", "s3"])
def test_an_optional_part_is_added_by_the_names_of_its_packages(extra: str):
    command = install_command(extra)
    assert command.startswith("pip install '")
    assert re.findall(r"'([^']+)'", command) == PROJECT["optional-dependencies"][extra]


def test_nobody_is_told_to_install_a_package_that_is_somebody_elses():
    root = Path(__file__).parents[1]
    code = (path for room in ("baton", "services", "training") for path in root.glob(f"{room}/**/*.py"))
    wrong = re.compile(r"pip install ['\"]?baton(\W|$)", re.MULTILINE)
    for path in [*root.glob("*.md"), *root.glob("docs/*.md"), *code]:
        assert not wrong.search(path.read_text(encoding="utf-8")), path
