"""Consoles that tests share: open, and with keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.config.file import AuthSettings
from tests.support.browsing import Browser
from tests.support.local_control import LocalControl, configured, control_of, decide, publish


@pytest.fixture
def control(tmp_path: Path) -> Iterator[LocalControl]:
    """Models ``m`` and ``other``: version 2 (90 % right) of ``m`` has taken over from 1, and 3 was refused."""
    control = control_of(configured(tmp_path, "m", "other"))
    for right in (60, 90, 50):
        publish(control.registry, "m", right)
        decision = decide(control.registry, "m", len(control.registry.versions.list("m")))
        if decision.verdict == "promote":
            control.registry.promote(decision, control.registry.champion("m"))
    yield control
    control.registry.close()


@pytest.fixture
def browser(control: LocalControl) -> Browser:
    """A visitor of a service without keys."""
    return Browser(control)


@pytest.fixture
def closed(control: LocalControl) -> LocalControl:
    """The same, where every call needs a key."""
    control.config = control.config.model_copy(update={"auth": AuthSettings(required=True)})
    control.keyring.required = True
    control.keyring.refresh()
    return control
