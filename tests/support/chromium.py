"""Pages in a real Chromium, which asks nobody but the address that a test gives it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

FOUND = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(FOUND is None, reason="Chromium is not installed (apt-get install chromium)")


@dataclass
class Tab:
    """A page, what it asked for, and what went wrong in it."""

    page: Any
    """A `playwright.sync_api.Page`."""
    asked: list[str] = field(default_factory=list)
    """URLs of all requests."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings on the console, such as violations of the Content-Security-Policy, and uncaught exceptions."""


@contextmanager
def tab(**options: Any) -> Iterator[Tab]:
    """A tab of a new Chromium. ``options``: of `playwright.sync_api.Browser.new_context`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=FOUND, args=["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
        )
        try:
            opened = Tab(browser.new_context(**options).new_page())
            opened.page.on("request", lambda request: opened.asked.append(request.url))
            opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
            opened.page.on("console", lambda said: said.type in ("error", "warning") and opened.complaints.append(said.text))
            yield opened
        finally:
            browser.close()
