"""The manual renders as a site without a warning: every page has its place, every link and heading a target."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.markdown import MANUAL, ROOT


def test_the_manual_renders_as_a_site(tmp_path):
    options = ["-W", "--keep-going", "-n", "-q", "-c", "docs", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path / "site")]
    rendering = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert rendering.returncode == 0, rendering.stderr
    pages = [(tmp_path / "site" / path.relative_to(ROOT)).with_suffix(".html") for path in MANUAL]
    assert [page for page in pages if not page.is_file()] == []
    navigation = (tmp_path / "site" / "docs" / "gate.html").read_text()
    assert 'href="adr/README.html"' in navigation, "the sidebar is that of the index"
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text()
